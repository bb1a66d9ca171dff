"""A process counted: by VMA and by slot how many entries are not none, so how many PTE tables must and may exist.

The kernel tells VmPTE, which counts tables of all levels, and which entries are not none. A PTE table must exist for
every slot with an entry; the rest of VmPTE is upper tables, of which only bounds are known, and empty PTE tables.
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES, Arch
from sweep.common.errors import UserError
from sweep.process.pagemap import FILE, GUARD, HUGE, PFNZERO, PRESENT, SWAPPED, PageMap, Runs
from sweep.process.proc import Mapping, Sizes, exists, guarded, hugetlb_folders, mappings, sizes

KINDS = 40  # run lengths from one page up, by powers of two


@dataclass(frozen=True, slots=True)
class VmaCount:
    """One VMA: pages by what their entries hold, and its slots."""

    mapping: Mapping
    present: int
    zero: int
    swapped: int
    guard: int
    slots: int  #: that it touches
    slots_with_entry: int
    whole_slots: int  #: that lie wholly in it
    whole_without_entry: int

    @property
    def entries(self) -> int:
        return self.present + self.zero + self.swapped + self.guard


@dataclass(frozen=True, slots=True)
class Census:
    """All of it. slot_numbers, slot_entries: int64[n], by address, those with an entry that is not none."""

    arch: Arch
    sizes: Sizes
    vm_pte_kib_before: int  #: read before the entries, `sizes` after
    vmas: tuple[VmaCount, ...]
    slot_numbers: NDArray[np.int64]
    slot_entries: NDArray[np.int64]
    runs: NDArray[np.int64]  #: int64[2, KINDS]: how many runs of present pages, and their pages, by log2 of the length
    upper_least: int
    upper_most: int
    unseen_slots: int  #: without an entry that can be seen, but in device memory
    slots_without_entry: int  #: that a VMA touches
    whole_without_entry: int  #: of these, wholly in one VMA
    scanned: bool
    guards_seen: bool

    @property
    def table_kib(self) -> int:
        return self.arch.page_bytes >> 10

    @property
    def tables(self) -> int:
        """Of all levels."""
        return self.sizes.vm_pte_kib // self.table_kib

    @property
    def needed(self) -> int:
        """PTE tables that hold an entry."""
        return len(self.slot_numbers)

    @property
    def empty(self) -> tuple[int, int]:
        """PTE tables that exist and hold nothing: at least, at most."""
        least = self.tables - self.upper_most - self.needed - self.unseen_slots
        most = self.tables - self.upper_least - self.needed
        return max(0, min(least, self.slots_without_entry)), max(0, min(most, self.slots_without_entry))


def take(pid: int) -> Census:
    """Read a process. Raises UserError."""
    arch = this_arch()
    before = sizes(pid)
    vmas = mappings(pid)
    if not vmas:
        raise UserError(f"process {pid} has no memory of its own")
    huge = hugetlb_folders()
    pages = guarded(pid, lambda: PageMap(pid))
    try:
        counting = _Counting(arch)
        for mapping in vmas:
            runs = () if mapping.name.startswith(huge) else pages.runs(mapping.start, mapping.end)
            guarded(pid, partial(counting.add, mapping, runs))
    finally:
        pages.close()
    if not exists(pid):
        raise UserError(f"process {pid} ended while it was read")
    return counting.census(before, sizes(pid), pages)


def this_arch() -> Arch:
    """This machine's page-table geometry. Raises UserError where the engine has none."""
    page, machine = os.sysconf("SC_PAGE_SIZE"), platform.machine()
    family = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64"}.get(machine.lower(), machine)
    for arch in ARCHES:
        if arch.page_bytes == page and arch.name.startswith(family):
            return arch
    raise UserError(f"{machine} with pages of {page} bytes: known are {', '.join(a.name for a in ARCHES)}")


class _Counting:
    """Adds VMAs by address; a slot that two share is counted once."""

    def __init__(self, arch: Arch) -> None:
        self._page, self._span = arch.page_bytes, arch.span_bytes
        self._arch = arch
        self._vmas: list[VmaCount] = []
        self._numbers: list[NDArray[np.int64]] = []
        self._entries: list[NDArray[np.int64]] = []
        self._runs = np.zeros((2, KINDS), np.int64)

    def add(self, mapping: Mapping, runs: Iterable[Runs]) -> None:
        pages = dict.fromkeys((PRESENT, PFNZERO, SWAPPED, GUARD), 0)
        numbers, entries, resident = [], [], []
        for part in runs:
            length = (part.end - part.start) // self._page
            what = _what(part.kind)
            for kind in pages:
                pages[kind] += int(length[what == kind].sum())
            # A file's huge page has no PTE table under it; an anonymous one keeps a deposited table.
            in_table = (part.kind & (HUGE | FILE)) != HUGE | FILE
            slots, counts = by_slot(part.start[in_table], part.end[in_table], self._page, self._span)
            numbers.append(slots)
            entries.append(counts)
            resident.append((part.start[what == PRESENT], part.end[what == PRESENT]))
        slots, counts = _merged(numbers, entries)
        self._numbers.append(slots)
        self._entries.append(counts)
        if mapping.anonymous:
            self._runs += run_lengths(resident, self._page)
        first, last = -(-mapping.start // self._span), mapping.end // self._span
        within = int(np.count_nonzero((slots >= first) & (slots < last)))
        whole = max(0, last - first)
        self._vmas.append(
            VmaCount(
                mapping,
                present=pages[PRESENT],
                zero=pages[PFNZERO],
                swapped=pages[SWAPPED],
                guard=pages[GUARD],
                slots=(mapping.end - 1) // self._span - mapping.start // self._span + 1,
                slots_with_entry=len(slots),
                whole_slots=whole,
                whole_without_entry=whole - within,
            )
        )

    def census(self, before: Sizes, after: Sizes, pages: PageMap) -> Census:
        numbers, entries = _merged(self._numbers, self._entries)
        spans = [(v.mapping.start, v.mapping.end) for v in self._vmas]
        touched = _count(spans, self._span)
        unseen = [(v.mapping.start, v.mapping.end) for v in self._vmas if v.mapping.unseen]
        pmd = self._arch.pmd_span_tables
        levels = [pmd, self._arch.pud_span_tables] if self._arch.has_pud else [pmd]
        return Census(
            arch=self._arch,
            sizes=after,
            vm_pte_kib_before=before.vm_pte_kib,
            vmas=tuple(self._vmas),
            slot_numbers=numbers,
            slot_entries=entries,
            runs=self._runs,
            upper_least=sum(len(np.unique(numbers // level)) for level in levels),
            upper_most=sum(_count(spans, level * self._span) for level in levels),
            unseen_slots=_count(unseen, self._span) - _among(numbers, unseen, self._span),
            slots_without_entry=touched - len(numbers),
            whole_without_entry=sum(v.whole_without_entry for v in self._vmas),
            scanned=pages.scans,
            guards_seen=pages.sees_guards,
        )


def _what(kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """One of PRESENT, PFNZERO, SWAPPED, GUARD for each run."""
    what = np.where(kind & PRESENT != 0, PRESENT, np.where(kind & GUARD != 0, GUARD, SWAPPED))
    return np.where(kind & PFNZERO != 0, PFNZERO, what)


def by_slot(
    start: NDArray[np.int64], end: NDArray[np.int64], page: int, span: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots that runs of pages meet, and how many pages of each, by address; a slot may come more than once."""
    first, last = start // span, (end - 1) // span
    counts = last - first + 1
    slots = np.repeat(first - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(counts.sum())
    low, high = (
        np.maximum(np.repeat(start, counts), slots * span),
        np.minimum(np.repeat(end, counts), (slots + 1) * span),
    )
    return slots, (high - low) // page


def _merged(
    numbers: list[NDArray[np.int64]], entries: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One row a slot, from rows by address."""
    if not numbers:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    slots, counts = np.concatenate(numbers), np.concatenate(entries)
    if not len(slots):
        return slots, counts
    first = np.flatnonzero(np.diff(slots, prepend=slots[0] - 1))
    return slots[first], np.add.reduceat(counts, first)


def run_lengths(runs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], page: int) -> NDArray[np.int64]:
    """How many runs of present pages there are, neighbours joined, and their pages, by log2 of the length in pages."""
    out = np.zeros((2, KINDS), np.int64)
    if not runs:
        return out
    start, end = np.concatenate([r[0] for r in runs]), np.concatenate([r[1] for r in runs])
    if not len(start):
        return out
    breaks = np.flatnonzero(start[1:] != end[:-1])
    length = (end[np.append(breaks, len(end) - 1)] - start[np.insert(breaks + 1, 0, 0)]) // page
    kinds = np.floor(np.log2(length)).astype(np.int64)
    np.add.at(out[0], kinds, 1)
    np.add.at(out[1], kinds, length)
    return out


def _count(spans: list[tuple[int, int]], size: int) -> int:
    """How many aligned blocks of a size ranges by address meet."""
    total, last = 0, -1
    for start, end in spans:
        first = max(start // size, last + 1)
        last = max(last, (end - 1) // size)
        total += max(0, last - first + 1)
    return total


def _among(numbers: NDArray[np.int64], spans: list[tuple[int, int]], size: int) -> int:
    """How many of the numbers, which rise, are of blocks that the ranges by address meet."""
    found = np.zeros(len(numbers), np.bool_)
    for start, end in spans:
        low, high = np.searchsorted(numbers, [start // size, (end - 1) // size + 1])
        found[low:high] = True
    return int(found.sum())
