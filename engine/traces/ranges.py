"""A set of addresses, stored as disjoint ranges [start, end). Adjacent ranges are joined."""

from bisect import bisect_left, bisect_right


class Ranges:
    """A set of addresses. Memory use is proportional to the number of ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add [start, end). Does nothing if it is empty."""
        if start >= end:
            return
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def subtract(self, start: int, end: int) -> None:
        """Remove [start, end). Does nothing if it is empty."""
        if start >= end:
            return
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return
        remaining = [(self._starts[first], start), (end, self._ends[last - 1])]
        remaining = [(lo, hi) for lo, hi in remaining if lo < hi]
        self._starts[first:last] = [lo for lo, _ in remaining]
        self._ends[first:last] = [hi for _, hi in remaining]

    def meets(self, start: int, end: int) -> bool:
        """Whether any address of [start, end) is in the set."""
        i = bisect_right(self._ends, start)
        return i < len(self._starts) and self._starts[i] < end

    def covers(self, start: int, end: int) -> bool:
        """Whether every address of [start, end), which must not be empty, is in the set."""
        i = bisect_right(self._starts, start) - 1
        return i >= 0 and self._ends[i] >= end

    def rest_of(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges of [start, end) that are not in the set."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        edges = [start, *(edge for i in range(first, last) for edge in (self._starts[i], self._ends[i])), end]
        return [(lo, hi) for lo, hi in zip(edges[::2], edges[1::2], strict=True) if lo < hi]

    def copy(self) -> "Ranges":
        """Return a copy."""
        other = Ranges()
        other._starts, other._ends = list(self._starts), list(self._ends)
        return other
