"""PTE tables by address, kept as page tables are: 512 GiB regions, GiB regions, 2 MiB slots. x86-64, 4 KiB pages.

Memory grows with the tables that exist, not with addresses. One tree holds what several policies share: a table's
entries are the same under each of them, and only whether it exists differs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.arch import ARCHES

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

    def clear(self, mask: int, *, markers: bool) -> int:
        """Zap the entries in mask, with or without guard markers; how many pages were present."""
        gone = (self.present & mask).bit_count()
        self.present &= ~mask
        self.zero &= ~mask
        if markers:
            self.marker &= ~mask
        return gone


class Tree:
    """PTE tables by slot number, and the PMD and PUD tables above them."""

    def __init__(self) -> None:
        self._puds: dict[int, dict[int, dict[int, PteTable]]] = {}
        self.pmd_tables = 0
        self.pte_tables = 0

    @property
    def pud_tables(self) -> int:
        return len(self._puds)

    def install(self, slot: int) -> PteTable:
        """The slot's table, made with those above it where there is none. Raises TraceError at MAX_TABLES."""
        pud = self._puds.setdefault(slot >> 18, {})
        pmd = pud.get(slot >> 9)
        if pmd is None:
            pmd = pud[slot >> 9] = {}
            self.pmd_tables += 1
        table = pmd.get(slot)
        if table is None:
            if self.pte_tables >= MAX_TABLES:
                raise TraceError(f"more than {MAX_TABLES:,} PTE tables at a time (8 TiB of slots): too many to replay")
            table = pmd[slot] = PteTable()
            self.pte_tables += 1
        return table

    def between(self, first: int, last: int) -> Iterator[tuple[int, PteTable]]:
        """Tables of slots first..last, by address."""
        for top in _keys(self._puds, first >> 18, last >> 18):
            pud = self._puds[top]
            for middle in _keys(pud, first >> 9, last >> 9):
                pmd = pud[middle]
                for slot in _keys(pmd, first, last):
                    yield slot, pmd[slot]

    def uppers(self, level: int, first: int, last: int) -> list[int]:
        """Numbers first..last of the PMD (level 1) or PUD tables (2) that exist."""
        if level == 2:
            return _keys(self._puds, first, last)
        tops = _keys(self._puds, first >> 9, last >> 9)
        return [number for top in tops for number in _keys(self._puds[top], first, last)]

    def free(self, slot: int) -> None:
        del self._puds[slot >> 18][slot >> 9][slot]
        self.pte_tables -= 1

    def free_upper(self, level: int, number: int) -> None:
        """free_pgtables of a PMD or PUD table, which has no table below it any more."""
        if level == 1:
            assert not self._puds[number >> 9].pop(number)
            self.pmd_tables -= 1
        else:
            assert not self._puds.pop(number)


def _keys(level: Mapping[int, object], first: int, last: int) -> list[int]:
    """The keys within first..last, sorted; the cheaper of two ways."""
    if last - first < len(level):
        return [key for key in range(first, last + 1) if key in level]
    return sorted(key for key in level if first <= key <= last)


def mask_of(start: int, end: int, slot: int) -> int:
    """Entries of the slot that [start, end) covers, in bytes on page boundaries."""
    base = slot * SLOT
    lo, hi = max(start - base, 0) // PAGE, min(end - base, SLOT) // PAGE
    return ((1 << (hi - lo)) - 1) << lo
