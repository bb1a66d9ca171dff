"""The page tables of one address space: PTE, PMD and PUD tables of x86-64 with 4 KiB pages, as dicts by number.

Memory use is proportional to the number of tables. Several policies share one PageTables object: the entries of a
table are equal under all of them, and PteTable.exists records under which ones the table exists.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from engine.model.arch import ARCHES

GEOMETRY = ARCHES[0]
PAGE, SLOT = GEOMETRY.page_bytes, GEOMETRY.span_bytes
ENTRIES = GEOMETRY.entries
PMD_SPAN, PUD_SPAN = SLOT * GEOMETRY.pmd_span_tables, SLOT * GEOMETRY.pud_span_tables
ALL_ENTRIES = (1 << ENTRIES) - 1
MAX_TABLES = 1 << 22
"""Limit of PTE tables at a time. They map 8 TiB, and their PteTable objects take about 1 GiB of memory."""


class TraceError(ValueError):
    """An operation that no process can make, or a replay above a size limit. The message does not name the row."""


@dataclass(slots=True)
class Mappers:
    """The number of processes that map a huge page which a fork copied."""

    number: int = 1


@dataclass(slots=True)
class PteTable:
    """The entries of one slot as 512-bit integers, bit i for entry i.

    present: entries that map a page; zero: that map the zero page; marker: guard markers
    exists: a bit for each rule under which the table exists (engine/traces/address_space.py)
    huge: one PMD entry maps a huge page (all entries are present) or the huge zero page (all are zero); the table waits
    for a split (pgtable_trans_huge_deposit)
    folio: present entries whose pages belong to one huge page; written: those of them that were written
    mappers: those of the huge page, if a fork copied it
    """

    present: int = 0
    zero: int = 0
    marker: int = 0
    exists: int = 0
    huge: bool = False
    folio: int = 0
    written: int = 0
    mappers: Mappers | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.present | self.zero | self.marker)

    @property
    def is_shared(self) -> bool:
        """Whether another process maps the huge page, too."""
        return self.mappers is not None and self.mappers.number > 1

    def share_folio(self) -> Mappers | None:
        """Count another process that maps the huge page, if there is one. Returns its mappers."""
        if self.folio:
            self.mappers = self.mappers or Mappers()
            self.mappers.number += 1
        return self.mappers

    def drop_folio(self, mask: int) -> None:
        """Let the entries of `mask` map no page of the huge page any more."""
        self.folio &= ~mask
        self.written &= ~mask
        if not self.folio and self.mappers is not None:
            self.mappers.number -= 1
            self.mappers = None

    def add_entries(self, other: "PteTable", mask: int, by: int = 0) -> None:
        """Copy the entries of `mask` from another table, `by` places further up, or down if it is negative."""
        for name in ("present", "zero", "marker", "folio", "written"):
            bits = getattr(other, name) & mask
            setattr(self, name, getattr(self, name) | (bits << by & ALL_ENTRIES if by >= 0 else bits >> -by))

    def clear_entries(self, mask: int) -> None:
        """Clear the entries of `mask`, markers too."""
        for name in ("present", "zero", "marker"):
            setattr(self, name, getattr(self, name) & ~mask)
        self.drop_folio(mask)


class PageTables:
    """PTE tables by slot number (address // SLOT), and the PMD and PUD tables above them."""

    def __init__(self) -> None:
        self._pmds: dict[int, dict[int, PteTable]] = {}
        self._puds: dict[int, int] = {}  # number of PMD tables under each PUD table
        self.pte_tables = 0
        self.upper_tables = 0
        """Number of PMD and PUD tables."""

    @property
    def pmd_tables(self) -> int:
        return len(self._pmds)

    @property
    def pud_tables(self) -> int:
        return len(self._puds)

    def copy(self, exists: int) -> "PageTables":
        """Return a copy, in which tables exist under those rules only whose bits are in `exists`."""
        other = PageTables()
        other._puds = dict(self._puds)
        other._pmds = {
            number: {slot: replace(table, exists=table.exists & exists) for slot, table in pmd.items()}
            for number, pmd in self._pmds.items()
        }
        other.pte_tables, other.upper_tables = self.pte_tables, self.upper_tables
        return other

    def fork(self, ranges: Iterable[tuple[int, int]]) -> "PageTables":
        """Return the tables that a child has of the address ranges [start, end) that it copies (copy_page_range).

        Tables are copied at all levels, empty ones too; entries only as far as they are in the ranges.
        """
        child = PageTables()
        for start, end in ranges:
            for number in _keys(self._puds, start // PUD_SPAN, (end - 1) // PUD_SPAN):
                child._puds.setdefault(number, 0)
            for number in _keys(self._pmds, start // PMD_SPAN, (end - 1) // PMD_SPAN):
                if number not in child._pmds:
                    child._install_upper(number << 9)
                pmd, copied = self._pmds[number], child._pmds[number]
                for slot in _keys(pmd, start // SLOT, (end - 1) // SLOT):
                    if slot not in copied:
                        copied[slot] = PteTable(exists=pmd[slot].exists, huge=pmd[slot].huge)
                        child.pte_tables += 1
                    copied[slot].add_entries(pmd[slot], mask_of(start, end, slot))
                    if copied[slot].folio and copied[slot].mappers is None:
                        copied[slot].mappers = pmd[slot].share_folio()
        child.upper_tables = len(child._pmds) + len(child._puds)
        return child

    def all_tables(self) -> Iterator[PteTable]:
        """All PTE tables."""
        for pmd in self._pmds.values():
            yield from pmd.values()

    def install(self, slot: int) -> PteTable:
        """Return the slot's PTE table, creating it and the upper tables if they are missing.

        Raises TraceError above MAX_TABLES.
        """
        pmd = self._pmds.get(slot >> 9)
        if pmd is None:
            pmd = self._install_upper(slot)
        table = pmd.get(slot)
        if table is None:
            if self.pte_tables >= MAX_TABLES:
                raise TraceError(f"more than {MAX_TABLES:,} PTE tables at a time (8 TiB of slots): too many to replay")
            table = pmd[slot] = PteTable()
            self.pte_tables += 1
        return table

    def _install_upper(self, slot: int) -> dict[int, PteTable]:
        pmd = self._pmds[slot >> 9] = {}
        self._puds[slot >> 18] = self._puds.get(slot >> 18, 0) + 1
        self.upper_tables = len(self._pmds) + len(self._puds)
        return pmd

    def get(self, slot: int) -> PteTable | None:
        """Return the slot's PTE table, or None if it has none."""
        pmd = self._pmds.get(slot >> 9)
        return pmd.get(slot) if pmd else None

    def has_pmd_table(self, slot: int) -> bool:
        return slot >> 9 in self._pmds

    def tables_between(self, first: int, last: int) -> list[tuple[int, PteTable]]:
        """Return (slot, table) of the PTE tables of slots first..last (inclusive), by address. The list is a copy."""
        if first == last:
            table = self.get(first)
            return [(first, table)] if table else []
        tables = []
        for number in _keys(self._pmds, first >> 9, last >> 9):
            pmd = self._pmds[number]
            tables += [(slot, pmd[slot]) for slot in _keys(pmd, first, last)]
        return tables

    def free(self, slot: int) -> None:
        """Free the slot's PTE table, which must exist. The upper tables remain."""
        del self._pmds[slot >> 9][slot]
        self.pte_tables -= 1

    def install_puds(self, start: int, end: int, to: int) -> None:
        """Install the PUD tables of `to` on, to which the PMD tables over [start, end) are about to be moved.

        move_page_tables allocates them (alloc_new_pud) before it sees whether there are PTE tables to move.
        """
        for number in _keys(self._pmds, start // PMD_SPAN, (end - 1) // PMD_SPAN):
            first, last = max(start, number * PMD_SPAN), min(end, (number + 1) * PMD_SPAN) - 1
            for address in (first, last):
                self._puds.setdefault((address + to - start) // PUD_SPAN, 0)
        self.upper_tables = len(self._pmds) + len(self._puds)

    def move(self, slot: int, new_slot: int) -> None:
        """Let the table of `slot` be that of `new_slot`, which has none."""
        table = self._pmds[slot >> 9].pop(slot)
        pmd = self._pmds.get(new_slot >> 9)
        (self._install_upper(new_slot) if pmd is None else pmd)[new_slot] = table

    def free_uppers(self, start: int, end: int, is_mapped: Callable[[int, int], bool]) -> None:
        """Free the PMD and PUD tables over [start, end) in whose span nothing is mapped, as free_pgtables does.

        `is_mapped(start, end)` tells whether anything in a range is mapped. It is not called for a table that has
        tables below it, because these show that something is.
        """
        for number in _keys(self._pmds, start // PMD_SPAN, (end - 1) // PMD_SPAN):
            if not self._pmds[number] and not is_mapped(number * PMD_SPAN, (number + 1) * PMD_SPAN):
                del self._pmds[number]
                self._puds[number >> 9] -= 1
        for number in _keys(self._puds, start // PUD_SPAN, (end - 1) // PUD_SPAN):
            if not self._puds[number] and not is_mapped(number * PUD_SPAN, (number + 1) * PUD_SPAN):
                del self._puds[number]
        self.upper_tables = len(self._pmds) + len(self._puds)

    def needed(self) -> tuple[int, int, int]:
        """Return the numbers of (PTE tables with an entry, PMD tables above these, PUD tables above these)."""
        non_empty = {number: sum(not table.is_empty for table in pmd.values()) for number, pmd in self._pmds.items()}
        pmds = [number for number, tables in non_empty.items() if tables]
        return sum(non_empty.values()), len(pmds), len({number >> 9 for number in pmds})


def _keys(level: Mapping[int, object], first: int, last: int) -> list[int]:
    """Return the keys in first..last (inclusive), sorted. Iterates over the range or the keys, whichever is shorter."""
    if last - first < len(level):
        return [key for key in range(first, last + 1) if key in level]
    return sorted(key for key in level if first <= key <= last)


def mask_of(start: int, end: int, slot: int) -> int:
    """Return the entries of the slot that [start, end) covers, bit i for entry i. Addresses in bytes, page-aligned."""
    lo, hi = start - slot * SLOT, end - slot * SLOT
    if lo <= 0:
        return ALL_ENTRIES if hi >= SLOT else (1 << hi // PAGE) - 1
    lo //= PAGE
    return ((1 << (hi // PAGE if hi < SLOT else ENTRIES) - lo) - 1) << lo
