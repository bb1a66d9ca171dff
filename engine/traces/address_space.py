"""Replay of a trace's operations on one address space: entries, and the tables that exist under each policy.

Models x86-64 with 4 KiB pages, one process that never forks, and no memory pressure. docs/traces.md is the
specification. The policies that zap share one AddressSpace; munmap, under which a purge unmaps its range, has another
(engine/traces/replay.py).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from engine.model.policy import POLICIES
from engine.traces.page_tables import ALL_ENTRIES, PAGE, PMD_SPAN, SLOT, PageTables, PteTable, TraceError, mask_of
from engine.traces.vmas import READ, WRITE, Piece, Vma, Vmas

# Policy classes: the policies of a class keep the same tables. Each class is a bit of PteTable.exists.
NONE, REFCOUNT, ASYNC, BY_SLOT = 1, 2, 4, 8
CLASSES = (NONE, REFCOUNT, ASYNC, BY_SLOT)
ALL_CLASSES = NONE | REFCOUNT | ASYNC | BY_SLOT
CLASS_OF = {
    "none": NONE,
    "refcount": REFCOUNT,
    "async": ASYNC,
    "second_walk": BY_SLOT,
    "seed_inline": BY_SLOT,
    "merged": BY_SLOT,
}
ZAP_POLICIES = tuple(CLASS_OF)
assert (*ZAP_POLICIES, "munmap") == POLICIES

TOUCHES = ("write", "read")
PURGES = ("dontneed", "dontneed_locked", "free")
OPS = ("mmap", "munmap", "mprotect_ro", "mprotect_rw", *TOUCHES, *PURGES, "guard_install", "guard_remove")
MIN_ADDRESS, MAX_ADDRESS = 64 << 10, (1 << 47) - PAGE
"""A process can map [MIN_ADDRESS, MAX_ADDRESS): the default vm.mmap_min_addr, and TASK_SIZE with 4 levels."""


class Operation(NamedTuple):
    """One row of a trace. start, length and stride in bytes; stride is used by touches only.

    A tuple, because traces have millions of rows and tuples are faster to create than dataclasses.
    """

    op: str
    start: int
    length: int
    stride: int = 0

    @property
    def end(self) -> int:
        """The end address, with the length rounded up to whole pages as the system calls do."""
        return self.start + -(-self.length // PAGE) * PAGE


def check_operation(operation: Operation) -> None:
    """Raise TraceError if the operation is malformed, or if the system call would refuse it."""
    op, start, length = operation.op, operation.start, operation.length
    if op not in OPS:
        raise TraceError(f"unknown op {op!r}; known: {', '.join(OPS)}")
    if start < 0 or length < 0:
        raise TraceError(f"{op}: start {start} and length {length} must not be negative")
    if operation.end > MAX_ADDRESS:
        raise TraceError(f"{op}: [{start:#x}, +{length:#x}) is beyond what a process can map (below {MAX_ADDRESS:#x})")
    if op in TOUCHES:
        if operation.stride <= 0:
            raise TraceError(f"{op}: stride {operation.stride} must be 1 or more")
        return
    if start % PAGE:
        raise TraceError(f"{op}: start {start:#x} is not on a {PAGE}-byte page")
    if op in ("mmap", "munmap") and not length:
        raise TraceError(f"{op}: length must not be 0")
    if op == "mmap" and start < MIN_ADDRESS:
        raise TraceError(f"mmap: start {start:#x} is below what a process can map ({MIN_ADDRESS:#x})")


class AddressSpace:
    """The entries of one address space, and the tables that exist under each policy class.

    vmas: its VMAs, which the caller changes. Methods take ranges as pieces, already clipped to the VMAs.
    present_pages, max_present_pages: resident pages now, and their maximum so far
    installed, zapped: entries that touches installed, and entries that purges cleared
    allocated, freed: by policy class, tables allocated, and tables freed by purges (not those freed by munmap)
    """

    def __init__(self, vmas: Vmas, *, scan_every: int = 1) -> None:
        """`scan_every`: number of operations between two scans of the policy async."""
        self.vmas = vmas
        self.page_tables = PageTables()
        self.present_pages = self.max_present_pages = 0
        self.installed = self.zapped = 0
        self.freed = dict.fromkeys(CLASSES, 0)
        self.allocated = dict.fromkeys(CLASSES, 0)
        self._tables = dict.fromkeys(CLASSES, 0)  # PTE tables now, by policy class
        self._max_tables = dict.fromkeys(CLASSES, 0)  # maximum of the tables of all levels so far
        self._scan_every, self._operations = scan_every, 0
        self._async_candidates: list[PteTable] = []  # tables that were emptied since the last scan of async

    def vm_pte_kib(self, policy: str) -> int:
        """Return VmPTE in KiB: the memory of the tables of all levels."""
        return (self._tables[CLASS_OF[policy]] + self.page_tables.upper_tables) * (PAGE >> 10)

    def vm_pte_kib_max(self, policy: str) -> int:
        """Return the maximum of VmPTE so far, in KiB."""
        return self._max_tables[CLASS_OF[policy]] * (PAGE >> 10)

    def pte_tables(self, policy: str) -> int:
        """Return the number of PTE tables."""
        return self._tables[CLASS_OF[policy]]

    @property
    def res_kib(self) -> int:
        """Resident memory in KiB."""
        return self.present_pages * (PAGE >> 10)

    def end_operation(self) -> None:
        """Count an operation. After every `scan_every` of them, free the empty tables of the policy async."""
        self._operations += 1
        if self._async_candidates and self._operations % self._scan_every == 0:
            for table in self._async_candidates:
                if table.is_empty:
                    self._free(table, ASYNC)
            self._async_candidates.clear()

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
        """MADV_DONTNEED: zap each piece slot by slot. Only whole slots are candidates for reclaim (mm/pt_reclaim.c)."""
        for _, lo, hi in pieces:
            for slot, table in self.page_tables.tables_between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                self.zapped += self._zap(table, mask)
                if mask == ALL_ENTRIES and not table.marker:
                    self._free(table, BY_SLOT)
                self._free_if_empty(table)

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
                table.marker &= ~mask_of(lo, hi, slot)
                self._free_if_empty(table)

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
                    self._free_if_empty(table)
                else:
                    self._unmap_table(slot, table)
            if not has_tables or lo // PMD_SPAN != (hi - 1) // PMD_SPAN:
                self.page_tables.free_uppers(lo, hi, self.is_mapped)
        return entries

    def is_mapped(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) is mapped, so that free_pgtables keeps its tables."""
        return self.vmas.any_in(start, end)

    def _unmap_table(self, slot: int, table: PteTable) -> None:
        """Free the table under all policies, without counting it in `freed`."""
        for policy_class in CLASSES:
            self._tables[policy_class] -= bool(table.exists & policy_class)
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
        if table.exists != ALL_CLASSES:
            self._allocate(table)

    def _allocate(self, table: PteTable) -> None:
        """Let the table exist under every policy. Counts it for the classes under which it was missing."""
        for policy_class in CLASSES:
            if not table.exists & policy_class:
                self.allocated[policy_class] += 1
                self._tables[policy_class] += 1
                # An operation that allocates tables frees none, so the maximum is reached at an allocation.
                tables = self._tables[policy_class] + self.page_tables.upper_tables
                self._max_tables[policy_class] = max(self._max_tables[policy_class], tables)
        table.exists = ALL_CLASSES

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

    def _free(self, table: PteTable, policy_class: int) -> None:
        """Free the table under the policies of one class, if it exists there."""
        if table.exists & policy_class:
            table.exists &= ~policy_class
            self._tables[policy_class] -= 1
            self.freed[policy_class] += 1

    def _free_if_empty(self, table: PteTable) -> None:
        """After entries were cleared: free an empty table under refcount, and note it for the next scan of async."""
        if table.is_empty:
            self._free(table, REFCOUNT)
            if table.exists & ASYNC:
                self._async_candidates.append(table)


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
