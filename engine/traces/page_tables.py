"""The page tables of one address space: PTE, PMD and PUD tables, as dicts by number.

Memory use is proportional to the number of tables. Several policies share one PageTables object: the entries of a
table are equal under all of them, and PteTable.exists records under which ones the table exists.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from engine.traces.geometry import X86, Geometry

PAGE, SLOT = X86.page, X86.slot
"""Of x86-64, where recordings of `sweep record` and kernel traces are made."""
MAX_ENTRIES = 1 << 31
"""Limit of the entries of all tables. They map 8 TiB with pages of 4 KiB; the tables take about 1 GiB of memory."""


class TraceError(ValueError):
    """An operation that no process can make, or a replay above a size limit. The message does not name the row."""


@dataclass(slots=True)
class Mappers:
    """The number of processes that map a huge page which a fork copied."""

    number: int = 1


@dataclass(slots=True)
class PteTable:
    """The entries of one slot as integers, bit i for entry i.

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

    def add_entries(self, other: "PteTable", mask: int, by: int = 0, kept: int = -1) -> None:
        """Copy the entries of `mask` from another table, `by` places further up, or down if it is negative.

        kept: the entries that a table has; those that would come to be beyond are left out
        """
        for name in ("present", "zero", "marker", "folio", "written"):
            bits = getattr(other, name) & mask
            setattr(self, name, getattr(self, name) | (bits << by & kept if by >= 0 else bits >> -by))

    def clear_entries(self, mask: int) -> None:
        """Clear the entries of `mask`, markers too."""
        for name in ("present", "zero", "marker"):
            setattr(self, name, getattr(self, name) & ~mask)
        self.drop_folio(mask)


class PageTables:
    """PTE tables by slot number (address // slot), and the PMD and PUD tables above them, which may be folded."""

    def __init__(self, geometry: Geometry = X86) -> None:
        self.geometry = geometry
        self._shift, self._has_puds = geometry.shift, geometry.arch.has_pud
        self._most_tables = MAX_ENTRIES // geometry.entries
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
        return len(self._puds) if self._has_puds else 0

    def _count_upper(self) -> None:
        self.upper_tables = len(self._pmds) + self.pud_tables

    def copy(self, exists: int) -> "PageTables":
        """Return a copy, in which tables exist under those rules only whose bits are in `exists`."""
        other = PageTables(self.geometry)
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
        child, geometry = PageTables(self.geometry), self.geometry
        for start, end in ranges:
            for number in _keys(self._puds, start // geometry.pud_span, (end - 1) // geometry.pud_span):
                child._puds.setdefault(number, 0)
            for number in _keys(self._pmds, start // geometry.pmd_span, (end - 1) // geometry.pmd_span):
                if number not in child._pmds:
                    child._install_upper(number << self._shift)
                pmd, copied = self._pmds[number], child._pmds[number]
                for slot in _keys(pmd, start // geometry.slot, (end - 1) // geometry.slot):
                    if slot not in copied:
                        copied[slot] = PteTable(exists=pmd[slot].exists, huge=pmd[slot].huge)
                        child.pte_tables += 1
                    copied[slot].add_entries(pmd[slot], geometry.mask_of(start, end, slot))
                    if copied[slot].folio and copied[slot].mappers is None:
                        copied[slot].mappers = pmd[slot].share_folio()
        child._count_upper()
        return child

    def all_tables(self) -> Iterator[PteTable]:
        """All PTE tables."""
        for pmd in self._pmds.values():
            yield from pmd.values()

    def install(self, slot: int) -> PteTable:
        """Return the slot's PTE table, creating it and the upper tables if they are missing.

        Raises TraceError above MAX_ENTRIES.
        """
        pmd = self._pmds.get(slot >> self._shift)
        if pmd is None:
            pmd = self._install_upper(slot)
        table = pmd.get(slot)
        if table is None:
            if self.pte_tables >= self._most_tables:
                reach = f"{self._most_tables * self.geometry.slot >> 40} TiB of slots"
                raise TraceError(f"more than {self._most_tables:,} PTE tables at a time ({reach}): too many to replay")
            table = pmd[slot] = PteTable()
            self.pte_tables += 1
        return table

    def _install_upper(self, slot: int) -> dict[int, PteTable]:
        pmd = self._pmds[slot >> self._shift] = {}
        pud = slot >> 2 * self._shift
        self._puds[pud] = self._puds.get(pud, 0) + 1
        self._count_upper()
        return pmd

    def get(self, slot: int) -> PteTable | None:
        """Return the slot's PTE table, or None if it has none."""
        pmd = self._pmds.get(slot >> self._shift)
        return pmd.get(slot) if pmd else None

    def has_pmd_table(self, slot: int) -> bool:
        return slot >> self._shift in self._pmds

    def tables_between(self, first: int, last: int) -> list[tuple[int, PteTable]]:
        """Return (slot, table) of the PTE tables of slots first..last (inclusive), by address. The list is a copy."""
        if first == last:
            table = self.get(first)
            return [(first, table)] if table else []
        tables = []
        for number in _keys(self._pmds, first >> self._shift, last >> self._shift):
            pmd = self._pmds[number]
            tables += [(slot, pmd[slot]) for slot in _keys(pmd, first, last)]
        return tables

    def free(self, slot: int) -> None:
        """Free the slot's PTE table, which must exist. The upper tables remain."""
        del self._pmds[slot >> self._shift][slot]
        self.pte_tables -= 1

    def install_puds(self, start: int, end: int, to: int) -> None:
        """Install the PUD tables of `to` on, to which the PMD tables over [start, end) are about to be moved.

        move_page_tables allocates them (alloc_new_pud) before it sees whether there are PTE tables to move.
        """
        span = self.geometry.pmd_span
        for number in _keys(self._pmds, start // span, (end - 1) // span):
            first, last = max(start, number * span), min(end, (number + 1) * span) - 1
            for address in (first, last):
                self._puds.setdefault((address + to - start) // self.geometry.pud_span, 0)
        self._count_upper()

    def move(self, slot: int, new_slot: int) -> None:
        """Let the table of `slot` be that of `new_slot`, which has none."""
        table = self._pmds[slot >> self._shift].pop(slot)
        pmd = self._pmds.get(new_slot >> self._shift)
        (self._install_upper(new_slot) if pmd is None else pmd)[new_slot] = table

    def free_uppers(self, start: int, end: int, is_mapped: Callable[[int, int], bool]) -> None:
        """Free the PMD and PUD tables over [start, end) in whose span nothing is mapped, as free_pgtables does.

        `is_mapped(start, end)` tells whether anything in a range is mapped. It is not called for a table that has
        tables below it, because these show that something is.
        """
        span = self.geometry.pmd_span
        for number in _keys(self._pmds, start // span, (end - 1) // span):
            if not self._pmds[number] and not is_mapped(number * span, (number + 1) * span):
                del self._pmds[number]
                self._puds[number >> self._shift] -= 1
        span = self.geometry.pud_span
        for number in _keys(self._puds, start // span, (end - 1) // span):
            if not self._puds[number] and not is_mapped(number * span, (number + 1) * span):
                del self._puds[number]
        self._count_upper()

    def needed(self) -> tuple[int, int, int]:
        """Return the numbers of (PTE tables with an entry, PMD tables above these, PUD tables above these)."""
        non_empty = {number: sum(not table.is_empty for table in pmd.values()) for number, pmd in self._pmds.items()}
        pmds = [number for number, tables in non_empty.items() if tables]
        puds = {number >> self._shift for number in pmds} if self._has_puds else ()
        return sum(non_empty.values()), len(pmds), len(puds)


def _keys(level: Mapping[int, object], first: int, last: int) -> list[int]:
    """Return the keys in first..last (inclusive), sorted. Iterates over the range or the keys, whichever is shorter."""
    if last - first < len(level):
        return [key for key in range(first, last + 1) if key in level]
    return sorted(key for key in level if first <= key <= last)
