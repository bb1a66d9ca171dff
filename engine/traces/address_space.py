"""Replay of a trace's operations on one address space: entries, and the tables that exist under each rule.

No memory pressure. docs/traces.md is the specification. The policies share one AddressSpace until huge pages come in;
munmap, under which a zap unmaps its range, has its own from the first zap on whose pages are not written again at once
(engine/traces/replay.py).
"""

import copy
from typing import Self

from engine.traces.entries import Entries
from engine.traces.huge_pages import HugePages
from engine.traces.operations import Operation
from engine.traces.ruled_tables import TableCounts
from engine.traces.strided_touches import touched_entries
from engine.traces.trace_rules import GatherBatches
from engine.traces.vmas import DONTFORK, READ, WIPEONFORK, WRITE, Piece, Vma, Vmas


class AddressSpace(Entries):
    """What the calls of a process do to its entries and tables, under each of several rules.

    Methods take ranges as pieces, already clipped to the VMAs.
    """

    def fork(self, vmas: Vmas, allowed: HugePages) -> Self:
        """Return the child's address space, whose VMAs are `vmas`: a copy of the VMAs that have an anon_vma.

        Follows vma_needs_copy: files and shared memory are faulted in anew. The figures begin with what is copied.
        """
        child = copy.copy(self)
        child.vmas, child._allowed = vmas, None if self._allowed is None else allowed
        child.page_tables = self.page_tables.fork(self._ranges_to_copy())
        tables = list(child.page_tables.all_tables())
        child.present_pages = child.max_present_pages = sum(table.present.bit_count() for table in tables)
        child.huge_pages = child.max_huge_pages = sum(table.huge and bool(table.folio) for table in tables)
        child.installed = child.zapped = child.thp_faults = child.thp_splits = 0
        child.counts = {}
        for rule, bit in self._bits.items():
            number = sum(bool(table.exists & bit) for table in tables)
            child.counts[rule] = TableCounts(number, number + child.page_tables.upper_tables, allocated=number)
        child._scan_candidates = {rule: list(slots) for rule, slots in self._scan_candidates.items()}
        return child

    def _ranges_to_copy(self) -> list[tuple[int, int]]:
        return [(vma.start, vma.end) for vma in self.vmas if vma.anon and not vma.flags & (DONTFORK | WIPEONFORK)]

    def touch(self, operation: Operation, pieces: list[Piece]) -> None:
        """Read or write one byte every `stride` bytes. Guarded pages and VMAs without the right are skipped."""
        op, start, _, stride = operation
        need, write = (WRITE, True) if op == "write" else (READ, False)
        for vma, lo, hi in pieces:
            if vma.rights & need:
                for slot, mask in touched_entries(self.geometry, start, stride, lo, hi):
                    self._install(vma, slot, mask, write)
        self._note_maximum()

    def touch_pages(self, vma: Vma, lo: int, hi: int, *, write: bool) -> None:
        """Write or read every page of [lo, hi), a part of a VMA that has the right."""
        for slot in range(lo // self.slot_bytes, (hi - 1) // self.slot_bytes + 1):
            self._install(vma, slot, self.mask_of(lo, hi, slot), write)
        self._note_maximum()

    def dontneed(self, pieces: list[Piece]) -> None:
        """MADV_DONTNEED: zap each piece slot by slot, and free its table under the rules that do so."""
        gather = GatherBatches(self.geometry)
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // self.slot_bytes, (hi - 1) // self.slot_bytes):
                mask = self.mask_of(lo, hi, slot)
                if table.huge:
                    if mask == self.all_entries:
                        self._zap_huge(table, gather)
                        continue
                    self._split(table)
                broke = gather.add(table.present & mask, table.folio) if self._asks_for_breaks else ""
                self.zapped += self._zap(table, mask)
                if table.is_empty:
                    size = mask.bit_count() * self.page_bytes
                    for rule in self._zap_rules:
                        if size >= rule.least and broke not in rule.kept_after:
                            self._free(table, rule)
                    self._note_for_scans(slot, table)

    def zap_and_write(self, op: str, vma: Vma, lo: int, hi: int) -> None:
        """A zap of [lo, hi), `end_operation`, and a write of all its pages.

        op: dontneed or free. All pages of the VMA were written before. The entries are the same afterwards, so only
        what is counted changes. Not for rules with `kept_after`, nor while huge pages or guard markers may be there.
        """
        pages = (hi - lo) // self.page_bytes
        self._operations += 1
        whole = max(0, hi // self.slot_bytes - -(-lo // self.slot_bytes))
        edges = [part for part in self._partly_covered(lo, hi) if self._is_all_in(vma, *part)]
        for rule, counts in self.counts.items() if whole or edges or op == "free" else ():
            if rule.when == "unmap":
                again = whole + sum(not self._is_mapped_beside(*part) for part in edges)
                if op == "free":
                    counts.rewritten += pages
            elif op == "free":
                continue
            elif rule.when == "zap":
                again = whole + sum(end - start >= rule.least for _, start, end in edges)
            elif rule.when == "scan" and self._operations % (self._scan_every * rule.every) == 0:
                again = whole + len(edges)
            else:
                continue
            counts.freed += again
            counts.allocated += again
        if op != "free":
            self.zapped += pages
            self.installed += pages
        if self._scan_candidates:
            self._scan()

    def _is_mapped_beside(self, slot: int, lo: int, hi: int) -> bool:
        """Whether anything in the slot but [lo, hi) is mapped."""
        before, after = slot * self.slot_bytes, (slot + 1) * self.slot_bytes
        return (before < lo and self.is_mapped(before, lo)) or (hi < after and self.is_mapped(hi, after))

    def _is_all_in(self, vma: Vma, slot: int, lo: int, hi: int) -> bool:
        """Whether all entries of the slot's table are in [lo, hi), a part of a VMA whose pages are all present."""
        if (vma.start < lo and lo % self.slot_bytes) or (hi < vma.end and hi % self.slot_bytes):
            return False  # the page before or after it is in the slot, too
        table = self.page_tables.get(slot)
        return table is not None and not (table.present | table.zero | table.marker) & ~self.mask_of(lo, hi, slot)

    def _partly_covered(self, lo: int, hi: int) -> list[tuple[int, int, int]]:
        """Return (slot, start, end) of the parts of [lo, hi) that cover a part of a slot: none, one or two."""
        span = self.slot_bytes
        first, last = lo // span, hi // span
        if first == last:
            return [(first, lo, hi)]
        parts = [(first, lo, (first + 1) * span)] if lo % span else []
        if hi % span:
            parts.append((last, last * span, hi))
        return parts

    def free(self, pieces: list[Piece]) -> None:
        """MADV_FREE: clears nothing, as the kernel does so only under memory pressure.

        But it splits a huge page of which a piece covers a part, unless another process maps that, too
        (madvise_free_huge_pmd, madvise_free_pte_range).
        """
        if self._allowed is None:
            return
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // self.slot_bytes, (hi - 1) // self.slot_bytes):
                mask = self.mask_of(lo, hi, slot)
                if table.folio & mask and table.folio & mask != self.all_entries and not table.is_shared:
                    self._split_folio(table)

    def split_at(self, slot: int) -> None:
        """Split the slot's huge page, because a border of a VMA now is inside the slot (vma_adjust_trans_huge)."""
        table = self.page_tables.get(slot)
        if table is not None and table.huge:
            self._split(table)

    def collapse(self, pieces: list[Piece]) -> None:
        """MADV_COLLAPSE: turn tables of whole slots into huge pages, in order, until one cannot be (madvise_collapse).

        A slot that has no table ends the call, one that has no PMD table either only at the end of its VMA.
        """
        assert self._allowed is not None
        for vma, lo, hi in pieces:
            first, end = -(-lo // self.slot_bytes), hi // self.slot_bytes
            if not self._allowed.allows_collapse(vma) or first > end:
                return
            slot, has_gap = first, False
            while slot < end:
                if not self.page_tables.has_pmd_table(slot):
                    has_gap = True
                    slot = (
                        (slot * self.slot_bytes // self.geometry.pmd_span + 1)
                        * self.geometry.pmd_span
                        // self.slot_bytes
                    )
                    continue
                table = self.page_tables.get(slot)
                if table is None or not table.exists or table.marker:
                    return
                if not table.huge:
                    self._map_huge(table, (table.present & ~table.folio) | table.written)
                slot += 1
            if has_gap:
                return

    def guard_install(self, pieces: list[Piece]) -> None:
        """MADV_GUARD_INSTALL: zap, then set markers, allocating the tables that are missing."""
        for _, lo, hi in pieces:
            for slot in range(lo // self.slot_bytes, (hi - 1) // self.slot_bytes + 1):
                mask = self.mask_of(lo, hi, slot)
                table = self.page_tables.install(slot)
                if table.huge and mask != self.all_entries:
                    self._split(table)
                self._zap(table, mask)
                table.marker |= mask
                self._allocate(table)

    def guard_remove(self, pieces: list[Piece]) -> None:
        """MADV_GUARD_REMOVE: clear the markers."""
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // self.slot_bytes, (hi - 1) // self.slot_bytes):
                mask = self.mask_of(lo, hi, slot)
                table.marker &= ~mask
                self._free_if_counted(slot, table, mask)

    def unmap(self, pieces: list[Piece]) -> int:
        """Clear the entries of `pieces` and free each table, of any level, in whose span nothing is mapped any more.

        Follows unmap_vmas and free_pgtables. `is_mapped` must already be false for the pieces.
        Returns the number of cleared entries, including markers.
        """
        entries = 0
        for _, lo, hi in pieces:
            has_tables = False
            for slot, table in self.page_tables.tables_between(lo // self.slot_bytes, (hi - 1) // self.slot_bytes):
                mask = self.mask_of(lo, hi, slot)
                if table.huge and mask != self.all_entries:
                    self._split(table)
                entries += self._zap(table, mask)
                if table.marker:
                    entries += (table.marker & mask).bit_count()
                    table.marker &= ~mask
                if not table.is_empty:
                    has_tables = True  # its entries show that something in the slot is mapped
                elif self.is_mapped(slot * self.slot_bytes, (slot + 1) * self.slot_bytes):
                    has_tables = True
                    self._free_if_counted(slot, table, mask)
                else:
                    self._unmap_table(slot, table)
            if not has_tables or lo // self.geometry.pmd_span != (hi - 1) // self.geometry.pmd_span:
                self.page_tables.free_uppers(lo, hi, self.is_mapped)
        return entries

    def move(self, start: int, end: int, to: int) -> None:
        """Move the entries of [start, end) to `to`, where nothing is mapped but the new VMA (move_page_tables).

        A whole slot takes its table along if the new place is aligned alike (move_normal_pmd, move_huge_pmd). Otherwise
        tables are allocated there, also for empty ones, and the old ones stay until they are unmapped.
        """
        if self._may_begin_at_slot(start, end, to):
            start, to = start - start % self.slot_bytes, to - to % self.slot_bytes
        self.page_tables.install_puds(start, end, to)
        self._note_most_tables()
        for slot, table in self.page_tables.tables_between(start // self.slot_bytes, (end - 1) // self.slot_bytes):
            if not table.exists:
                continue
            mask = self.mask_of(start, end, slot)
            new_slot, shift = divmod(slot * self.entries + (to - start) // self.page_bytes, self.entries)
            if mask == self.all_entries and not shift and self.page_tables.get(new_slot) is None:
                self.page_tables.move(slot, new_slot)
                self._note_most_tables()
                continue
            if table.huge:
                self._split(table)
            for into, by in ((new_slot, shift), (new_slot + 1, shift - self.entries)):
                if mask << by & self.all_entries if by >= 0 else mask >> -by:
                    new_table = self.page_tables.install(into)
                    new_table.add_entries(table, mask, by, self.all_entries)
                    self._allocate(new_table, table.exists)
            table.clear_entries(mask)
            self._note_for_scans(slot, table)

    def _may_begin_at_slot(self, start: int, end: int, to: int) -> bool:
        """Whether a move begins at the start of the slot instead of at `start` (can_realign_addr, Linux 6.7).

        It does if nothing but the two VMAs is mapped in the slots before them.
        """
        before = start % self.slot_bytes
        if not before or to % self.slot_bytes != before or end - start < self.slot_bytes - before:
            return False
        for address in (start, to):
            vma = self.vmas.find(address)
            if vma is None or vma.start != address or self.vmas.any_in(address - before, address):
                return False
        return True
