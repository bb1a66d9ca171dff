"""A set of addresses as disjoint ranges [start, end), neighbours joined."""

from bisect import bisect_left, bisect_right


class Ranges:
    """Add, subtract, and ask whether a range is covered. Memory grows with the number of ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def subtract(self, start: int, end: int) -> None:
        if start >= end:
            return
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return
        kept = [(self._starts[first], start), (end, self._ends[last - 1])]
        kept = [(lo, hi) for lo, hi in kept if lo < hi]
        self._starts[first:last] = [lo for lo, _ in kept]
        self._ends[first:last] = [hi for _, hi in kept]

    def covers(self, start: int, end: int) -> bool:
        i = bisect_right(self._starts, start) - 1
        return i >= 0 and self._ends[i] >= end
