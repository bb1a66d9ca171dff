"""Replay of a trace under any policies, in one AddressSpace as long as they leave the same entries."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from engine.model.policy import ALL, Policy
from engine.traces.address_space import AddressSpace
from engine.traces.geometry import X86, Geometry
from engine.traces.huge_pages import HugePages
from engine.traces.operations import Operation, check_operation
from engine.traces.trace_rules import TraceRule, trace_rule
from engine.traces.unmapping_space import UNMAP, UnmappingSpace
from engine.traces.vmas import ANONYMOUS, LOCKED, READ, WRITE, Piece, Vmas


class Replay:
    """An initially empty address space to which operations are applied, and its figures under each policy.

    All policies share `vmas`; figures are asked for by a policy's name. Without policies only the VMAs are tracked.
    Entries are the same under all policies that zap, until huge pages may come in: from then on each rule has its own.
    Under munmap they are the same until a zap whose range is not written again at once.
    """

    def __init__(
        self,
        policies: Sequence[Policy] = ALL,
        geometry: Geometry = X86,
        *,
        scan_every: int = 1,
        huge_pages: HugePages | None = None,
    ) -> None:
        """`huge_pages`: the setting of the system; `madvise` by default."""
        self.geometry = geometry
        self.policies = tuple(policy.name for policy in policies)
        self.vmas = Vmas()
        self.huge_pages = huge_pages or HugePages(slot=geometry.slot)
        self.has_huge_advice = self._has_huge_pages = self._has_guards = False
        self._rules = {policy.name: trace_rule(policy, geometry) for policy in policies}
        rules = dict.fromkeys(self._rules.values())
        self._has_breaks = any(rule.kept_after for rule in rules)
        shared = AddressSpace(self.vmas, list(rules), geometry, scan_every=scan_every)
        self._space_of: dict[TraceRule, AddressSpace] = dict.fromkeys(rules, shared)
        self._spaces = [shared] if rules else []
        if self.huge_pages.setting == "always":
            self._separate()

    def _separate(self) -> None:
        """Give each rule a space of its own, in which huge pages may be."""
        self._has_huge_pages = True
        self._separate_unmap()
        self._space_of = {rule: space.copy_for(rule) for rule, space in self._space_of.items()}
        self._spaces = list(self._space_of.values())
        for space in self._spaces:
            space.allow_huge_pages(self.huge_pages)

    def _separate_unmap(self) -> None:
        """Before the first zap that leaves other entries under munmap: give that policy a space of its own."""
        space = self._space_of.get(UNMAP)
        if space is not None and not isinstance(space, UnmappingSpace):
            self._space_of[UNMAP] = UnmappingSpace.copy_of(space)
            space.drop(UNMAP)
            self._spaces = list(dict.fromkeys(self._space_of.values()))

    def apply(self, operation: Operation) -> None:
        """Apply one operation. Raises TraceError: before any change if it is invalid, or above a size limit."""
        check_operation(operation)
        op, start, end = operation.op, operation.start, operation.end
        match op:
            case "write" | "read":
                self.touch(operation)
            case "dontneed" | "dontneed_locked" | "free":
                self.zap(op.removesuffix("_locked"), self.vmas.pieces(start, end))
            case "mmap":
                self.mmap(start, end, READ | WRITE)
            case "munmap":
                self.munmap(start, end)
            case "mprotect_ro" | "mprotect_rw":
                self.mprotect(start, end, READ if op == "mprotect_ro" else READ | WRITE)
            case "hugepage" | "nohugepage":
                self.advise(start, end, op)
            case "collapse":
                self.collapse(start, end)
            case "guard_install" | "guard_remove":
                self.guard(op, start, end)
        self.end_operation()

    def end_operation(self) -> None:
        """Count an operation that was applied by a method other than `apply`: async scans after every few."""
        for space in self._spaces:
            space.end_operation()

    def fork(self) -> "Replay":
        """Return the child's replay. The figures of the child begin with what it copies."""
        child = copy(self)
        child.vmas, child.huge_pages = self.vmas.fork(), replace(self.huge_pages)
        spaces = {space: space.fork(child.vmas, child.huge_pages) for space in self._spaces}
        child._space_of = {rule: spaces[space] for rule, space in self._space_of.items()}
        child._spaces = list(spaces.values())
        return child

    def release(self) -> None:
        """The process has ended. Only `outcome` may be asked for from then on."""
        for space in self._spaces:
            space.release()

    def mmap(self, start: int, end: int, rights: int, backing: int = ANONYMOUS, anon: int = 0, flags: int = 0) -> int:
        """Map [start, end), unmapping first what is mapped there (MAP_FIXED). Arguments as of Vma.

        Returns the bytes that were unmapped.
        """
        unmapped = self._unmap(start, end)
        self.vmas.mmap(start, end, rights, backing, anon, flags=flags)
        return unmapped

    def munmap(self, start: int, end: int) -> list[Piece]:
        """Unmap [start, end). Returns the pieces that were mapped there."""
        unmapped = self.vmas.munmap(start, end)
        if unmapped:
            for space in self._spaces:
                space.unmap(unmapped)
        return unmapped

    def _unmap(self, start: int, end: int) -> int:
        """Unmap [start, end). Returns the bytes that were mapped there."""
        return sum(hi - lo for _, lo, hi in self.munmap(start, end))

    def mremap(self, old_start: int, old_end: int, start: int, end: int, *, keep: bool, number: int) -> int:
        """Resize or move mappings (mm/mremap.c). Memory that is not known counts as one that is readable and writable.

        keep: the old range stays mapped, without its entries (MREMAP_DONTUNMAP)
        number: another one for each call. An anonymous VMA that has an anon_vma keeps its vm_pgoff, so it merges with
        no neighbour: its backing is -number
        Returns by how many bytes the mapped memory grew.
        """
        if start == old_start:
            return self._resize(old_end, start, end)
        length = min(old_end - old_start, end - start)
        grown = -self._unmap(old_start + length, old_end)
        pieces = self.vmas.pieces(old_start, old_start + length)
        if not pieces:
            grown += end - start - self._unmap(start, end)
            self.vmas.mmap(start, end, READ | WRITE, -number)
        elif len(pieces) == 1 and pieces[0][1:] == (old_start, old_start + length):
            grown += self._move(pieces[0], start, end, keep, number)
        else:  # several VMAs, moved one by one; what is mapped between their new places stays (remap_move, Linux 6.17)
            for piece in pieces:
                to = start + piece[1] - old_start
                grown += self._move(piece, to, to + piece[2] - piece[1], keep, number)
        return grown

    def _resize(self, old_end: int, start: int, end: int) -> int:
        """Let the mapping that began at `start` and ended at `old_end` end at `end`. Returns as mremap."""
        if end <= old_end:
            return -self._unmap(end, old_end)
        unmapped = self._unmap(old_end, end)
        vma = self.vmas.find(start)
        if vma is not None and vma.end == old_end:
            vma.end = end
        else:
            self.vmas.mmap(old_end, end, READ | WRITE)
        return end - old_end - unmapped

    def _move(self, piece: Piece, start: int, end: int, keep: bool, number: int) -> int:
        """Move a piece of one VMA to [start, end), which may be longer. Returns as mremap."""
        vma, old_start, old_end = piece
        unmapped = self._unmap(start, end)
        backing = vma.backing
        if backing <= ANONYMOUS:  # copy_vma: without an anon_vma its vm_pgoff follows its address
            backing = -number if vma.anon else ANONYMOUS
        is_whole = (vma.start, vma.end) == (old_start, old_end)
        self.vmas.mmap(start, end, vma.rights, backing, vma.anon, vma.advice, vma.flags, vma.policy)
        for space in self._spaces:
            space.move(old_start, old_end, start)
        if not keep:
            unmapped += self._unmap(old_start, old_end)
        else:  # dontunmap_complete
            vma.flags &= ~LOCKED
            vma.anon = 0 if is_whole else vma.anon
        return end - start - unmapped

    def guard(self, op: str, start: int, end: int) -> None:
        """MADV_GUARD_INSTALL or MADV_GUARD_REMOVE, `guard_install` or `guard_remove`."""
        self._has_guards = True
        pieces = self.vmas.pieces(start, end)
        if op == "guard_install":
            for vma, _, _ in pieces:
                self.vmas.prepare_anon(vma)
        for space in self._spaces:
            getattr(space, op)(pieces)

    def mprotect(self, start: int, end: int, rights: int) -> bool:
        """Set the rights of a range up to the first hole. Returns whether any page got a right that it had not."""
        gains = any(rights & ~vma.rights for vma, _, _ in self.vmas.pieces(start, end))
        self.vmas.mprotect(start, end, rights)
        self._split_at_borders(start, end)
        return gains

    def advise(self, start: int, end: int, advice: str) -> None:
        """MADV_HUGEPAGE or MADV_NOHUGEPAGE, `hugepage` or `nohugepage`."""
        self._allow_huge_pages()
        self.vmas.advise(start, end, advice)
        self._split_at_borders(start, end)

    def set_flags(self, start: int, end: int, flags: int, cleared: int) -> None:
        """Set and clear flags of VMAs, such as LOCKED."""
        self.vmas.set_flags(start, end, flags, cleared)
        self._split_at_borders(start, end)

    def set_policy(self, start: int, end: int, policy: str) -> None:
        """Set the memory policy of a range, as mbind does; empty: that of the process."""
        self.vmas.set_policy(start, end, policy)
        self._split_at_borders(start, end)

    def collapse(self, start: int, end: int) -> None:
        """MADV_COLLAPSE."""
        self._allow_huge_pages()
        pieces = self.vmas.pieces(start, end)
        for space in self._spaces:
            space.collapse(pieces)

    def _allow_huge_pages(self) -> None:
        if not self.has_huge_advice and self.huge_pages.setting != "always":
            self._separate()
        self.has_huge_advice = True

    def _split_at_borders(self, start: int, end: int) -> None:
        """Split the huge pages in which `start` or `end` now is a border between VMAs."""
        for address in (start, end) if self._has_huge_pages else ():
            if address % self.geometry.slot and self.vmas.find(address - 1) is not self.vmas.find(address):
                for space in self._spaces:
                    space.split_at(address // self.geometry.slot)

    def zap(self, op: str, pieces: list[Piece]) -> None:
        """MADV_DONTNEED or MADV_FREE, `dontneed` or `free`, of a range that consists of these pieces."""
        if pieces:
            self._separate_unmap()
        for space in self._spaces:
            (space.dontneed if op == "dontneed" else space.free)(pieces)

    def zap_and_touch(self, op: str, pieces: list[Piece]) -> None:
        """`zap`, `end_operation`, and `touch_all` of the pieces, whose pages were touched before if they may be."""
        if len(pieces) == 1 and pieces[0][0].rights & WRITE and not self._must_follow_entries:
            for space in self._spaces:
                space.zap_and_write(op, *pieces[0])
            return
        self.zap(op, pieces)
        self.end_operation()
        self._touch_pieces(pieces)

    @property
    def _must_follow_entries(self) -> bool:
        """Whether a zap and a write may leave other entries than before, or a rule looks at every entry."""
        return self._has_guards or self._has_huge_pages or self._has_breaks

    def touch(self, operation: Operation) -> None:
        """Read or write as AddressSpace.touch does. Unmapped ranges are skipped."""
        pieces = self.vmas.pieces(operation.start, operation.start + operation.length)
        for space in self._spaces:
            space.touch(operation, pieces)

    def install(self, start: int, end: int, *, written: bool) -> None:
        """Install the entries of [start, end), where pages were seen: whatever rights the VMAs have now.

        written: private memory that was written; else files, shared memory, or the zero page
        """
        for vma, lo, hi in self.vmas.pieces(start, end):
            for space in self._spaces:
                space.touch_pages(vma, lo, hi, write=written)
            if written:  # also if a page of the file was there before
                self.vmas.prepare_anon(vma)

    def touch_all(self, start: int, end: int) -> None:
        """Write every mapped page of [start, end). Read-only pages are read, pages without rights skipped."""
        self._touch_pieces(self.vmas.pieces(start, end))

    def _touch_pieces(self, pieces: list[Piece]) -> None:
        for vma, lo, hi in pieces:
            write = bool(vma.rights & WRITE)
            if vma.rights & (READ | WRITE):
                for space in self._spaces:
                    space.touch_pages(vma, lo, hi, write=write)
            if write and not vma.anon:
                self.vmas.prepare_anon(vma)

    def vm_pte_kib(self, policy: str) -> int:
        """Return VmPTE in KiB."""
        return self._space(policy).vm_pte_kib(self._rules[policy])

    def vm_pte_kib_max(self, policy: str) -> int:
        """Return the maximum of VmPTE so far, in KiB."""
        return self._space(policy).vm_pte_kib_max(self._rules[policy])

    def res_kib(self, policy: str) -> int:
        """Return the resident memory in KiB."""
        return self._space(policy).res_kib

    def anon_huge_kib(self, policy: str) -> int:
        """Return the memory in huge pages that are mapped by PMD entries (AnonHugePages), in KiB."""
        return self._space(policy).huge_pages * (self.geometry.slot >> 10)

    def tables_freed(self, policy: str) -> int:
        """Return the number of times that a zap freed a table."""
        return self._space(policy).counts[self._rules[policy]].freed

    def outcome(self, policy: str) -> dict[str, int]:
        """Return the outcome columns, except zap_calls, that the operations so far determine. `peak`: the maximum."""
        space = self._space(policy)
        counts, needed = space.counts[self._rules[policy]], space.page_tables.needed()
        page, page_kib = self.geometry.page, self.geometry.page_kib
        return {
            "res_bytes_peak": space.max_present_pages * page,
            "res_bytes_end": space.present_pages * page,
            "vm_pte_kib_peak": self.vm_pte_kib_max(policy),
            "vm_pte_kib_end": self.vm_pte_kib(policy),
            "vm_pte_kib_max": self.vm_pte_kib_max(policy),
            "vm_pte_kib_needed_end": sum(needed) * page_kib,
            "pte_tables_end": counts.tables,
            "pmd_tables_end": space.page_tables.pmd_tables,
            "pud_tables_end": space.page_tables.pud_tables,
            "pte_tables_empty_end": counts.tables - needed[0],
            "anon_huge_kib_peak": space.max_huge_pages * (self.geometry.slot >> 10),
            "anon_huge_kib_end": self.anon_huge_kib(policy),
            "ptes_installed": space.installed + counts.rewritten,
            "ptes_zapped": space.zapped + counts.rewritten,
            "pte_tables_allocated": counts.allocated,
            "pte_tables_freed": counts.freed,
            "thp_faults": space.thp_faults,
            "thp_splits": space.thp_splits,
        }

    def _space(self, policy: str) -> AddressSpace:
        return self._space_of[self._rules[policy]]
