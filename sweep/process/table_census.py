"""Counts the page tables of a live process: by VMA and by slot, how many entries are not none.

The kernel shows VmPTE, the tables of all levels, and which entries are not none. Each slot with an entry has a PTE
table. The rest of VmPTE is upper tables, which can only be bounded, and empty PTE tables.
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
from sweep.process.pagemap import FILE, GUARD, HUGE, PFNZERO, PRESENT, SWAPPED, PageMap, PageRuns
from sweep.process.proc import (
    Mapping,
    ProcessSizes,
    hugetlb_prefixes,
    process_exists,
    read_guarded,
    read_mappings,
    read_sizes,
)

RUN_LENGTH_BINS = 40
"""Bins of the histogram of run lengths; bin i holds runs of [2**i, 2**(i + 1)) pages."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class VmaCount:
    """One VMA: its pages by what their entries hold, and its slots by whether they have an entry in this VMA."""

    mapping: Mapping
    present: int
    zero: int
    swapped: int
    guard: int
    slots: int  #: that it overlaps
    slots_with_entry: int  #: in a table; huge pages of anonymous memory count, as they keep one
    slots_huge: int  #: with a huge page: one PMD entry
    slots_huge_file: int  #: of these without a table
    whole_slots: int  #: that are wholly in it
    whole_without_entry: int

    @property
    def slots_none(self) -> int:
        """Slots without any entry: with an empty table, or without one."""
        return self.slots - self.slots_with_entry - self.slots_huge_file

    @property
    def slots_table(self) -> int:
        """Slots whose table has entries."""
        return self.slots - self.slots_none - self.slots_huge

    @property
    def entries(self) -> int:
        return self.present + self.zero + self.swapped + self.guard


@dataclass(frozen=True, slots=True)
class TableCensus:
    """The counts of a process. `slot_numbers`, `slot_entries`: int64[n], by address, for each slot with an entry."""

    arch: Arch
    sizes: ProcessSizes  #: read after the entries
    vm_pte_kib_before: int  #: VmPTE read before the entries
    vmas: tuple[VmaCount, ...]
    slot_numbers: IntArray
    slot_entries: IntArray
    runs: IntArray  #: int64[2, RUN_LENGTH_BINS]: runs of present anonymous pages, and pages in them, by run length
    upper_least: int  #: least and most tables above PTE tables
    upper_most: int
    unseen_slots: int  #: slots of device memory, which pagemap does not show, without another entry
    slots_without_entry: int  #: slots that a VMA overlaps
    whole_without_entry: int  #: of these, wholly in one VMA
    has_scan: bool  #: whether the kernel has PAGEMAP_SCAN
    shows_guards: bool  #: whether it shows guard markers

    @property
    def table_kib(self) -> int:
        return self.arch.page_bytes >> 10

    @property
    def tables(self) -> int:
        """Page tables of all levels, from VmPTE."""
        return self.sizes.vm_pte_kib // self.table_kib

    @property
    def needed(self) -> int:
        """PTE tables with an entry."""
        return len(self.slot_numbers)

    @property
    def empty(self) -> tuple[int, int]:
        """Least and most PTE tables without an entry."""
        least = self.tables - self.upper_most - self.needed - self.unseen_slots
        most = self.tables - self.upper_least - self.needed
        return max(0, min(least, self.slots_without_entry)), max(0, min(most, self.slots_without_entry))


def take_census(pid: int) -> TableCensus:
    """Count the tables of a process. Only reads. Raises UserError if it cannot be read, or ends meanwhile."""
    arch = host_arch()
    sizes_before = read_sizes(pid)
    vmas = read_mappings(pid)
    if not vmas:
        raise UserError(f"process {pid} has no memory of its own")
    hugetlb = hugetlb_prefixes()
    pages = read_guarded(pid, lambda: PageMap(pid))
    try:
        builder = _CensusBuilder(arch)
        for mapping in vmas:
            runs = () if mapping.name.startswith(hugetlb) else pages.runs(mapping.start, mapping.end)
            read_guarded(pid, partial(builder.add, mapping, runs))
    finally:
        pages.close()
    if not process_exists(pid):
        raise UserError(f"process {pid} ended while it was read")
    return builder.census(sizes_before, read_sizes(pid), pages)


def host_arch() -> Arch:
    """The page-table geometry of this machine. Raises UserError if the engine has no model of it."""
    page_bytes, machine = os.sysconf("SC_PAGE_SIZE"), platform.machine()
    family = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64"}.get(machine.lower(), machine)
    for arch in ARCHES:
        if arch.page_bytes == page_bytes and arch.name.startswith(family):
            return arch
    raise UserError(f"{machine} with pages of {page_bytes} bytes: known are {', '.join(a.name for a in ARCHES)}")


class _CensusBuilder:
    """Takes the VMAs of a process in the order of their addresses. A slot that two VMAs share is counted once."""

    def __init__(self, arch: Arch) -> None:
        self._page, self._span = arch.page_bytes, arch.span_bytes
        self._arch = arch
        self._vmas: list[VmaCount] = []
        self._numbers: list[IntArray] = []
        self._entries: list[IntArray] = []
        self._runs = np.zeros((2, RUN_LENGTH_BINS), np.int64)

    def add(self, mapping: Mapping, runs: Iterable[PageRuns]) -> None:
        """Add a VMA and the runs of its pages whose entries are not none."""
        pages = dict.fromkeys((PRESENT, PFNZERO, SWAPPED, GUARD), 0)
        numbers, entries, resident = [], [], []
        huge_bytes = huge_file_bytes = 0
        for batch in runs:
            lengths = (batch.end - batch.start) // self._page
            contents = _contents(batch.kind)
            for content in pages:
                pages[content] += int(lengths[contents == content].sum())
            # A huge page of a file has no PTE table; an anonymous one keeps a deposited table.
            is_huge, is_file = batch.kind & HUGE != 0, batch.kind & FILE != 0
            huge_bytes += int((batch.end - batch.start)[is_huge].sum())
            huge_file_bytes += int((batch.end - batch.start)[is_huge & is_file].sum())
            has_table = ~(is_huge & is_file)
            slots, counts = entries_by_slot(batch.start[has_table], batch.end[has_table], self._page, self._span)
            numbers.append(slots)
            entries.append(counts)
            resident.append((batch.start[contents == PRESENT], batch.end[contents == PRESENT]))
        slots, counts = _sum_by_slot(numbers, entries)
        self._numbers.append(slots)
        self._entries.append(counts)
        if mapping.is_anonymous:
            self._runs += run_lengths(resident, self._page)
        huge = huge_bytes // self._span, huge_file_bytes // self._span
        self._vmas.append(self._vma_count(mapping, pages, slots, huge))

    def _vma_count(self, mapping: Mapping, pages: dict[int, int], slots: IntArray, huge: tuple[int, int]) -> VmaCount:
        """Return the counts of one VMA.

        pages: number of pages by content; slots: numbers of the slots with an entry, sorted
        huge: number of slots with a huge page, and of these with one of a file
        """
        first, last = -(-mapping.start // self._span), mapping.end // self._span
        whole_slots = max(0, last - first)
        whole_with_entry = int(np.count_nonzero((slots >= first) & (slots < last)))
        return VmaCount(
            mapping,
            present=pages[PRESENT],
            zero=pages[PFNZERO],
            swapped=pages[SWAPPED],
            guard=pages[GUARD],
            slots=(mapping.end - 1) // self._span - mapping.start // self._span + 1,
            slots_with_entry=len(slots),
            slots_huge=huge[0],
            slots_huge_file=huge[1],
            whole_slots=whole_slots,
            whole_without_entry=whole_slots - whole_with_entry,
        )

    def census(self, sizes_before: ProcessSizes, sizes_after: ProcessSizes, pages: PageMap) -> TableCensus:
        numbers, entries = _sum_by_slot(self._numbers, self._entries)
        ranges = [(v.mapping.start, v.mapping.end) for v in self._vmas]
        device_ranges = [(v.mapping.start, v.mapping.end) for v in self._vmas if v.mapping.is_device]
        pmd = self._arch.pmd_span_tables
        levels = [pmd, self._arch.pud_span_tables] if self._arch.has_pud else [pmd]
        return TableCensus(
            arch=self._arch,
            sizes=sizes_after,
            vm_pte_kib_before=sizes_before.vm_pte_kib,
            vmas=tuple(self._vmas),
            slot_numbers=numbers,
            slot_entries=entries,
            runs=self._runs,
            upper_least=sum(len(np.unique(numbers // level)) for level in levels),
            upper_most=sum(_count_blocks(ranges, level * self._span) for level in levels),
            unseen_slots=_count_blocks(device_ranges, self._span) - _count_in(numbers, device_ranges, self._span),
            slots_without_entry=_count_blocks(ranges, self._span) - len(numbers),
            whole_without_entry=sum(v.whole_without_entry for v in self._vmas),
            has_scan=pages.has_scan,
            shows_guards=pages.shows_guards,
        )


def _contents(kind: IntArray) -> IntArray:
    """For each run's kind bits, what its entries hold: PRESENT, PFNZERO, SWAPPED or GUARD."""
    contents = np.where(kind & PRESENT != 0, PRESENT, np.where(kind & GUARD != 0, GUARD, SWAPPED))
    return np.where(kind & PFNZERO != 0, PFNZERO, contents)


def entries_by_slot(start: IntArray, end: IntArray, page: int, span: int) -> tuple[IntArray, IntArray]:
    """The slots that runs [start, end) of pages overlap, and how many of their pages are in each slot.

    Addresses and sizes in bytes. By address; a slot that several runs overlap occurs several times.
    """
    first, last = start // span, (end - 1) // span
    counts = last - first + 1
    slots = np.repeat(first - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(counts.sum())
    low = np.maximum(np.repeat(start, counts), slots * span)
    high = np.minimum(np.repeat(end, counts), (slots + 1) * span)
    return slots, (high - low) // page


def _sum_by_slot(numbers: list[IntArray], entries: list[IntArray]) -> tuple[IntArray, IntArray]:
    """Slot numbers without repetition, and the sum of each one's entries. The numbers must be sorted."""
    if not numbers:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    slots, counts = np.concatenate(numbers), np.concatenate(entries)
    if not len(slots):
        return slots, counts
    first = np.flatnonzero(np.diff(slots, prepend=slots[0] - 1))
    return slots[first], np.add.reduceat(counts, first)


def run_lengths(runs: list[tuple[IntArray, IntArray]], page: int) -> IntArray:
    """int64[2, RUN_LENGTH_BINS]: number of runs, and pages in them, by run length. Adjacent runs are joined."""
    histogram = np.zeros((2, RUN_LENGTH_BINS), np.int64)
    if not runs:
        return histogram
    start, end = np.concatenate([r[0] for r in runs]), np.concatenate([r[1] for r in runs])
    if not len(start):
        return histogram
    breaks = np.flatnonzero(start[1:] != end[:-1])
    lengths = (end[np.append(breaks, len(end) - 1)] - start[np.insert(breaks + 1, 0, 0)]) // page
    bins = np.floor(np.log2(lengths)).astype(np.int64)
    np.add.at(histogram[0], bins, 1)
    np.add.at(histogram[1], bins, lengths)
    return histogram


def _count_blocks(ranges: list[tuple[int, int]], size: int) -> int:
    """How many aligned blocks of `size` bytes overlap the address ranges, which must be sorted."""
    total, last = 0, -1
    for start, end in ranges:
        first = max(start // size, last + 1)
        last = max(last, (end - 1) // size)
        total += max(0, last - first + 1)
    return total


def _count_in(numbers: IntArray, ranges: list[tuple[int, int]], size: int) -> int:
    """How many of the block numbers, which must be sorted, are of blocks of `size` bytes that overlap the ranges."""
    is_in = np.zeros(len(numbers), np.bool_)
    for start, end in ranges:
        low, high = np.searchsorted(numbers, [start // size, (end - 1) // size + 1])
        is_in[low:high] = True
    return int(is_in.sum())
