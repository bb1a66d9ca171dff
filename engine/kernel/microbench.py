"""What single steps cost on this machine: small scripts of calls, each run in fresh processes, timed round by round.

CPU time of the calling threads. A figure is one step's nanoseconds, a value a process; its median and quartiles are
what counts, as a shared machine has slow moments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernel.runner import Runner
from engine.kernel.scenario_pages import Ranges
from engine.kernel.script import Round, Script
from engine.model.arch import ARCHES, MIB, Arch
from engine.model.scenario import Scenario

SLOTS, WIDE = 256, 32
"""Tables of a thin script, and of a wide call."""
SIZES = (1, 4, 16, 64)
"""Full tables of a dense script: from what fits in a core's cache to what does not fit in any."""
FLUSHED = (1, 32, 40, 64, 128)
"""Pages of a call; x86 flushes the whole TLB from 34 on (tlb_single_page_flush_ceiling)."""
NOTHING: Ranges = np.zeros((0, 2), np.int64)
FIRST: Ranges = np.array([[0, 1]], np.int64)
"""The first page, in a slot that no call covers: the upper tables are there then."""

Step = tuple[Ranges, Ranges]
"""What a round installs, and its calls."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One step. values: float64[processes], ns each; `how` says what was timed and divided by what."""

    name: str
    how: str
    values: NDArray[np.float64]

    @property
    def ns(self) -> float:
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.values, [0.25, 0.75])
        return float(low), float(high)


class Bench:
    """Runs scripts on one machine and keeps the figures, in the order in which they are taken."""

    def __init__(self, runner: Runner, repeats: int, tell: Callable[[str], None] = lambda name: None) -> None:
        self._runner, self._repeats, self._tell = runner, repeats, tell
        self.arch: Arch = next(a for a in ARCHES if a.name == runner.machine.arch)
        self.figures: dict[str, Figure] = {}

    def measure(self) -> dict[str, Figure]:
        """All figures."""
        scripts = (self.thin, self.dense, self.flushes, self.marking, self.unmapping, self.bare, self.together)
        for script in scripts:
            self._tell(script.__name__)
            script()
        return self.figures

    def thin(self) -> None:
        """One page a table, and none: what calls, visits and tables cost."""
        e, s = self.arch.entries, SLOTS
        one, most, whole = self._in_slots(s, 1), self._in_slots(s, e - 1), self._in_slots(s, e)
        wide = self._in_slots(s // WIDE, e * WIDE, e * WIDE)
        times = self._times(
            [
                (one, one),
                (one, most),
                (NOTHING, one),
                (NOTHING, most),
                (NOTHING, whole),
                (one, whole),
                (one, wide),
                (one, one),
                (NOTHING, wide),
            ],
            s * e,
        )
        install, zap = times[:, :, 0], times[:, :, 1]
        self._add("install, table absent", "MADV_POPULATE_WRITE of one page, a new table each", install[:, 0] / s)
        self._add("install, table present", "the same in tables that are there", install[:, 1] / s)
        self._add("install, table reclaimed", "the same after a zap that freed the table", install[:, 5] / s)
        self._add("zap one page", "MADV_DONTNEED of one present page", zap[:, 0] / s)
        self._add("zap one page in a table less a page", "a call just too short to free the table", zap[:, 1] / s)
        self._add("zap one page in a table", "a call over the whole table", zap[:, 5] / s)
        self._add("zap one page in each of 32 tables", "one call over 32 tables, a table", zap[:, 6] / s)
        self._add("empty table, one entry", "a call over one entry of an empty table", zap[:, 2] / s)
        self._add("empty table, less an entry", "a call over all entries but one of an empty table", zap[:, 3] / s)
        self._add("empty table", "a call over the whole of an empty table", zap[:, 4] / s)
        self._add("32 empty tables", "one call over 32 empty tables, a table", zap[:, 8] / s)

    def dense(self) -> None:
        """Full tables: what a page costs, which hangs on how much was written before and is still in the caches."""
        e = self.arch.entries
        for tables in SIZES:
            most, whole, halves = (self._in_slots(tables, n) for n in (e - 1, e, e // 2))
            twice = np.concatenate([halves, halves + e // 2])
            twice = twice[np.argsort(twice[:, 0], kind="stable")]
            all_ = np.array([[0, tables * e]], np.int64)
            steps = [(most, most), (whole, whole), (whole, twice), (whole, all_)]
            install, zap = np.moveaxis(self._times(steps, tables * e), 2, 0)
            size = f"{tables * self.arch.span_bytes // MIB} MiB resident"
            self._add(f"zap a page, {size}", "calls one page short of a full table, a page", zap[:, 0] / len_of(most))
            self._add(f"zap a full table, {size}", "a call a table", zap[:, 1] / tables)
            self._add(f"zap a full table in halves, {size}", "two calls a table, a table", zap[:, 2] / tables)
            self._add(f"zap full tables at once, {size}", "one call over all tables, a table", zap[:, 3] / tables)
            self._add(
                f"install a page, {size}", "MADV_POPULATE_WRITE of full tables, a page", install[:, 1] / len_of(whole)
            )

    def flushes(self) -> None:
        """A few pages a call, all in the caches: around the number from which the whole TLB is flushed."""
        s, rounds = 4, 9
        steps = [(self._in_slots(s, n), self._in_slots(s, n)) for _ in range(rounds) for n in FLUSHED]
        zap = self._times(steps, s * self.arch.entries)[:, :, 1].reshape(self._repeats, rounds, len(FLUSHED))
        for at, n in enumerate(FLUSHED):
            self._add(
                f"zap {n} pages, hot", "one call over the first pages of a table", np.median(zap[:, :, at], axis=1) / s
            )

    def marking(self) -> None:
        """Full tables under MADV_FREE: just written, and again."""
        s = 16
        full, pages = self._in_slots(s, self.arch.entries), s * self.arch.entries
        times = self._times([(full, full), (NOTHING, full)], pages, advice="free")[:, :, 1] / pages
        self._add("MADV_FREE, a page", "MADV_FREE of full tables, just written, a page", times[:, 0])
        self._add("MADV_FREE again, a page", "the same once more, nothing written between", times[:, 1])

    def unmapping(self) -> None:
        """The same by munmap."""
        e, s = self.arch.entries, SLOTS
        one, whole = self._in_slots(s, 1), self._in_slots(s, e)
        full = self._in_slots(16, e)
        times = self._times([(one, whole)], s * e, unmap=True)[:, :, 1] / s
        self._add("munmap, one page", "munmap of a table with one page, a call", times[:, 0])
        times = self._times([(full, full)], 16 * e, unmap=True)[:, :, 1] / (16 * e)
        self._add("munmap, a page", "munmap of full tables, a page", times[:, 0])

    def bare(self) -> None:
        """Slots without a table: in a VMA that nobody ever touched, then below upper tables."""
        e, s = self.arch.entries, SLOTS
        absent, wide = self._in_slots(s, e) + e, self._in_slots(s // WIDE, e * WIDE, e * WIDE) + e
        steps = [(NOTHING, absent)] * 3 + [(FIRST, absent)] * 3 + [(FIRST, wide)] * 3
        zap = self._times(steps, (s + 1) * e)[:, :, 1].reshape(self._repeats, 3, 3)[:, :, 1:].min(axis=2) / s
        self._add("call over nothing", "a call over a slot where there is no table at all", zap[:, 0])
        self._add("absent table", "a call over a slot without a table, below upper tables", zap[:, 1])
        self._add("32 absent tables", "one call over 32 such slots, a slot", zap[:, 2])

    def together(self) -> None:
        """Threads at the same time, each on a CPU of its own."""
        e, s, cpus = self.arch.entries, SLOTS, self._runner.machine.cpus
        one, absent = self._in_slots(s, 1) + e, self._in_slots(s, e) + e
        for threads in [n for n in (1, 2, 4, 8) if n <= cpus]:
            steps = [(FIRST, absent)] * 3 + [(one, one)] * 3
            zap = self._times(steps, (s + 1) * e, threads=threads)[:, :, 1].reshape(self._repeats, 2, 3) / s
            by = f"{threads} thread{'s' * (threads > 1)}"
            how = ("a call over a slot without a table", "MADV_DONTNEED of one present page")
            for at, name in enumerate(("absent table", "zap one page")):
                self._add(f"{name}, {by}", f"{how[at]}, CPU time a call", np.median(zap[:, at, 1:], axis=1))

    def _add(self, name: str, how: str, values: NDArray[np.float64]) -> None:
        self.figures[name] = Figure(name, how, values)

    def _in_slots(self, slots: int, pages: int, step: int = 0) -> Ranges:
        """The first so many pages of each slot."""
        start = np.arange(slots, dtype=np.int64) * (step or self.arch.entries)
        return np.stack([start, start + pages], axis=1)

    def _times(
        self, steps: Sequence[Step], pages: int, *, threads: int = 1, unmap: bool = False, advice: str = "dontneed"
    ) -> NDArray[np.float64]:
        """float64[repeats, steps, 2]: ns of each round's installs and calls, a fresh process a repeat."""
        arch = self.arch
        scenario = Scenario(virt=pages * arch.page_bytes, sparsity=1, arch=arch.name, threads=threads, advice=advice)
        rounds = []
        for installs, calls in steps:
            offsets = np.array([len(calls) * t // threads for t in range(threads + 1)], np.int64)
            rounds.append(Round(NOTHING, installs, calls, offsets))
        script = Script(scenario, unmap, NOTHING, tuple(rounds))
        return np.stack([self._runner.perform(script).times_ns for _ in range(self._repeats)]).astype(np.float64)


def len_of(ranges: Ranges) -> int:
    """Pages."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())
