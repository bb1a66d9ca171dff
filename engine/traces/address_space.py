"""Replay of a trace's operations on one address space: entries, and the tables that exist under each rule.

Models x86-64 with 4 KiB pages, one process that never forks, and no memory pressure. docs/traces.md is the
specification. The policies that zap share one AddressSpace; munmap, under which a purge unmaps its range, has another
(engine/traces/replay.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from engine.traces.operations import Operation
from engine.traces.page_tables import PAGE, PMD_SPAN, SLOT, PageTables, PteTable, mask_of
from engine.traces.trace_rules import GatherSlots, TraceRule
from engine.traces.vmas import READ, WRITE, Piece, Vma, Vmas


@dataclass(slots=True)
class TableCounts:
    """PTE tables under one rule: those that exist, those allocated and freed by purges (not by munmap) so far.

    max_tables: maximum of the tables of all levels so far
    """

    tables: int = 0
    max_tables: int = 0
    allocated: int = 0
    freed: int = 0


class AddressSpace:
    """The entries of one address space, and the tables that exist under each of several rules.

    vmas: its VMAs, which the caller changes. Methods take ranges as pieces, already clipped to the VMAs.
    counts: of each rule
    present_pages, max_present_pages: resident pages now, and their maximum so far
    installed, zapped: entries that touches installed, and entries that purges cleared
    """

    def __init__(self, vmas: Vmas, rules: Sequence[TraceRule], *, scan_every: int = 1) -> None:
        """`scan_every`: number of operations between two scans of a rule that scans, times its `every`."""
        self.vmas = vmas
        self.counts = {rule: TableCounts() for rule in rules}
        self.page_tables = PageTables()
        self.present_pages = self.max_present_pages = 0
        self.installed = self.zapped = 0
        self._bits = {rule: 1 << i for i, rule in enumerate(self.counts)}  # of PteTable.exists
        self._all_bits = (1 << len(self._bits)) - 1
        self._zap_rules = [rule for rule in self._bits if rule.when == "zap"]
        self._asks_for_breaks = any(rule.kept_after for rule in self._zap_rules)
        self._scan_every, self._operations = scan_every, 0
        # Slots whose table was emptied since the last scan, by rule.
        self._scan_candidates: dict[TraceRule, list[int]] = {rule: [] for rule in self._bits if rule.when == "scan"}

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
        if self.present_pages > self.max_present_pages:
            self.max_present_pages = self.present_pages

    def dontneed(self, pieces: list[Piece]) -> None:
        """MADV_DONTNEED: zap each piece slot by slot, and free its table under the rules that do so."""
        gather = GatherSlots()
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                broke = gather.add(table.present & mask, 0) if self._asks_for_breaks else ""
                self.zapped += self._zap(table, mask)
                if table.is_empty:
                    size = mask.bit_count() * PAGE
                    for rule in self._zap_rules:
                        if size >= rule.least and broke not in rule.kept_after:
                            self._free(table, rule)
                    self._note_for_scans(slot, table)

    def free(self, pieces: list[Piece]) -> None:
        """MADV_FREE: does nothing, because the kernel clears the entries only under memory pressure."""

    def guard_install(self, pieces: list[Piece]) -> None:
        """MADV_GUARD_INSTALL: zap, then set markers, allocating the tables that are missing."""
        for vma, lo, hi in pieces:
            self.vmas.prepare_anon(vma)
            for slot in range(lo // SLOT, (hi - 1) // SLOT + 1):
                mask = mask_of(lo, hi, slot)
                table = self.page_tables.install(slot)
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

    def is_mapped(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) is mapped, so that free_pgtables keeps its tables."""
        return self.vmas.any_in(start, end)

    def _unmap_table(self, slot: int, table: PteTable) -> None:
        """Free the table under all rules, without counting it in `freed`."""
        for rule, bit in self._bits.items():
            self.counts[rule].tables -= bool(table.exists & bit)
        table.exists = 0
        self.page_tables.free(slot)

    def _install(self, vma: Vma, slot: int, mask: int, write: bool) -> None:
        """Fault in the entries of `mask`: a write maps pages, a read the zero page where none is mapped.

        Follows do_anonymous_page. Markers and present entries do not change.
        """
        table = self.page_tables.install(slot)
        mask &= ~(table.marker | table.present)
        if mask:
            self.installed += (mask & ~table.zero).bit_count()
            if write:
                if not vma.anon:
                    self.vmas.prepare_anon(vma)
                table.present |= mask
                table.zero &= ~mask
                self.present_pages += mask.bit_count()
            else:
                table.zero |= mask
        if table.exists != self._all_bits:
            self._allocate(table)

    def _allocate(self, table: PteTable) -> None:
        """Let the table exist under every rule. Counts it for those under which it was missing."""
        for rule, bit in self._bits.items():
            if not table.exists & bit:
                counts = self.counts[rule]
                counts.allocated += 1
                counts.tables += 1
                # An operation that allocates tables frees none, so the maximum is reached at an allocation.
                counts.max_tables = max(counts.max_tables, counts.tables + self.page_tables.upper_tables)
        table.exists = self._all_bits

    def _zap(self, table: PteTable, mask: int) -> int:
        """Clear the entries of `mask` except markers. Returns the number of cleared entries."""
        present, zero = table.present & mask, table.zero & mask
        if not (present or zero):
            return 0
        pages = present.bit_count()
        self.present_pages -= pages
        table.present ^= present
        table.zero ^= zero
        return pages + zero.bit_count()

    def _free(self, table: PteTable, rule: TraceRule) -> None:
        """Free the table under one rule, if it exists there."""
        if table.exists & self._bits[rule]:
            table.exists &= ~self._bits[rule]
            self.counts[rule].tables -= 1
            self.counts[rule].freed += 1

    def _free_if_counted(self, slot: int, table: PteTable, mask: int) -> None:
        """After entries of `mask` were cleared by another call than a purge: only counters notice an empty table."""
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
