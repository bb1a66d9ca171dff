"""What a program asks for when it gives memory back: calls by size, and which of them cover whole slots."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.model.arch import KIB, MIB
from engine.traces.address_space import BY_SLOT, CLASS_OF, NONE
from engine.traces.page_tables import SLOT
from engine.traces.vmas import Piece

PURGES = ("dontneed", "free")
KINDS = (*PURGES, "munmap")
SIZES = (
    ("<=4KiB", 4 * KIB),
    ("<=64KiB", 64 * KIB),
    ("<=512KiB", 512 * KIB),
    ("<2MiB", 2 * MIB - 1),
    ("<4MiB", 4 * MIB - 1),
    ("<32MiB", 32 * MIB - 1),
)
LARGER = ">=32MiB"
_NAMES, _MOST = (*(name for name, _ in SIZES), LARGER), [most for _, most in SIZES]
STACKS = "pthread stacks"
STACK_BYTES = 8_368_128
"""What glibc 2.36 gives back of an 8 MiB stack when its thread ends (nptl/allocatestack.c, advise_stack_range)."""


@dataclass(slots=True)
class CallCounts:
    """Calls of one kind and size. `whole_calls` cover at least one whole slot, `whole_bytes` are all bytes of these."""

    calls: int = 0
    bytes: int = 0
    whole_calls: int = 0
    whole_bytes: int = 0
    whole_slots: int = 0

    def add(self, pieces: Iterable[Piece]) -> None:
        """One call, clipped to the VMAs that it meets."""
        size = slots = 0
        for _, lo, hi in pieces:
            size += hi - lo
            slots += max(0, hi // SLOT - -(-lo // SLOT))
        self.calls += 1
        self.bytes += size
        self.whole_slots += slots
        if slots:
            self.whole_calls += 1
            self.whole_bytes += size

    def plus(self, other: "CallCounts") -> "CallCounts":
        return CallCounts(
            self.calls + other.calls,
            self.bytes + other.bytes,
            self.whole_calls + other.whole_calls,
            self.whole_bytes + other.whole_bytes,
            self.whole_slots + other.whole_slots,
        )


class CallHistogram:
    """Tallies by kind of call and size; what a thread's end gives back of its stack stands apart."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], CallCounts] = {}

    def add(self, kind: str, length: int, pieces: Iterable[Piece], *, stack: bool = False) -> None:
        size = STACKS if stack else _NAMES[bisect_left(_MOST, length)]
        tally = self._tallies.get((kind, size))
        if tally is None:
            tally = self._tallies[kind, size] = CallCounts()
        tally.add(pieces)

    def by_size(self) -> Iterator[tuple[str, str, CallCounts]]:
        """(kind, size, tally) of what there is, kinds and sizes in order."""
        for kind in KINDS:
            for size in (*(name for name, _ in SIZES), LARGER, STACKS):
                if (kind, size) in self._tallies:
                    yield kind, size, self._tallies[kind, size]

    def purge_totals(self) -> CallCounts:
        """All purges but those of stacks."""
        return self._sum(PURGES)

    @property
    def purge_calls(self) -> int:
        """Stacks too."""
        return sum(tally.calls for kind, _, tally in self.by_size() if kind in PURGES)

    def acting_calls(self, policy: str) -> tuple[int, int, int]:
        """Calls after which the policy may free a table, for all that they say themselves; their bytes; those reached.

        Of a call over a whole slot and parts of its neighbours the whole-slot rules reach the slot alone. refcount and
        async look at tables whatever the call's size, but MADV_FREE empties none; munmap unmaps all.
        """
        if policy == "munmap":
            return self.purge_totals().calls, self.purge_totals().bytes, self.purge_totals().bytes
        dontneed, kept_as = self._sum(("dontneed",)), CLASS_OF[policy]
        if kept_as == BY_SLOT:
            return dontneed.whole_calls, dontneed.whole_bytes, dontneed.whole_slots * SLOT
        return (0, 0, 0) if kept_as == NONE else (dontneed.calls, dontneed.bytes, dontneed.bytes)

    def _sum(self, kinds: tuple[str, ...]) -> CallCounts:
        total = CallCounts()
        for kind, size, tally in self.by_size():
            if kind in kinds and size != STACKS:
                total = total.plus(tally)
        return total
