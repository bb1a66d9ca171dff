"""PTE tables by address, kept as page tables are: 512 GiB regions, GiB regions, 2 MiB slots. x86-64, 4 KiB pages.

Memory grows with the tables that exist, not with addresses. One tree holds what several policies share: a table's
entries are the same under each of them, and only whether it exists differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.model.arch import ARCHES

GEOMETRY = ARCHES[0]
PAGE, SLOT = GEOMETRY.page_bytes, GEOMETRY.span_bytes
ENTRIES = GEOMETRY.entries
PMD_SPAN, PUD_SPAN = SLOT * GEOMETRY.pmd_span_tables, SLOT * GEOMETRY.pud_span_tables
ALL_ENTRIES = (1 << ENTRIES) - 1
MAX_TABLES = 1 << 22
"""8 TiB of slots, about 1 GiB of memory here."""


class TraceError(ValueError):
    """What no process can ask for, or more than a replay holds. `str(error)` says which, without a place."""


@dataclass(slots=True)
class PteTable:
    """The entries of one slot as sets of 512 bits, bit i = entry i; `exists` has a bit for each class of policies."""

    present: int = 0
    zero: int = 0  #: maps the zero page
    marker: int = 0  #: guard marker
    exists: int = 0

    @property
    def empty(self) -> bool:
        return not (self.present | self.zero | self.marker)


class Tree:
    """PTE tables by slot number, and the PMD and PUD tables above them."""

    def __init__(self) -> None:
        self._pmds: dict[int, dict[int, PteTable]] = {}
        self._puds: dict[int, int] = {}  # how many PMD tables are below
        self.pte_tables = 0
        self.uppers = 0
        """PMD and PUD tables."""

    @property
    def pmd_tables(self) -> int:
        return len(self._pmds)

    @property
    def pud_tables(self) -> int:
        return len(self._puds)

    def install(self, slot: int) -> PteTable:
        """The slot's table, made with those above it where there is none. Raises TraceError at MAX_TABLES."""
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
        self.uppers = len(self._pmds) + len(self._puds)
        return pmd

    def between(self, first: int, last: int) -> list[tuple[int, PteTable]]:
        """Tables of slots first..last, by address; a list, which later changes leave alone."""
        if first == last:
            pmd = self._pmds.get(first >> 9)
            table = pmd.get(first) if pmd else None
            return [(first, table)] if table else []
        found = []
        for number in _keys(self._pmds, first >> 9, last >> 9):
            pmd = self._pmds[number]
            found += [(slot, pmd[slot]) for slot in _keys(pmd, first, last)]
        return found

    def free(self, slot: int) -> None:
        del self._pmds[slot >> 9][slot]
        self.pte_tables -= 1

    def free_uppers(self, start: int, end: int, mapped: Callable[[int, int], bool]) -> None:
        """free_pgtables: PMD and PUD tables of [start, end) in whose span nothing is mapped any more.

        A table below says that something is, so that most need not be asked.
        """
        for number in _keys(self._pmds, start // PMD_SPAN, (end - 1) // PMD_SPAN):
            if not self._pmds[number] and not mapped(number * PMD_SPAN, (number + 1) * PMD_SPAN):
                del self._pmds[number]
                self._puds[number >> 9] -= 1
        for number in _keys(self._puds, start // PUD_SPAN, (end - 1) // PUD_SPAN):
            if not self._puds[number] and not mapped(number * PUD_SPAN, (number + 1) * PUD_SPAN):
                del self._puds[number]
        self.uppers = len(self._pmds) + len(self._puds)

    def needed(self) -> tuple[int, int, int]:
        """PTE tables that hold an entry, and the PMD and PUD tables above those."""
        held = {number: sum(not table.empty for table in pmd.values()) for number, pmd in self._pmds.items()}
        pmds = [number for number, tables in held.items() if tables]
        return sum(held.values()), len(pmds), len({number >> 9 for number in pmds})


def _keys(level: Mapping[int, object], first: int, last: int) -> list[int]:
    """The keys within first..last, sorted; the cheaper of two ways."""
    if last - first < len(level):
        return [key for key in range(first, last + 1) if key in level]
    return sorted(key for key in level if first <= key <= last)


def mask_of(start: int, end: int, slot: int) -> int:
    """Entries of the slot that [start, end) covers, in bytes on page boundaries."""
    lo, hi = start - slot * SLOT, end - slot * SLOT
    if lo <= 0:
        return ALL_ENTRIES if hi >= SLOT else (1 << hi // PAGE) - 1
    lo //= PAGE
    return ((1 << (hi // PAGE if hi < SLOT else ENTRIES) - lo) - 1) << lo
