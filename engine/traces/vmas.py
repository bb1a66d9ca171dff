"""The VMAs of one address space, which merge and split as in Linux 6.18 (mm/vma.c, mm/mprotect.c).

A zap frees only tables of slots that are inside one VMA as a whole (docs/method.md), so the borders of VMAs matter.
Addresses and lengths are page-aligned bytes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from engine.traces.page_tables import TraceError

READ, WRITE, EXECUTE = 1, 2, 4
NORESERVE, LOCKED, DONTFORK, WIPEONFORK, DONTDUMP, MERGEABLE, SEQUENTIAL, RANDOM = (1 << i for i in range(8))
"""Bits of Vma.flags: those VM_ flags beside the rights that keep neighbours apart (include/linux/mm.h)."""
ANONYMOUS = 0
"""Backing of private anonymous memory. Each mapping of a file or of shared memory has a number of its own above
it, each moved anonymous one a number below it (Replay.mremap); these never merge."""
UNSEEN = -1
"""The anon_vma of memory whose mmap is not in the trace. All of it has this one, so adjacent ranges merge. Numbers
below it are those of VMAs that a fork copied (vma_is_fork_child): they are shared with no other VMA."""
MAX_VMAS = 1 << 20
"""Limit of a replay. The kernel's default vm.max_map_count is 65,530; servers with many mappings raise it."""


@dataclass(slots=True)
class Vma:
    """A mapping of [start, end).

    rights: READ and WRITE bits; backing: ANONYMOUS or the number of a file mapping; account: VM_ACCOUNT
    anon: number of its anon_vma, or 0 if it has none yet; advice: hugepage, nohugepage, or empty
    flags: bits such as LOCKED; policy: what mbind set, as the tracer shows it
    """

    start: int
    end: int
    rights: int
    backing: int = ANONYMOUS
    account: bool = True
    anon: int = 0
    advice: str = ""
    flags: int = 0
    policy: str = ""

    def part(self, start: int, end: int) -> "Vma":
        """A copy that spans [start, end)."""
        return Vma(start, end, self.rights, self.backing, self.account, self.anon, self.advice, self.flags, self.policy)

    def has_shareable_flags(self, other: "Vma") -> bool:
        """Whether two neighbours may share an anon_vma (anon_vma_compatible), and merge if their rights are equal.

        Addresses are not compared.
        """
        return (
            self.backing == other.backing == ANONYMOUS
            and self.account == other.account
            and self.advice == other.advice
            and self.flags == other.flags
            and self.policy == other.policy
        )


Piece: TypeAlias = tuple[Vma, int, int]
"""(vma, start, end): a range [start, end) inside one VMA."""


class Vmas:
    """The VMAs of an address space, sorted by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []
        self._anon_vmas = 0

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def fork(self) -> "Vmas":
        """Return the child's VMAs (dup_mmap). Each one that has an anon_vma gets one of its own (anon_vma_fork)."""
        child = Vmas()
        kept = [vma for vma in self._vmas if not vma.flags & DONTFORK]
        child._starts, child._vmas = [vma.start for vma in kept], [replace(vma) for vma in kept]
        for i, vma in enumerate(child._vmas):
            vma.flags &= ~LOCKED
            if vma.flags & WIPEONFORK:
                vma.anon = 0
            elif vma.anon and vma.anon != UNSEEN:
                vma.anon = UNSEEN - 1 - i
        return child

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """Return the VMAs that overlap [start, end). The list is a copy."""
        return self._vmas[self._first(start) : bisect_left(self._starts, end)]

    def pieces(self, start: int, end: int) -> list[Piece]:
        """Return the mapped parts of [start, end), one piece per VMA, by address."""
        if start >= end:
            return []
        i = bisect_right(self._starts, start)
        if i and self._vmas[i - 1].end >= end:  # the usual case: all in one VMA
            return [(self._vmas[i - 1], start, end)]
        return [(vma, max(start, vma.start), min(end, vma.end)) for vma in self.overlapping(start, end)]

    def any_in(self, start: int, end: int) -> bool:
        """Whether any VMA overlaps [start, end)."""
        i = self._first(start)
        return i < len(self._vmas) and self._starts[i] < end

    def find(self, address: int) -> Vma | None:
        """Return the VMA that contains the address, or None."""
        i = self._first(address)
        return self._vmas[i] if i < len(self._vmas) and self._starts[i] <= address else None

    def mmap(
        self,
        start: int,
        end: int,
        rights: int,
        backing: int = ANONYMOUS,
        anon: int = 0,
        advice: str = "",
        flags: int = 0,
        policy: str = "",
    ) -> None:
        """Map [start, end), which must be unmapped, and merge it with adjacent VMAs (vma_merge_new_range).

        Raises TraceError above MAX_VMAS.
        """
        # accountable_mapping(): private and writable. File mappings never merge, so their flag has no effect.
        account = bool(rights & WRITE) and not flags & NORESERVE
        new = Vma(start, end, rights, backing, account, anon, advice, flags, policy)
        i = bisect_left(self._starts, start)
        before = self._vmas[i - 1] if i else None
        after = self._vmas[i] if i < len(self._vmas) else None
        if not self._merge(before, new, after, inserted=False):
            self._insert(i, new)

    def munmap(self, start: int, end: int) -> list[Piece]:
        """Unmap [start, end), splitting VMAs that extend beyond it. Returns the pieces that were mapped."""
        if start >= end:
            return []
        first = self._first(start)
        if first < len(self._vmas) and self._starts[first] < start:
            self._split(first, start)
            first += 1
        last = bisect_left(self._starts, end)
        if last > first and self._vmas[last - 1].end > end:
            self._split(last - 1, end)
        unmapped = [(vma, vma.start, vma.end) for vma in self._vmas[first:last]]
        del self._vmas[first:last], self._starts[first:last]
        return unmapped

    def mprotect(self, start: int, end: int, rights: int) -> None:
        """Set the rights of [start, end), VMA by VMA, and stop at the first unmapped address (do_mprotect_pkey)."""
        at = start
        while at < end:
            vma = self.find(at)
            if vma is None:
                return
            stop = min(vma.end, end)
            if vma.rights != rights:
                stop = max(stop, self._protect(vma, at, stop, rights))
            at = stop

    def advise(self, start: int, end: int, advice: str) -> None:
        """Give [start, end) an advice on huge pages, VMA by VMA (madvise_update_vma). Holes are passed over."""
        self._change_each(start, end, lambda _: {"advice": advice})

    def set_flags(self, start: int, end: int, flags: int, cleared: int) -> None:
        """Set and clear bits of `flags` in [start, end), VMA by VMA. Holes are passed over."""
        self._change_each(start, end, lambda vma: {"flags": vma.flags & ~cleared | flags})

    def set_policy(self, start: int, end: int, policy: str) -> None:
        """Give [start, end) a memory policy (mbind), VMA by VMA; an empty one is that of the process."""
        self._change_each(start, end, lambda _: {"policy": policy})

    def _change_each(self, start: int, end: int, fields: Callable[[Vma], dict[str, Any]]) -> None:
        for _, lo, hi in self.pieces(start, end):
            vma = self.find(lo)  # not that of the piece if it was merged with the one before
            assert vma is not None
            changed = replace(vma, **fields(vma))
            if changed != vma:
                self._change(vma, lo, hi, replace(changed, start=lo, end=hi))

    def prepare_anon(self, vma: Vma) -> None:
        """Give the VMA an anon_vma if it has none, as at its first page fault: a neighbour's, or else a new one.

        Follows __anon_vma_prepare.
        """
        if vma.anon:
            return
        i = bisect_left(self._starts, vma.start)
        after = self._vmas[i + 1] if i + 1 < len(self._vmas) else None
        before = self._vmas[i - 1] if i else None
        if after is not None and _is_shareable(after) and after.start == vma.end and vma.has_shareable_flags(after):
            vma.anon = after.anon
        elif (
            before is not None and _is_shareable(before) and before.end == vma.start and before.has_shareable_flags(vma)
        ):
            vma.anon = before.anon
        else:
            self._anon_vmas += 1
            vma.anon = self._anon_vmas

    def _protect(self, vma: Vma, start: int, end: int, rights: int) -> int:
        """Set the rights of [start, end), a part of one VMA (mprotect_fixup). Returns as _change does."""
        changed = vma.part(start, end)
        changed.rights = rights
        if rights & WRITE:
            changed.account = not vma.flags & NORESERVE
        elif vma.account and vma.backing == ANONYMOUS and not vma.anon:
            changed.account = False  # it has no pages yet, so the kernel uncharges its commit
        return self._change(vma, start, end, changed)

    def _change(self, vma: Vma, start: int, end: int, changed: Vma) -> int:
        """Let [start, end), a part of one VMA, have the flags of `changed` (vma_modify).

        Returns the end of the VMA that contains the range afterwards.
        """
        i = bisect_left(self._starts, vma.start)
        before = self._vmas[i - 1] if i and start == vma.start else None
        after = self._vmas[i + 1] if i + 1 < len(self._vmas) and end == vma.end else None
        if before is not None or after is not None:
            # vma_merge_existing_range: a neighbour grows over [start, end), and the VMA shrinks or is removed.
            stop = self._merge(before, changed, after, inserted=True)
            if stop:
                return stop
        if vma.end > end:
            self._split(i, end)
        if vma.start < start:
            self._split(i, start)
            i += 1
        part = self._vmas[i]
        part.rights, part.account, part.advice = changed.rights, changed.account, changed.advice
        part.flags, part.policy = changed.flags, changed.policy
        return part.end

    def _merge(self, before: Vma | None, new: Vma, after: Vma | None, *, inserted: bool) -> int:
        """Extend a neighbour, or both, over the range of `new` where the kernel would merge them.

        Returns the end of the merged VMA, or 0 if nothing was merged. `inserted`: the range belongs to a VMA in the
        list (the whole VMA or one end of it), from which it is removed.
        """
        left = before is not None and before.end == new.start and _mergeable(before, new)
        right = after is not None and new.end == after.start and _mergeable(after, new)
        if left and right:
            assert before is not None
            assert after is not None
            # can_vma_merge_right: both neighbours may merge with the middle, but not with each other.
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
        """Remove [start, end), one end of a VMA or the whole VMA, from it."""
        i = self._first(start)
        vma = self._vmas[i]
        if vma.start == start and vma.end == end:
            self._remove(vma)
        elif vma.start == start:
            self._move_start(vma, end)
        else:
            vma.end = start

    def _first(self, address: int) -> int:
        """Return the index of the first VMA whose end is above the address, or the number of VMAs."""
        i = bisect_right(self._starts, address)
        return i - 1 if i and self._vmas[i - 1].end > address else i

    def _split(self, i: int, at: int) -> None:
        """Split VMA number i at address `at`."""
        vma = self._vmas[i]
        self._insert(i + 1, vma.part(at, vma.end))
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
    """Whether two adjacent VMAs may merge: is_mergeable_vma and is_mergeable_anon_vma."""
    if one.rights != other.rights or not one.has_shareable_flags(other):
        return False
    return one.anon == other.anon or (min(one.anon, other.anon) >= UNSEEN and not (one.anon and other.anon))


def _is_shareable(vma: Vma) -> bool:
    """Whether the VMA has an anon_vma that a neighbour may share (reusable_anon_vma): not one that a fork copied."""
    return bool(vma.anon) and vma.anon >= UNSEEN
