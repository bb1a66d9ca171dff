"""The VMAs of one address space, which merge and split as Linux 6.18 does it (mm/vma.c, mm/mprotect.c).

Only whole slots inside one VMA lose their table (docs/method.md), so where a VMA ends decides what a zap can free.
Addresses and lengths are bytes, on page boundaries.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from engine.traces.page_tables import TraceError

READ, WRITE = 1, 2
ANONYMOUS = 0
"""The backing of private anonymous memory; every file mapping has a number of its own and merges with nothing."""
UNSEEN = -1
"""The anon_vma of memory whose mmap is not in the trace: as if one call had mapped all of it."""
MAX_VMAS = 1 << 20
"""vm.max_map_count is 65,530 as shipped; servers that map much raise it."""


@dataclass(slots=True)
class Vma:
    """[start, end). `anon` numbers its anon_vma, 0 for none yet; `account` is VM_ACCOUNT."""

    start: int
    end: int
    rights: int
    backing: int = ANONYMOUS
    account: bool = True
    anon: int = 0

    def alike(self, other: "Vma") -> bool:
        """is_mergeable_vma: equal flags and backing. Addresses are not looked at."""
        return (
            self.backing == other.backing == ANONYMOUS and self.rights == other.rights and self.account == other.account
        )


Piece: TypeAlias = tuple[Vma, int, int]
"""A range [start, end) within a VMA."""


class Vmas:
    """VMAs by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []
        self._anon_vmas = 0

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """Those with an address in [start, end), as a list that later changes leave alone."""
        return self._vmas[self._first(start) : bisect_left(self._starts, end)]

    def pieces(self, start: int, end: int) -> list[Piece]:
        """[start, end) clipped to each VMA."""
        if start >= end:
            return []
        i = bisect_right(self._starts, start)
        if i and self._vmas[i - 1].end >= end:  # all in one, as nearly always
            return [(self._vmas[i - 1], start, end)]
        return [(vma, max(start, vma.start), min(end, vma.end)) for vma in self.overlapping(start, end)]

    def any_in(self, start: int, end: int) -> bool:
        i = self._first(start)
        return i < len(self._vmas) and self._starts[i] < end

    def holding(self, address: int) -> Vma | None:
        i = self._first(address)
        return self._vmas[i] if i < len(self._vmas) and self._starts[i] <= address else None

    def mmap(self, start: int, end: int, rights: int, backing: int = ANONYMOUS, anon: int = 0) -> None:
        """Map [start, end), which must be free, and merge with the neighbours (vma_merge_new_range)."""
        # accountable_mapping(): private and writable. A file mapping's flag decides nothing here.
        new = Vma(start, end, rights, backing, account=bool(rights & WRITE), anon=anon)
        i = bisect_left(self._starts, start)
        before = self._vmas[i - 1] if i else None
        after = self._vmas[i] if i < len(self._vmas) else None
        if not self._merge(before, new, after, inserted=False):
            self._insert(i, new)

    def munmap(self, start: int, end: int) -> list[Piece]:
        """Unmap [start, end), splitting what straddles it; what was mapped."""
        first = self._first(start)
        if first < len(self._vmas) and self._starts[first] < start:
            self._split(first, start)
            first += 1
        last = bisect_left(self._starts, end)
        if last > first and self._vmas[last - 1].end > end:
            self._split(last - 1, end)
        gone = [(vma, vma.start, vma.end) for vma in self._vmas[first:last]]
        del self._vmas[first:last], self._starts[first:last]
        return gone

    def mprotect(self, start: int, end: int, rights: int) -> None:
        """Set the rights up to the first hole (do_mprotect_pkey), VMA by VMA."""
        at = start
        while at < end:
            vma = self.holding(at)
            if vma is None:
                return
            stop = min(vma.end, end)
            if vma.rights != rights:
                stop = max(stop, self._protect(vma, at, stop, rights))
            at = stop

    def prepare_anon(self, vma: Vma) -> None:
        """__anon_vma_prepare: before its first page a VMA takes a neighbour's anon_vma, or a new one."""
        if vma.anon:
            return
        i = bisect_left(self._starts, vma.start)
        after = self._vmas[i + 1] if i + 1 < len(self._vmas) else None
        before = self._vmas[i - 1] if i else None
        if after is not None and after.anon and after.start == vma.end and _could_share(vma, after):
            vma.anon = after.anon
        elif before is not None and before.anon and before.end == vma.start and _could_share(before, vma):
            vma.anon = before.anon
        else:
            self._anon_vmas += 1
            vma.anon = self._anon_vmas

    def _protect(self, vma: Vma, start: int, end: int, rights: int) -> int:
        """mprotect_fixup of [start, end) within one VMA; where the VMA that now holds it ends."""
        changed = Vma(start, end, rights, vma.backing, vma.account, vma.anon)
        if rights & WRITE:
            changed.account = True
        elif vma.account and vma.backing == ANONYMOUS and not vma.anon:
            changed.account = False  # nothing was written yet, so its commit can be given back
        i = bisect_left(self._starts, vma.start)
        before = self._vmas[i - 1] if i and start == vma.start else None
        after = self._vmas[i + 1] if i + 1 < len(self._vmas) and end == vma.end else None
        if before is not None or after is not None:
            # vma_merge_existing_range: the neighbours take [start, end), what is left of the VMA shrinks or goes.
            stop = self._merge(before, changed, after, inserted=True)
            if stop:
                return stop
        if vma.end > end:
            self._split(i, end)
        if vma.start < start:
            self._split(i, start)
            i += 1
        held = self._vmas[i]
        held.rights, held.account = changed.rights, changed.account
        return held.end

    def _merge(self, before: Vma | None, new: Vma, after: Vma | None, *, inserted: bool) -> int:
        """Let the neighbours take `new`'s range where the kernel would; the end of what took it, or 0.

        `inserted`: the range is part of a VMA in the list, at its left or right side or all of it.
        """
        left = before is not None and before.end == new.start and _mergeable(before, new)
        right = after is not None and new.end == after.start and _mergeable(after, new)
        if left and right:
            assert before is not None
            assert after is not None
            # can_vma_merge_right: that both go with the middle does not mean that they go with each other.
            right = not before.anon or not after.anon or before.anon == after.anon
        if not left and not right:
            return 0
        if inserted:
            self._cut_out(new.start, new.end)
        if left:
            assert before is not None
            before.end = new.end
            before.anon = before.anon or new.anon
            if right:
                assert after is not None
                before.end = after.end
                before.anon = before.anon or after.anon
                self._remove(after)
            return before.end
        assert after is not None
        self._move_start(after, new.start)
        after.anon = after.anon or new.anon
        return after.end

    def _cut_out(self, start: int, end: int) -> None:
        """Take [start, end), a side or all of one VMA, out of it."""
        i = self._first(start)
        vma = self._vmas[i]
        if vma.start == start and vma.end == end:
            self._remove(vma)
        elif vma.start == start:
            self._move_start(vma, end)
        else:
            vma.end = start

    def _first(self, address: int) -> int:
        """Index of the first VMA that ends above the address."""
        i = bisect_right(self._starts, address)
        return i - 1 if i and self._vmas[i - 1].end > address else i

    def _split(self, i: int, at: int) -> None:
        vma = self._vmas[i]
        self._insert(i + 1, Vma(at, vma.end, vma.rights, vma.backing, vma.account, vma.anon))
        vma.end = at

    def _insert(self, i: int, vma: Vma) -> None:
        if len(self._vmas) >= MAX_VMAS:
            raise TraceError(f"more than {MAX_VMAS:,} mappings at a time: too many to replay")
        self._starts.insert(i, vma.start)
        self._vmas.insert(i, vma)

    def _remove(self, vma: Vma) -> None:
        i = bisect_left(self._starts, vma.start)
        del self._starts[i], self._vmas[i]

    def _move_start(self, vma: Vma, start: int) -> None:
        i = bisect_left(self._starts, vma.start)
        self._starts[i] = vma.start = start


def _mergeable(one: Vma, other: Vma) -> bool:
    """is_mergeable_vma and is_mergeable_anon_vma (a process that did not fork)."""
    return one.alike(other) and (not one.anon or not other.anon or one.anon == other.anon)


def _could_share(one: Vma, other: Vma) -> bool:
    """anon_vma_compatible: the rights may differ."""
    return one.backing == other.backing == ANONYMOUS and one.account == other.account
