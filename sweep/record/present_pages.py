"""Which pages of an address space are present, and which of them were not when it was last looked at."""

import platform
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from engine.traces.page_tables import PAGE, SLOT
from engine.traces.ranges import Ranges
from sweep.process.pagemap import FILE, GUARD, HUGE, PFNZERO, SWAPPED, PageMap, PageRuns
from sweep.process.proc import read_mappings
from sweep.trace_readers.recording_rows import SEEN_READ, SEEN_WRITTEN

END = (1 << (48 if platform.machine() == "aarch64" else 47)) - PAGE
"""End of what a process can map with four levels of tables."""
Runs = list[tuple[int, int]]
"""Runs of pages [start, end) in bytes, by address."""


class KnownRuns:
    """The runs of pages that are known to be present."""

    def __init__(self) -> None:
        self._runs: Runs = []

    def copy(self) -> "KnownRuns":
        other = KnownRuns()
        other._runs = list(self._runs)
        return other

    def replace(self, start: int, end: int, found: Runs) -> Runs:
        """Replace what is known of [start, end) by `found`. Returns the parts of `found` that were not known."""
        known = self._cut(start, end)
        place = bisect_left(self._runs, (start, start))
        self._runs[place:place] = found
        if not known:
            return found
        if known == found:
            return []
        same = set(known)
        return list(_without([run for run in found if run not in same], known))

    def _cut(self, start: int, end: int) -> Runs:
        """Remove [start, end) and return what was known of it."""
        runs = self._runs
        first = bisect_left(runs, (start, start))
        if first and runs[first - 1][1] > start:
            first -= 1
        last = bisect_left(runs, (end, end))
        known = runs[first:last]
        if known:
            (low, _), (_, high) = known[0], known[-1]
            rest = [(low, start)] if low < start else []
            rest += [(end, high)] if high > end else []
            runs[first:last] = rest
            known[0] = (max(low, start), known[0][1])
            known[-1] = (known[-1][0], min(high, end))
        return known


def _without(runs: Runs, known: Runs) -> Iterator[tuple[int, int]]:
    """Yield the parts of `runs` that are not in `known`."""
    place = 0
    for low, high in runs:
        while place < len(known) and known[place][1] <= low:
            place += 1
        at = place
        while at < len(known) and known[at][0] < high:
            if low < known[at][0]:
                yield low, known[at][0]
            low = known[at][1]
            at += 1
        if low < high:
            yield low, high


class PresentPages:
    """The pages of a process that are known to be present, by the code of their rows (recording_rows)."""

    def __init__(self, pid: int) -> None:
        """Raises OSError."""
        self._pid = pid
        self._map = PageMap(pid)
        list(self._map.runs(0, PAGE))  # so that `has_scan` is known
        self._known = {SEEN_WRITTEN: KnownRuns(), SEEN_READ: KnownRuns()}
        self.without_tables = Ranges()  #: mappings of hugetlb
        self.guarded: Runs = []  #: guard markers where it was looked last

    def inherit(self, parent: "PresentPages") -> None:
        """Take over the known pages of the process that this one was forked from."""
        self._known = {code: known.copy() for code, known in parent._known.items()}
        self.without_tables = parent.without_tables.copy()

    def close(self) -> None:
        self._map.close()

    def new_in(self, start: int, end: int) -> dict[str, Runs]:
        """Return the pages present in the slots of [start, end) that were not known, by code of a row. Raises OSError.

        Guard markers, and huge pages of files and of hugetlb, which have no PTE tables, are left out.
        """
        start, end = start // SLOT * SLOT, min(-(-end // SLOT) * SLOT, END)
        found: dict[str, Runs] = {code: [] for code in self._known}
        self.guarded = []
        for batch in self._batches(start, end):
            kind = batch.kind
            self.guarded += _chosen(batch, kind & GUARD != 0)
            has_table = (kind & GUARD == 0) & ((kind & HUGE == 0) | (kind & FILE == 0))
            is_read = kind & (FILE | PFNZERO | SWAPPED) != 0
            for code, chosen in ((SEEN_READ, is_read & has_table), (SEEN_WRITTEN, ~is_read & has_table)):
                found[code] += _chosen(batch, chosen)
        if self.without_tables:
            found = {code: [run for run in runs if not self.without_tables.meets(*run)] for code, runs in found.items()}
        return {code: new for code, known in self._known.items() if (new := known.replace(start, end, found[code]))}

    def forget(self, start: int, end: int) -> None:
        """Forget the pages of [start, end), which were given back or moved."""
        for known in self._known.values():
            known.replace(start, end, [])

    def _batches(self, start: int, end: int) -> Iterator[PageRuns]:
        """Yield the entries of [start, end) that are not none, in batches by address.

        PAGEMAP_SCAN skips what is not mapped. Without it only the mappings are read.
        """
        if self._map.has_scan:
            if start < end:
                yield from self._map.runs(start, end)
            return
        for mapping in read_mappings(self._pid):
            low, high = max(start, mapping.start), min(end, mapping.end)
            if low < high:
                yield from self._map.runs(low, high)


def _chosen(batch: PageRuns, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    return zip(batch.start[chosen].tolist(), batch.end[chosen].tolist(), strict=True)
