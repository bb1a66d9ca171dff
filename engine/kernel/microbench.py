"""Measures what single steps cost on this machine, with scripts of calls that run in new processes.

Times are CPU time of the calling threads. Each process gives one value per step. Use medians and quartiles: a shared
machine has slow moments.
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
"""Slots of a script; slots of a wide call."""
FULL_TABLES = (1, 4, 16, 64)
"""Numbers of full tables: their pages fit in a core's first cache, or in no cache at all."""
PAGES_PER_CALL = (1, 32, 40, 64, 128)
"""x86 flushes the whole TLB from 34 pages on (tlb_single_page_flush_ceiling)."""
NO_RANGES: Ranges = np.zeros((0, 2), np.int64)
FIRST_PAGE: Ranges = np.array([[0, 1]], np.int64)
"""In a slot that no call covers. Installing it allocates the upper tables."""

Step = tuple[Ranges, Ranges]
"""The installs and the calls of a round."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The cost of one step. values: float64[processes], ns; `how`: what was timed and by what it was divided."""

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
    """Runs scripts, each in `repeats` processes. figures: by name, in the order in which they are measured.

    `on_script` is called with the name of each script before it runs.
    """

    def __init__(self, runner: Runner, repeats: int, on_script: Callable[[str], None] = lambda name: None) -> None:
        self._runner, self._repeats, self._on_script = runner, repeats, on_script
        self.arch: Arch = next(a for a in ARCHES if a.name == runner.machine.arch)
        self.figures: dict[str, Figure] = {}

    def measure(self) -> dict[str, Figure]:
        """Run all scripts. Returns the figures by name."""
        scripts = {
            "tables with one page": self.sparse_tables,
            "full tables": self.full_tables,
            "TLB flushes": self.tlb_flushes,
            "MADV_FREE": self.madvise_free,
            "munmap": self.munmap,
            "slots without tables": self.absent_tables,
            "several threads": self.several_threads,
        }
        for name, script in scripts.items():
            self._on_script(name)
            script()
        return self.figures

    def sparse_tables(self) -> None:
        """Tables with one page or none: the costs of calls, visits and tables."""
        entries, slots = self.arch.entries, SLOTS
        one, most, whole = (
            self._first_pages(slots, 1),
            self._first_pages(slots, entries - 1),
            self._first_pages(slots, entries),
        )
        wide = self._first_pages(slots // WIDE, entries * WIDE, entries * WIDE)
        times = self._times(
            [
                (one, one),
                (one, most),
                (NO_RANGES, one),
                (NO_RANGES, most),
                (NO_RANGES, whole),
                (one, whole),
                (one, wide),
                (one, one),
                (NO_RANGES, wide),
            ],
            slots * entries,
        )
        install, zap = times[:, :, 0], times[:, :, 1]
        self._record(
            "install, table absent", "MADV_POPULATE_WRITE of one page in a slot without a table", install[:, 0] / slots
        )
        self._record(
            "install, table present", "MADV_POPULATE_WRITE of one page in an existing table", install[:, 1] / slots
        )
        self._record(
            "install, table reclaimed",
            "MADV_POPULATE_WRITE of one page after a zap that freed the table",
            install[:, 5] / slots,
        )
        self._record("zap one page", "MADV_DONTNEED of one present page", zap[:, 0] / slots)
        self._record(
            "zap one page in a table less a page", "a call just too short to free the table", zap[:, 1] / slots
        )
        self._record("zap one page in a table", "a call over the whole table", zap[:, 5] / slots)
        self._record("zap one page in each of 32 tables", "one call over 32 tables, per table", zap[:, 6] / slots)
        self._record("empty table, one entry", "a call over one entry of an empty table", zap[:, 2] / slots)
        self._record(
            "empty table, less an entry", "a call over all entries but one of an empty table", zap[:, 3] / slots
        )
        self._record("empty table", "a call over the whole of an empty table", zap[:, 4] / slots)
        self._record("32 empty tables", "one call over 32 empty tables, per table", zap[:, 8] / slots)

    def full_tables(self) -> None:
        """The cost of a page, which depends on how much was written before and is still in the caches."""
        entries = self.arch.entries
        for tables in FULL_TABLES:
            most, whole, halves = (self._first_pages(tables, n) for n in (entries - 1, entries, entries // 2))
            twice = np.concatenate([halves, halves + entries // 2])
            twice = twice[np.argsort(twice[:, 0], kind="stable")]
            all_tables = np.array([[0, tables * entries]], np.int64)
            steps = [(most, most), (whole, whole), (whole, twice), (whole, all_tables)]
            install, zap = np.moveaxis(self._times(steps, tables * entries), 2, 0)
            size = f"{tables * self.arch.span_bytes // MIB} MiB resident"
            self._record(
                f"zap a page, {size}", "calls one page short of a full table, per page", zap[:, 0] / count_pages(most)
            )
            self._record(f"zap a full table, {size}", "one call per table", zap[:, 1] / tables)
            self._record(f"zap a full table in halves, {size}", "two calls per table, per table", zap[:, 2] / tables)
            self._record(f"zap full tables at once, {size}", "one call over all tables, per table", zap[:, 3] / tables)
            self._record(
                f"install a page, {size}",
                "MADV_POPULATE_WRITE of full tables, per page",
                install[:, 1] / count_pages(whole),
            )

    def tlb_flushes(self) -> None:
        """Calls over PAGES_PER_CALL pages, all of them in the caches."""
        slots, rounds = 4, 9
        steps = [
            (self._first_pages(slots, n), self._first_pages(slots, n)) for _ in range(rounds) for n in PAGES_PER_CALL
        ]
        zap = self._times(steps, slots * self.arch.entries)[:, :, 1].reshape(self._repeats, rounds, len(PAGES_PER_CALL))
        for at, n in enumerate(PAGES_PER_CALL):
            self._record(
                f"zap {n} pages, hot",
                "one call over the first pages of a table",
                np.median(zap[:, :, at], axis=1) / slots,
            )

    def madvise_free(self) -> None:
        """MADV_FREE of full tables: just written, and a second time."""
        slots = 16
        full, pages = self._first_pages(slots, self.arch.entries), slots * self.arch.entries
        times = self._times([(full, full), (NO_RANGES, full)], pages, advice="free")[:, :, 1] / pages
        self._record("MADV_FREE, a page", "MADV_FREE of full tables that were just written, per page", times[:, 0])
        self._record(
            "MADV_FREE again, a page", "a second MADV_FREE without a write since the first, per page", times[:, 1]
        )

    def munmap(self) -> None:
        """munmap of tables with one page, and of full tables."""
        entries, slots = self.arch.entries, SLOTS
        one, whole = self._first_pages(slots, 1), self._first_pages(slots, entries)
        full = self._first_pages(16, entries)
        times = self._times([(one, whole)], slots * entries, unmap=True)[:, :, 1] / slots
        self._record("munmap, one page", "munmap of a table with one page, per call", times[:, 0])
        times = self._times([(full, full)], 16 * entries, unmap=True)[:, :, 1] / (16 * entries)
        self._record("munmap, a page", "munmap of full tables, per page", times[:, 0])

    def absent_tables(self) -> None:
        """Calls over slots without a table: in an untouched VMA, and below upper tables."""
        entries, slots = self.arch.entries, SLOTS
        absent = self._first_pages(slots, entries) + entries
        wide = self._first_pages(slots // WIDE, entries * WIDE, entries * WIDE) + entries
        steps = [(NO_RANGES, absent)] * 3 + [(FIRST_PAGE, absent)] * 3 + [(FIRST_PAGE, wide)] * 3
        zap = (
            self._times(steps, (slots + 1) * entries)[:, :, 1].reshape(self._repeats, 3, 3)[:, :, 1:].min(axis=2)
            / slots
        )
        self._record("call over nothing", "a call over a slot without PTE table and upper tables", zap[:, 0])
        self._record("absent table", "a call over a slot without a table, below upper tables", zap[:, 1])
        self._record(
            "32 absent tables", "one call over 32 slots without tables, below upper tables, per slot", zap[:, 2]
        )

    def several_threads(self) -> None:
        """Threads that zap at the same time, each on its own CPU."""
        entries, slots, cpus = self.arch.entries, SLOTS, self._runner.machine.cpus
        one, absent = self._first_pages(slots, 1) + entries, self._first_pages(slots, entries) + entries
        for threads in [n for n in (1, 2, 4, 8) if n <= cpus]:
            steps = [(FIRST_PAGE, absent)] * 3 + [(one, one)] * 3
            zap = (
                self._times(steps, (slots + 1) * entries, threads=threads)[:, :, 1].reshape(self._repeats, 2, 3) / slots
            )
            by = f"{threads} thread{'s' * (threads > 1)}"
            how = ("a call over a slot without a table", "MADV_DONTNEED of one present page")
            for at, name in enumerate(("absent table", "zap one page")):
                self._record(f"{name}, {by}", f"{how[at]}, CPU time per call", np.median(zap[:, at, 1:], axis=1))

    def _record(self, name: str, how: str, values: NDArray[np.float64]) -> None:
        self.figures[name] = Figure(name, how, values)

    def _first_pages(self, slots: int, pages: int, step: int = 0) -> Ranges:
        """The first `pages` pages of each of `slots` slots, `step` pages apart (0: the next slot)."""
        start = np.arange(slots, dtype=np.int64) * (step or self.arch.entries)
        return np.stack([start, start + pages], axis=1)

    def _times(
        self, steps: Sequence[Step], pages: int, *, threads: int = 1, unmap: bool = False, advice: str = "dontneed"
    ) -> NDArray[np.float64]:
        """float64[repeats, steps, 2]: ns of each round's installs and of its calls, a new process per repeat.

        steps: a round each; pages: size of the VMA
        """
        arch = self.arch
        scenario = Scenario(virt=pages * arch.page_bytes, sparsity=1, arch=arch.name, threads=threads, advice=advice)
        rounds = []
        for installs, calls in steps:
            offsets = np.array([len(calls) * t // threads for t in range(threads + 1)], np.int64)
            rounds.append(Round(NO_RANGES, installs, calls, offsets))
        script = Script(scenario, unmap, NO_RANGES, tuple(rounds))
        return np.stack([self._runner.run_script(script).times_ns for _ in range(self._repeats)]).astype(np.float64)


def count_pages(ranges: Ranges) -> int:
    """Number of pages in ranges that do not overlap."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())
