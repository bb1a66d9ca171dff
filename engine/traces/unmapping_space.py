"""The address space under the policy munmap, whose entries may differ from those under the policies that zap."""

from typing import Self

from engine.traces.address_space import AddressSpace
from engine.traces.huge_pages import HugePages
from engine.traces.operations import Operation
from engine.traces.ranges import Ranges
from engine.traces.trace_rules import TraceRule
from engine.traces.vmas import READ, WRITE, Piece, Vma, Vmas

UNMAP = TraceRule("unmap")


class UnmappingSpace(AddressSpace):
    """The address space under the policy munmap: a zap unmaps its range, and a later touch maps it again.

    `vmas` still holds the VMAs of the trace, shared with the other policies. The ranges that zaps unmapped are in
    `_unmapped`.
    """

    _unmapped: Ranges

    @classmethod
    def copy_of(cls, space: AddressSpace) -> Self:
        """Return a copy for UNMAP alone, which is one of the rules of `space`. No zap may have been applied yet."""
        other = cls(space.vmas, [UNMAP], space.geometry)
        other.__dict__.update(vars(space.copy_for(UNMAP)))
        other._unmapped = Ranges()
        counts = other.counts[UNMAP]
        other.installed, other.zapped = other.installed + counts.rewritten, other.zapped + counts.rewritten
        counts.rewritten = 0
        return other

    def is_mapped_whole(self, vma: Vma, start: int, end: int) -> bool:
        return super().is_mapped_whole(vma, start, end) and not self._unmapped.meets(start, end)

    def is_mapped(self, start: int, end: int) -> bool:
        return any(not self._unmapped.covers(lo, hi) for _, lo, hi in self.vmas.pieces(start, end))

    def dontneed(self, pieces: list[Piece]) -> None:
        counts = self.counts[UNMAP]
        tables_before = counts.tables
        for _, lo, hi in pieces:
            self._unmapped.add(lo, hi)
        self.zapped += super().unmap(pieces)
        counts.freed += tables_before - counts.tables

    def free(self, pieces: list[Piece]) -> None:
        """Unmap the pieces: under this policy the program calls munmap, whatever the advice was."""
        self.dontneed(pieces)

    def unmap(self, pieces: list[Piece]) -> int:
        entries = super().unmap(pieces)
        for _, lo, hi in pieces:
            self._unmapped.subtract(lo, hi)
        return entries

    def fork(self, vmas: Vmas, allowed: HugePages) -> Self:
        child = super().fork(vmas, allowed)
        child._unmapped = self._unmapped.copy()
        return child

    def _ranges_to_copy(self) -> list[tuple[int, int]]:
        return [part for start, end in super()._ranges_to_copy() for part in self._unmapped.rest_of(start, end)]

    def touch(self, operation: Operation, pieces: list[Piece]) -> None:
        self._map_again(pieces, WRITE if operation.op == "write" else READ)
        super().touch(operation, pieces)

    def touch_pages(self, vma: Vma, lo: int, hi: int, *, write: bool) -> None:
        self._unmapped.subtract(lo, hi)
        super().touch_pages(vma, lo, hi, write=write)

    def guard_install(self, pieces: list[Piece]) -> None:
        self._map_again(pieces, 0)
        super().guard_install(pieces)

    def _map_again(self, pieces: list[Piece], need: int) -> None:
        """Map again, in `pieces`, the pages whose VMA has all rights of `need` (READ and WRITE bits)."""
        page = self.page_bytes
        for vma, lo, hi in pieces:
            if vma.rights & need == need:
                self._unmapped.subtract(lo // page * page, -(-hi // page) * page)
