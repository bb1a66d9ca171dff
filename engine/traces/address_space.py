"""One address space driven operation by operation, as a recorded trace has them, judged under every policy.

x86-64 with 4 KiB pages, one process that never forks, no memory pressure. docs/traces.md is the law.
The zap policies share one set of entries; munmap, under which a purge unmaps, has its own (engine/traces/replay.py).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from engine.model.policy import POLICIES
from engine.traces.page_tables import ALL_ENTRIES, PAGE, PMD_SPAN, SLOT, PteTable, TraceError, Tree, mask_of
from engine.traces.vmas import READ, WRITE, Piece, Vma, Vmas

# Classes of policies by which tables they keep; each is a bit in PteTable.exists.
NONE, REFCOUNT, ASYNC, BY_SLOT = 1, 2, 4, 8
CLASSES = (NONE, REFCOUNT, ASYNC, BY_SLOT)
EVERY = NONE | REFCOUNT | ASYNC | BY_SLOT
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
LOWEST, HIGHEST = 64 << 10, (1 << 47) - PAGE
"""vm.mmap_min_addr as shipped, and TASK_SIZE of 4 levels: what a process can map."""


class Operation(NamedTuple):
    """One row of a trace: bytes; `stride` for touches only. A tuple, as millions are made."""

    op: str
    start: int
    length: int
    stride: int = 0

    @property
    def end(self) -> int:
        """Where it ends, rounded up to a page as the system calls do."""
        return self.start + -(-self.length // PAGE) * PAGE


def check(operation: Operation) -> None:
    """Raise TraceError for what is malformed, or what mmap and munmap would refuse."""
    op, start, length = operation.op, operation.start, operation.length
    if op not in OPS:
        raise TraceError(f"unknown op {op!r}; known: {', '.join(OPS)}")
    if start < 0 or length < 0:
        raise TraceError(f"{op}: start {start} and length {length} must not be negative")
    if operation.end > HIGHEST:
        raise TraceError(f"{op}: [{start:#x}, +{length:#x}) is beyond what a process can map (below {HIGHEST:#x})")
    if op in TOUCHES:
        if operation.stride <= 0:
            raise TraceError(f"{op}: stride {operation.stride} must be 1 or more")
        return
    if start % PAGE:
        raise TraceError(f"{op}: start {start:#x} is not on a {PAGE}-byte page")
    if op in ("mmap", "munmap") and not length:
        raise TraceError(f"{op}: length must not be 0")
    if op == "mmap" and start < LOWEST:
        raise TraceError(f"mmap: start {start:#x} is below what a process can map ({LOWEST:#x})")


class AddressSpace:
    """The entries of one address space, and under each class of policies the tables. Whose VMAs they are, `vmas` says.

    Ranges come clipped to the VMAs.
    """

    def __init__(self, vmas: Vmas, *, scan_every: int = 1) -> None:
        """`scan_every`: the async policy scans after so many operations."""
        self.vmas = vmas
        self.tree = Tree()
        self.present_pages = self.most_present_pages = 0
        self.installed = self.zapped = 0
        """Entries that touches installed, and that purges cleared."""
        self.freed = dict.fromkeys(CLASSES, 0)
        """Tables that a purge freed, by class; those that went by munmap are not counted."""
        self.allocated = dict.fromkeys(CLASSES, 0)
        self._tables = dict.fromkeys(CLASSES, 0)
        self._most_tables = dict.fromkeys(CLASSES, 0)  # of all levels
        self._scan_every, self._applied = scan_every, 0
        self._emptied: list[PteTable] = []

    def vm_pte_kib(self, policy: str) -> int:
        return (self._tables[CLASS_OF[policy]] + self.tree.uppers) * (PAGE >> 10)

    def vm_pte_kib_max(self, policy: str) -> int:
        """The highest so far."""
        return self._most_tables[CLASS_OF[policy]] * (PAGE >> 10)

    def pte_tables(self, policy: str) -> int:
        return self._tables[CLASS_OF[policy]]

    @property
    def res_kib(self) -> int:
        return self.present_pages * (PAGE >> 10)

    def settle(self) -> None:
        """The end of an operation: async scans when it is time."""
        self._applied += 1
        if self._emptied and self._applied % self._scan_every == 0:
            for table in self._emptied:
                if table.empty:
                    self._free(table, ASYNC)
            self._emptied.clear()

    def touch(self, operation: Operation, pieces: list[Piece]) -> None:
        """Read or write a byte every `stride`; what is guarded or has not the right is passed over."""
        op, start, _, stride = operation
        need, write = (WRITE, True) if op == "write" else (READ, False)
        for vma, lo, hi in pieces:
            if vma.rights & need:
                for slot, mask in touched(start, stride, lo, hi):
                    self._install(vma, slot, mask, write)
        if self.present_pages > self.most_present_pages:
            self.most_present_pages = self.present_pages

    def dontneed(self, pieces: list[Piece]) -> None:
        """MADV_DONTNEED: clipped to each VMA, cut at slots; only a whole slot asks for its table (mm/pt_reclaim.c)."""
        for _, lo, hi in pieces:
            for slot, table in self.tree.between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                self.zapped += self._zap(table, mask)
                if mask == ALL_ENTRIES and not table.marker:
                    self._free(table, BY_SLOT)
                self._cleared(table)

    def free(self, pieces: list[Piece]) -> None:
        """MADV_FREE leaves the entries until memory is short, which it never is here."""

    def guard_install(self, pieces: list[Piece]) -> None:
        """MADV_GUARD_INSTALL zaps, and leaves markers in tables that it makes where there are none."""
        for vma, lo, hi in pieces:
            self.vmas.prepare_anon(vma)
            for slot in range(lo // SLOT, (hi - 1) // SLOT + 1):
                mask = mask_of(lo, hi, slot)
                table = self.tree.install(slot)
                self._zap(table, mask)
                table.marker |= mask
                self._make(table)

    def guard_remove(self, pieces: list[Piece]) -> None:
        for _, lo, hi in pieces:
            for slot, table in self.tree.between(lo // SLOT, (hi - 1) // SLOT):
                table.marker &= ~mask_of(lo, hi, slot)
                self._cleared(table)

    def unmapped(self, gone: list[Piece]) -> int:
        """unmap_vmas, then free_pgtables: a table, of any level, goes when nothing in its span is mapped any more.

        How many entries were cleared, markers too.
        """
        entries = 0
        for _, lo, hi in gone:
            kept = False
            for slot, table in self.tree.between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                entries += self._zap(table, mask)
                if table.marker:
                    entries += (table.marker & mask).bit_count()
                    table.marker &= ~mask
                if not table.empty:
                    kept = True  # an entry says that something is mapped
                elif self.mapped(slot * SLOT, (slot + 1) * SLOT):
                    kept = True
                    self._cleared(table)
                else:
                    self._unmap_table(slot, table)
            if not kept or lo // PMD_SPAN != (hi - 1) // PMD_SPAN:
                self.tree.free_uppers(lo, hi, self.mapped)
        return entries

    def mapped(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) keeps a table there from free_pgtables."""
        return self.vmas.any_in(start, end)

    def _unmap_table(self, slot: int, table: PteTable) -> None:
        for kind in CLASSES:
            self._tables[kind] -= bool(table.exists & kind)
        table.exists = 0
        self.tree.free(slot)

    def _install(self, vma: Vma, slot: int, mask: int, write: bool) -> None:
        """Faults: a write makes pages present, a read of a none entry maps the zero page (do_anonymous_page)."""
        table = self.tree.install(slot)
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
        if table.exists != EVERY:
            self._make(table)

    def _make(self, table: PteTable) -> None:
        for kind in CLASSES:
            if not table.exists & kind:
                self.allocated[kind] += 1
                self._tables[kind] += 1
                # Until the operation ends there are no fewer, so that this is the highest if any is.
                self._most_tables[kind] = max(self._most_tables[kind], self._tables[kind] + self.tree.uppers)
        table.exists = EVERY

    def _zap(self, table: PteTable, mask: int) -> int:
        """Clear the entries in mask but for markers; how many there were."""
        present, zero = table.present & mask, table.zero & mask
        if not (present or zero):
            return 0
        pages = present.bit_count()
        self.present_pages -= pages
        table.present ^= present
        table.zero ^= zero
        return pages + zero.bit_count()

    def _free(self, table: PteTable, kind: int) -> None:
        if table.exists & kind:
            table.exists &= ~kind
            self._tables[kind] -= 1
            self.freed[kind] += 1

    def _cleared(self, table: PteTable) -> None:
        """Entries were cleared: refcount frees at once what holds none, async when it scans."""
        if table.empty:
            self._free(table, REFCOUNT)
            if table.exists & ASYNC:
                self._emptied.append(table)


def touched(start: int, stride: int, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """(slot, entries) of the bytes start, start + stride, ... that lie in [lo, hi)."""
    at = start + -(-(lo - start) // stride) * stride
    while at < hi:
        slot = at // SLOT
        stop = min(hi, (slot + 1) * SLOT)
        count = -(-(stop - at) // stride)
        yield slot, _pattern(at % SLOT, stride, count)
        at += count * stride


@lru_cache(1 << 16)
def _pattern(offset: int, stride: int, count: int) -> int:
    """Entries of `count` touches from a byte of a slot on."""
    if stride <= PAGE:
        return mask_of(offset // PAGE * PAGE, (offset + (count - 1) * stride) // PAGE * PAGE + PAGE, 0)
    mask = 0
    for i in range(count):
        mask |= 1 << (offset + i * stride) // PAGE
    return mask
