"""The page tables of one address space, and which of them exist under each of several rules."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from engine.traces.geometry import Geometry
from engine.traces.page_tables import PageTables, PteTable
from engine.traces.trace_rules import TraceRule


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


class RuledTables:
    """Page tables, and the PTE tables among them that exist under each rule.

    counts: of each rule
    page_bytes, slot_bytes, entries, all_entries, mask_of: those of the geometry, which the inner loops need
    """

    def __init__(self, rules: Sequence[TraceRule], geometry: Geometry, scan_every: int) -> None:
        """`scan_every`: number of operations between two scans of a rule that scans, times its `every`."""
        self.geometry, self.mask_of = geometry, geometry.mask_of
        self.page_bytes, self.slot_bytes = geometry.page, geometry.slot
        self.entries, self.all_entries = geometry.entries, geometry.all_entries
        self.counts = {rule: TableCounts() for rule in rules}
        self.page_tables = PageTables(geometry)
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

    def vm_pte_kib(self, rule: TraceRule) -> int:
        """Return VmPTE in KiB: the memory of the tables of all levels."""
        return (self.counts[rule].tables + self.page_tables.upper_tables) * self.geometry.page_kib

    def vm_pte_kib_max(self, rule: TraceRule) -> int:
        """Return the maximum of VmPTE so far, in KiB."""
        return self.counts[rule].max_tables * self.geometry.page_kib

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
                if rule.counts and mask.bit_count() * self.page_bytes >= rule.least:
                    self._free(table, rule)
            self._note_for_scans(slot, table)

    def _note_for_scans(self, slot: int, table: PteTable) -> None:
        """Note an empty table for the next scan of each rule that scans."""
        for rule, slots in self._scan_candidates.items():
            if table.exists & self._bits[rule]:
                slots.append(slot)

    def _unmap_table(self, slot: int, table: PteTable) -> None:
        """Free the table under all rules, without counting it in `freed`."""
        for bit, counts in zip(self._bits.values(), self.counts.values(), strict=True):
            if table.exists & bit:
                counts.tables -= 1
        table.exists = 0
        self.page_tables.free(slot)
