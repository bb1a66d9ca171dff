"""Replay of a trace's operations on one address space: entries, and the tables that exist under each rule.

Models x86-64 with 4 KiB pages, and no memory pressure. docs/traces.md is the
specification. The policies share one AddressSpace until huge pages come in; munmap, under which a zap unmaps its
range, has its own from the first zap on whose pages are not written again at once (engine/traces/replay.py).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from engine.traces.huge_pages import HugePages
from engine.traces.operations import Operation
from engine.traces.page_tables import ALL_ENTRIES, ENTRIES, PAGE, PMD_SPAN, SLOT, PageTables, PteTable, mask_of
from engine.traces.trace_rules import GatherBatches, TraceRule
from engine.traces.vmas import ANONYMOUS, DONTFORK, READ, WIPEONFORK, WRITE, Piece, Vma, Vmas


@dataclass(slots=True)
class TableCounts:
    """PTE tables under one rule: those that exist, those allocated and freed by zaps (not by munmap) so far.

    max_tables: maximum of the tables of all levels so far
    rewritten: pages that a zap cleared under this rule alone, and that were written again at once
    """

    tables: int = 0
    max_tables: int = 0
    allocated: int = 0
    freed: int = 0
    rewritten: int = 0


class AddressSpace:
    """The entries of one address space, and the tables that exist under each of several rules.

    vmas: its VMAs, which the caller changes. Methods take ranges as pieces, already clipped to the VMAs.
    counts: of each rule
    present_pages, max_present_pages: resident pages now, and their maximum so far
    installed, zapped: entries of tables that touches installed, and that zaps cleared
    huge_pages, max_huge_pages: huge pages mapped by a PMD entry now, and their maximum so far
    thp_faults, thp_splits: huge pages that faults brought, and PMD entries that were split
    """

    def __init__(self, vmas: Vmas, rules: Sequence[TraceRule], *, scan_every: int = 1) -> None:
        """`scan_every`: number of operations between two scans of a rule that scans, times its `every`."""
        self.vmas = vmas
        self.counts = {rule: TableCounts() for rule in rules}
        self.page_tables = PageTables()
        self.present_pages = self.max_present_pages = 0
        self.installed = self.zapped = 0
        self.huge_pages = self.max_huge_pages = self.thp_faults = self.thp_splits = 0
        self._allowed: HugePages | None = None
        self._bits = {rule: 1 << i for i, rule in enumerate(self.counts)}  # of PteTable.exists
        self._all_bits = (1 << len(self._bits)) - 1
        self._zap_rules = [rule for rule in self._bits if rule.when == "zap"]
        self._asks_for_breaks = any(rule.kept_after for rule in self._zap_rules)
        self._scan_every, self._operations = scan_every, 0
        # Slots whose table was emptied since the last scan, by rule.
        self._scan_candidates: dict[TraceRule, list[int]] = {rule: [] for rule in self._bits if rule.when == "scan"}

    def copy_for(self, rule: TraceRule) -> Self:
        """Return a copy under one rule. The VMAs are shared."""
        other = copy.copy(self)
        other.counts = {rule: replace(self.counts[rule])}
        other._all_bits = self._bits[rule]
        other._bits = {rule: other._all_bits}
        other._zap_rules = [rule] if rule.when == "zap" else []
        other._asks_for_breaks = bool(rule.kept_after)
        other._scan_candidates = {rule: list(self._scan_candidates[rule])} if rule.when == "scan" else {}
        other.page_tables = self.page_tables.copy(other._all_bits)
        return other

    def drop(self, rule: TraceRule) -> None:
        """Leave out a rule, one that does not zap or scan."""
        bit = self._bits[rule]
        self._bits = {other: bit for other, bit in self._bits.items() if other != rule}  # forks share the dict
        self._all_bits &= ~bit
        del self.counts[rule]
        for table in self.page_tables.all_tables():
            table.exists &= ~bit

    def allow_huge_pages(self, allowed: HugePages) -> None:
        """Let huge pages come where they are allowed. Entries then depend on the rule, so there must be one only."""
        self._allowed = allowed

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

    def release(self) -> None:
        """End the process: its huge pages, which other processes may share, count one user less."""
        for table in self.page_tables.all_tables():
            table.drop_folio(ALL_ENTRIES)

    def _ranges_to_copy(self) -> list[tuple[int, int]]:
        return [(vma.start, vma.end) for vma in self.vmas if vma.anon and not vma.flags & (DONTFORK | WIPEONFORK)]

    def vm_pte_kib(self, rule: TraceRule) -> int:
        """Return VmPTE in KiB: the memory of the tables of all levels."""
        return (self.counts[rule].tables + self.page_tables.upper_tables) * (PAGE >> 10)

    def vm_pte_kib_max(self, rule: TraceRule) -> int:
        """Return the maximum of VmPTE so far, in KiB."""
        return self.counts[rule].max_tables * (PAGE >> 10)

    @property
    def res_kib(self) -> int:
        """Resident memory in KiB."""
        return self.present_pages * (PAGE >> 10)

    def end_operation(self) -> None:
        """Count an operation, and let each rule that scans after this many free its empty tables."""
        self._operations += 1
        if self._scan_candidates:
            self._scan()

    def _scan(self) -> None:
        for rule, slots in self._scan_candidates.items():
            if slots and self._operations % (self._scan_every * rule.every) == 0:
                for slot in slots:
                    table = self.page_tables.get(slot)
                    if table is not None and table.is_empty:
                        self._free(table, rule)
                slots.clear()

    def touch(self, operation: Operation, pieces: list[Piece]) -> None:
        """Read or write one byte every `stride` bytes. Guarded pages and VMAs without the right are skipped."""
        op, start, _, stride = operation
        need, write = (WRITE, True) if op == "write" else (READ, False)
        for vma, lo, hi in pieces:
            if vma.rights & need:
                for slot, mask in touched_entries(start, stride, lo, hi):
                    self._install(vma, slot, mask, write)
        self._note_maximum()

    def touch_pages(self, vma: Vma, lo: int, hi: int, *, write: bool) -> None:
        """Write or read every page of [lo, hi), a part of a VMA that has the right."""
        for slot in range(lo // SLOT, (hi - 1) // SLOT + 1):
            self._install(vma, slot, mask_of(lo, hi, slot), write)
        self._note_maximum()

    def _note_maximum(self) -> None:
        self.max_present_pages = max(self.max_present_pages, self.present_pages)
        self.max_huge_pages = max(self.max_huge_pages, self.huge_pages)

    def dontneed(self, pieces: list[Piece]) -> None:
        """MADV_DONTNEED: zap each piece slot by slot, and free its table under the rules that do so."""
        gather = GatherBatches()
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                if table.huge:
                    if mask == ALL_ENTRIES:
                        self._zap_huge(table, gather)
                        continue
                    self._split(table)
                broke = gather.add(table.present & mask, table.folio) if self._asks_for_breaks else ""
                self.zapped += self._zap(table, mask)
                if table.is_empty:
                    size = mask.bit_count() * PAGE
                    for rule in self._zap_rules:
                        if size >= rule.least and broke not in rule.kept_after:
                            self._free(table, rule)
                    self._note_for_scans(slot, table)

    def zap_and_write(self, op: str, vma: Vma, lo: int, hi: int) -> None:
        """A zap of [lo, hi), `end_operation`, and a write of all its pages.

        op: dontneed or free. All pages of the VMA were written before. The entries are the same afterwards, so only
        what is counted changes. Not for rules with `kept_after`, nor while huge pages or guard markers may be there.
        """
        pages = (hi - lo) // PAGE
        self._operations += 1
        whole = max(0, hi // SLOT - -(-lo // SLOT))
        edges = [part for part in partly_covered(lo, hi) if self._is_all_in(vma, *part)]
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
        before, after = slot * SLOT, (slot + 1) * SLOT
        return (before < lo and self.is_mapped(before, lo)) or (hi < after and self.is_mapped(hi, after))

    def _is_all_in(self, vma: Vma, slot: int, lo: int, hi: int) -> bool:
        """Whether all entries of the slot's table are in [lo, hi), a part of a VMA whose pages are all present."""
        if (vma.start < lo and lo % SLOT) or (hi < vma.end and hi % SLOT):
            return False  # the page before or after it is in the slot, too
        table = self.page_tables.get(slot)
        return table is not None and not (table.present | table.zero | table.marker) & ~mask_of(lo, hi, slot)

    def free(self, pieces: list[Piece]) -> None:
        """MADV_FREE: clears nothing, as the kernel does so only under memory pressure.

        But it splits a huge page of which a piece covers a part, unless another process maps that, too
        (madvise_free_huge_pmd, madvise_free_pte_range).
        """
        if self._allowed is None:
            return
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                if table.folio & mask and table.folio & mask != ALL_ENTRIES and not table.is_shared:
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
            first, end = -(-lo // SLOT), hi // SLOT
            if not self._allowed.allows_collapse(vma) or first > end:
                return
            slot, has_gap = first, False
            while slot < end:
                if not self.page_tables.has_pmd_table(slot):
                    has_gap = True
                    slot = (slot * SLOT // PMD_SPAN + 1) * PMD_SPAN // SLOT
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
            for slot in range(lo // SLOT, (hi - 1) // SLOT + 1):
                mask = mask_of(lo, hi, slot)
                table = self.page_tables.install(slot)
                if table.huge and mask != ALL_ENTRIES:
                    self._split(table)
                self._zap(table, mask)
                table.marker |= mask
                self._allocate(table)

    def guard_remove(self, pieces: list[Piece]) -> None:
        """MADV_GUARD_REMOVE: clear the markers."""
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
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
            for slot, table in self.page_tables.tables_between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                if table.huge and mask != ALL_ENTRIES:
                    self._split(table)
                entries += self._zap(table, mask)
                if table.marker:
                    entries += (table.marker & mask).bit_count()
                    table.marker &= ~mask
                if not table.is_empty:
                    has_tables = True  # its entries show that something in the slot is mapped
                elif self.is_mapped(slot * SLOT, (slot + 1) * SLOT):
                    has_tables = True
                    self._free_if_counted(slot, table, mask)
                else:
                    self._unmap_table(slot, table)
            if not has_tables or lo // PMD_SPAN != (hi - 1) // PMD_SPAN:
                self.page_tables.free_uppers(lo, hi, self.is_mapped)
        return entries

    def move(self, start: int, end: int, to: int) -> None:
        """Move the entries of [start, end) to `to`, where nothing is mapped but the new VMA (move_page_tables).

        A whole slot takes its table along if the new place is aligned alike (move_normal_pmd, move_huge_pmd). Otherwise
        tables are allocated there, also for empty ones, and the old ones stay until they are unmapped.
        """
        if self._may_begin_at_slot(start, end, to):
            start, to = start - start % SLOT, to - to % SLOT
        self.page_tables.install_puds(start, end, to)
        self._note_most_tables()
        for slot, table in self.page_tables.tables_between(start // SLOT, (end - 1) // SLOT):
            if not table.exists:
                continue
            mask = mask_of(start, end, slot)
            new_slot, shift = divmod(slot * ENTRIES + (to - start) // PAGE, ENTRIES)
            if mask == ALL_ENTRIES and not shift and self.page_tables.get(new_slot) is None:
                self.page_tables.move(slot, new_slot)
                self._note_most_tables()
                continue
            if table.huge:
                self._split(table)
            for into, by in ((new_slot, shift), (new_slot + 1, shift - ENTRIES)):
                if mask << by & ALL_ENTRIES if by >= 0 else mask >> -by:
                    new_table = self.page_tables.install(into)
                    new_table.add_entries(table, mask, by)
                    self._allocate(new_table, table.exists)
            table.clear_entries(mask)
            self._note_for_scans(slot, table)

    def _may_begin_at_slot(self, start: int, end: int, to: int) -> bool:
        """Whether a move begins at the start of the slot instead of at `start` (can_realign_addr, Linux 6.7).

        It does if nothing but the two VMAs is mapped in the slots before them.
        """
        before = start % SLOT
        if not before or to % SLOT != before or end - start < SLOT - before:
            return False
        for address in (start, to):
            vma = self.vmas.find(address)
            if vma is None or vma.start != address or self.vmas.any_in(address - before, address):
                return False
        return True

    def is_mapped(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) is mapped, so that free_pgtables keeps its tables."""
        return self.vmas.any_in(start, end)

    def _unmap_table(self, slot: int, table: PteTable) -> None:
        """Free the table under all rules, without counting it in `freed`."""
        for bit, counts in zip(self._bits.values(), self.counts.values(), strict=True):
            if table.exists & bit:
                counts.tables -= 1
        table.exists = 0
        self.page_tables.free(slot)

    def _install(self, vma: Vma, slot: int, mask: int, write: bool) -> None:
        """Fault in the entries of `mask`: a write maps pages, a read the zero page where none is mapped.

        A read of a file or of shared memory maps pages as well. Follows do_anonymous_page, do_read_fault. Markers and
        present entries do not change.
        """
        if self._allowed is not None and self._install_huge(vma, slot, mask, write):
            return
        table = self.page_tables.install(slot)
        if write and table.folio:
            if table.is_shared:
                table.drop_folio(mask)  # each page is copied (wp_page_copy)
            else:
                table.written |= table.folio & mask
        mask &= ~(table.marker | table.present)
        if mask:
            self.installed += (mask & ~table.zero).bit_count()
            if write:
                if not vma.anon:
                    self.vmas.prepare_anon(vma)
                table.present |= mask
                table.zero &= ~mask
                self.present_pages += mask.bit_count()
            elif vma.backing > ANONYMOUS:
                table.present |= mask
                self.present_pages += mask.bit_count()
            else:
                table.zero |= mask
        if table.exists != self._all_bits:
            self._allocate(table)

    def _install_huge(self, vma: Vma, slot: int, mask: int, write: bool) -> bool:
        """Fault in the slot as a whole if a huge page may be or is there. Returns whether it is.

        Follows do_huge_pmd_anonymous_page and, for a write to the huge zero page, do_huge_zero_wp_pmd.
        """
        table = self.page_tables.get(slot)
        if table is None or not table.exists:
            assert self._allowed is not None
            if not self._allowed.allows_fault(vma) or not self.is_mapped_whole(vma, slot * SLOT, (slot + 1) * SLOT):
                return False
            table = self.page_tables.install(slot)
            self._allocate(table)
            self.vmas.prepare_anon(vma)
            table.huge, table.zero = True, ALL_ENTRIES
        elif not table.huge:
            return False
        if write and table.is_shared:  # copied page by page (do_huge_pmd_wp_page)
            self._split(table)
            return False
        if write:
            if table.zero:
                self.vmas.prepare_anon(vma)
                self.thp_faults += 1
                self._map_huge(table, 0)
            table.written |= mask
        return True

    def is_mapped_whole(self, vma: Vma, start: int, end: int) -> bool:
        """Whether all of [start, end) is mapped in this VMA."""
        return vma.start <= start and end <= vma.end

    def _map_huge(self, table: PteTable, written: int) -> None:
        """Let a PMD entry map a huge page, in which the pages of `written` hold something, in place of the table."""
        self.present_pages += ENTRIES - table.present.bit_count()
        self.huge_pages += 1
        table.drop_folio(ALL_ENTRIES)
        table.huge, table.present, table.zero = True, ALL_ENTRIES, 0
        table.folio, table.written = ALL_ENTRIES, written
        self._note_maximum()

    def _split(self, table: PteTable) -> None:
        """Let the table, with all entries, map what a PMD entry mapped (__split_huge_pmd)."""
        table.huge = False
        self.huge_pages -= bool(table.folio)
        self.thp_splits += 1

    def _split_folio(self, table: PteTable) -> None:
        """Split the huge page itself; pages that hold zeros become the zero page (try_to_map_unused_to_zeropage)."""
        if table.huge:
            self._split(table)
        unused = table.folio & ~table.written
        table.present ^= unused
        table.zero |= unused
        self.present_pages -= unused.bit_count()
        table.drop_folio(ALL_ENTRIES)

    def _zap_huge(self, table: PteTable, gather: GatherBatches) -> None:
        """Clear a PMD entry, and free the table that waited for a split, under every rule (zap_huge_pmd)."""
        if self._asks_for_breaks and table.folio:
            gather.add_huge_page()
        self._zap(table, ALL_ENTRIES)
        for rule in self._bits:
            self._free(table, rule)

    def _allocate(self, table: PteTable, bits: int = -1) -> None:
        """Let the table exist under the rules of `bits`, by default all. Counts it where it was missing."""
        bits &= self._all_bits & ~table.exists
        upper_tables = self.page_tables.upper_tables
        for bit, counts in zip(self._bits.values(), self.counts.values(), strict=True):
            if bits & bit:
                counts.allocated += 1
                counts.tables += 1
            # An operation that allocates tables frees none, so the maximum is reached at an allocation.
            if counts.tables + upper_tables > counts.max_tables:
                counts.max_tables = counts.tables + upper_tables
        table.exists |= bits

    def _note_most_tables(self) -> None:
        for counts in self.counts.values():
            counts.max_tables = max(counts.max_tables, counts.tables + self.page_tables.upper_tables)

    def _zap(self, table: PteTable, mask: int) -> int:
        """Clear the entries of `mask` except markers. Returns the number of cleared entries of the table.

        Of a huge page `mask` must be all.
        """
        if table.huge:
            table.huge = False
            self.huge_pages -= bool(table.folio)
            self.present_pages -= table.present.bit_count()
            table.present = table.zero = 0
            table.drop_folio(ALL_ENTRIES)
            return 0
        present, zero = table.present & mask, table.zero & mask
        if not (present or zero):
            return 0
        pages = present.bit_count()
        self.present_pages -= pages
        table.present ^= present
        table.zero ^= zero
        if table.folio:
            table.drop_folio(mask)
        return pages + zero.bit_count()

    def _free(self, table: PteTable, rule: TraceRule) -> None:
        """Free the table under one rule, if it exists there."""
        if table.exists & self._bits[rule]:
            table.exists &= ~self._bits[rule]
            self.counts[rule].tables -= 1
            self.counts[rule].freed += 1

    def _free_if_counted(self, slot: int, table: PteTable, mask: int) -> None:
        """Free the table, if it is empty, under the rules that count entries. mask: the entries that were just cleared.

        For entries that another call than a zap has cleared. Rules that scan find the table later.
        """
        if table.is_empty:
            for rule in self._zap_rules:
                if rule.counts and mask.bit_count() * PAGE >= rule.least:
                    self._free(table, rule)
            self._note_for_scans(slot, table)

    def _note_for_scans(self, slot: int, table: PteTable) -> None:
        """Note an empty table for the next scan of each rule that scans."""
        for rule, slots in self._scan_candidates.items():
            if table.exists & self._bits[rule]:
                slots.append(slot)


def partly_covered(lo: int, hi: int) -> list[tuple[int, int, int]]:
    """Return (slot, start, end) of the parts of [lo, hi) that cover a part of a slot: none, one or two."""
    first, last = lo // SLOT, hi // SLOT
    if first == last:
        return [(first, lo, hi)]
    parts = [(first, lo, (first + 1) * SLOT)] if lo % SLOT else []
    if hi % SLOT:
        parts.append((last, last * SLOT, hi))
    return parts


def touched_entries(start: int, stride: int, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """Yield (slot, entries as bits) for the bytes start, start + stride, ... inside [lo, hi)."""
    at = start + -(-(lo - start) // stride) * stride
    while at < hi:
        slot = at // SLOT
        stop = min(hi, (slot + 1) * SLOT)
        count = -(-(stop - at) // stride)
        yield slot, _strided_entries(at % SLOT, stride, count)
        at += count * stride


@lru_cache(1 << 16)
def _strided_entries(offset: int, stride: int, count: int) -> int:
    """Return the entries, as bits, of `count` touches that start `offset` bytes into a slot."""
    if stride <= PAGE:
        return mask_of(offset // PAGE * PAGE, (offset + (count - 1) * stride) // PAGE * PAGE + PAGE, 0)
    mask = 0
    for i in range(count):
        mask |= 1 << (offset + i * stride) // PAGE
    return mask
