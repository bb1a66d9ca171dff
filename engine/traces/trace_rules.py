"""What a policy's rule does in a trace, where no page is touched again during a call and locks do not matter."""

from dataclasses import dataclass

from engine.model.policy import SLOT as WHOLE_SLOT
from engine.model.policy import Policy
from engine.traces.geometry import X86, Geometry

STACK_BATCH_PAGES = 8
"""Places for pages in a gather's first batch (docs/method.md, section 4)."""


@dataclass(frozen=True, slots=True)
class TraceRule:
    """When an empty table is freed. Policies with equal rules keep the same tables.

    when: never; zap: after a piece of MADV_DONTNEED; scan: every few operations; unmap: a zap unmaps its range
    least: of `zap`, the smallest piece in bytes
    counts: of `zap`, whether a counter also sees that munmap or the removal of guard markers empties a table
    kept_after: of `zap`, the breaks of a gather after which a table stays
    every: of `scan`, how many times the replay's interval between scans
    """

    when: str
    least: int = 0
    counts: bool = False
    kept_after: tuple[str, ...] = ()
    every: int = 1


def trace_rule(policy: Policy, geometry: Geometry = X86) -> TraceRule:
    """Return the part of a policy that decides which tables are freed when a recording is replayed.

    `markers` is left out because a guard marker is an entry, so its table is not empty; `lock` because locks do not
    matter in a replay. Of `otherwise`, only `keep` makes a difference: the others find out whether the table is empty.
    """
    if policy.when in ("never", "unmap"):
        return TraceRule(policy.when)
    if policy.when == "round":
        return TraceRule("scan", every=policy.every)
    page, slot = geometry.page, geometry.slot
    least = slot if policy.least == WHOLE_SLOT else -(-int(policy.least) // page) * page
    if policy.proof == "held" and policy.otherwise == "keep":
        kept_after = ("mid", "end") if policy.end_break == "drop" else ("mid",)
        return TraceRule("zap", max(least, slot), kept_after=kept_after)
    return TraceRule("zap", least, counts=policy.proof == "count" and policy.when == "visit")


class GatherBatches:
    """How far the page batches of one call's mmu_gather are filled."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._used = self._batch = 0

    def add(self, present: int, folio: int) -> str:
        """Put a piece's present entries into the gather. Returns the force break: `mid`, `end`, or "" for none.

        present: the entries, as bits; folio: those that one huge page maps. A run of these takes two places.
        """
        broke = ""
        for end, places in _runs(present, folio):
            self._used += places
            if self._used >= (self._geometry.arch.gather_batch_pages if self._batch else STACK_BATCH_PAGES) - 1:
                self._used, self._batch = 0, self._batch + 1
                if self._batch > self._geometry.arch.gather_batches:
                    self._batch = 0
                    broke = "end" if end == self._geometry.entries else "mid"
        return broke

    def add_huge_page(self) -> None:
        """Put a huge page into the gather: one place. If it is full, it is flushed, but no PTE lock is dropped."""
        self.add(1, 0)


def _runs(present: int, folio: int) -> list[tuple[int, int]]:
    """(entry after it, places in a batch) of each run of entries, as do_zap_pte_range takes them."""
    runs, at = [], 0
    while present >> at:
        at += (present >> at & -(present >> at)).bit_length() - 1
        rest = (present & folio) >> at
        length = (~rest & rest + 1).bit_length() - 1 or 1
        at += length
        runs.append((at, min(length, 2)))
    return runs
