"""One address space driven operation by operation, as a recorded trace has them, judged under every policy.

x86-64 with 4 KiB pages, one process that never forks, no memory pressure. docs/traces.md is the law.
The zap policies share one set of entries; munmap, under which a purge unmaps, has its own (engine/replay.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from engine.policy import POLICIES
from engine.tree import ALL_ENTRIES, PAGE, PMD_SPAN, PUD_SPAN, SLOT, PteTable, TraceError, Tree, mask_of
from engine.vma import ANONYMOUS, READ, WRITE, Vma, Vmas

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


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of a trace: bytes; `stride` for touches only."""

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
    """VMAs, entries, and under each class of policies the tables."""

    def __init__(self, *, scan_every: int = 1) -> None:
        """`scan_every`: the async policy scans after so many operations."""
        self.vmas = Vmas()
        self.tree = Tree()
        self.present_pages = 0
        self.freed = dict.fromkeys(CLASSES, 0)
        """Tables that a purge freed, by class; those that went by munmap are not counted."""
        self._tables = dict.fromkeys(CLASSES, 0)
        self._scan_every, self._applied = scan_every, 0
        self._emptied: list[PteTable] = []

    def vm_pte_kib(self, policy: str) -> int:
        pte_tables = self._tables[CLASS_OF[policy]]
        return (pte_tables + self.tree.pmd_tables + self.tree.pud_tables) * (PAGE >> 10)

    def pte_tables(self, policy: str) -> int:
        return self._tables[CLASS_OF[policy]]

    def freed_by(self, policy: str) -> int:
        return self.freed[CLASS_OF[policy]]

    @property
    def res_kib(self) -> int:
        return self.present_pages * (PAGE >> 10)

    def apply(self, operation: Operation) -> None:
        """Do one operation. Raises TraceError: before anything is done, or at a limit on the way."""
        check(operation)
        start, end = operation.start, operation.end
        match operation.op:
            case "mmap":
                self.mmap(start, end, READ | WRITE)
            case "munmap":
                self.munmap(start, end)
            case "mprotect_ro":
                self.vmas.mprotect(start, end, READ)
            case "mprotect_rw":
                self.vmas.mprotect(start, end, READ | WRITE)
            case "write" | "read":
                self.touch(operation)
            case "dontneed" | "dontneed_locked":
                self.dontneed(start, end)
            case "guard_install":
                self.guard_install(start, end)
            case "guard_remove":
                self.guard_remove(start, end)
            case "free":
                self.free(start, end)
        self.settle()

    def mmap(self, start: int, end: int, rights: int, backing: int = ANONYMOUS) -> None:
        """MAP_FIXED: what was there goes first."""
        self.munmap(start, end)
        self.vmas.mmap(start, end, rights, backing)

    def free(self, start: int, end: int) -> None:
        """MADV_FREE leaves the entries until memory is short, which it never is here."""

    def settle(self) -> None:
        """The end of an operation: async scans when it is time."""
        self._applied += 1
        if self._applied % self._scan_every == 0:
            for table in self._emptied:
                if table.empty:
                    self._free(table, ASYNC)
            self._emptied.clear()

    def touch(self, operation: Operation) -> None:
        """Read or write a byte every `stride`; what is unmapped, guarded or read-only is passed over."""
        need, write = (WRITE, True) if operation.op == "write" else (READ, False)
        for vma, lo, hi in self.pieces(operation.start, operation.start + operation.length):
            if not vma.rights & need:
                continue
            for slot, mask in touched(operation.start, operation.stride, lo, hi):
                self._install(vma, slot, mask, write)

    def touch_all(self, start: int, end: int) -> None:
        """Write every page of [start, end) that is mapped, or read it where it cannot be written."""
        for vma in self.vmas.overlapping(start, end):
            if vma.rights:
                lo, hi = max(start, vma.start), min(end, vma.end)
                self.touch(Operation("write" if vma.rights & WRITE else "read", lo, hi - lo, PAGE))

    def dontneed(self, start: int, end: int) -> None:
        """MADV_DONTNEED: clipped to each VMA, cut at slots; only a whole slot asks for its table (mm/pt_reclaim.c)."""
        for _, lo, hi in self.pieces(start, end):
            for slot, table in self.tree.between(lo // SLOT, (hi - 1) // SLOT):
                mask = mask_of(lo, hi, slot)
                self.present_pages -= table.clear(mask, markers=False)
                if mask == ALL_ENTRIES and not table.marker:
                    self._free(table, BY_SLOT)
                self._cleared(table)

    def guard_install(self, start: int, end: int) -> None:
        """MADV_GUARD_INSTALL zaps, and leaves markers in tables that it makes where there are none."""
        for vma, lo, hi in self.pieces(start, end):
            self.vmas.prepare_anon(vma)
            for slot in range(lo // SLOT, (hi - 1) // SLOT + 1):
                mask = mask_of(lo, hi, slot)
                table = self.tree.install(slot)
                self.present_pages -= table.clear(mask, markers=False)
                table.marker |= mask
                self._make(table)

    def guard_remove(self, start: int, end: int) -> None:
        for _, lo, hi in self.pieces(start, end):
            for slot, table in self.tree.between(lo // SLOT, (hi - 1) // SLOT):
                table.marker &= ~mask_of(lo, hi, slot)
                self._cleared(table)

    def munmap(self, start: int, end: int) -> None:
        self.unmapped(self.vmas.munmap(start, end))

    def unmapped(self, gone: list[tuple[int, int]]) -> None:
        """unmap_vmas, then free_pgtables: a table, of any level, goes when nothing in its span is mapped any more."""
        for lo, hi in gone:
            for slot, table in self.tree.between(lo // SLOT, (hi - 1) // SLOT):
                self.present_pages -= table.clear(mask_of(lo, hi, slot), markers=True)
        for lo, hi in gone:
            for slot, table in list(self.tree.between(lo // SLOT, (hi - 1) // SLOT)):
                if self.mapped(slot * SLOT, (slot + 1) * SLOT):
                    self._cleared(table)
                else:
                    self._unmap_table(slot, table)
        for level, span in ((1, PMD_SPAN), (2, PUD_SPAN)):
            for lo, hi in gone:
                for number in self.tree.uppers(level, lo // span, (hi - 1) // span):
                    if not self.mapped(number * span, (number + 1) * span):
                        self.tree.free_upper(level, number)

    def mapped(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) keeps a table there from free_pgtables."""
        return self.vmas.any_in(start, end)

    def _unmap_table(self, slot: int, table: PteTable) -> None:
        for kind in CLASSES:
            self._tables[kind] -= bool(table.exists & kind)
        table.exists = 0
        self.tree.free(slot)

    def pieces(self, start: int, end: int) -> Iterator[tuple[Vma, int, int]]:
        """[start, end) clipped to each VMA."""
        for vma in self.vmas.overlapping(start, end):
            yield vma, max(start, vma.start), min(end, vma.end)

    def _install(self, vma: Vma, slot: int, mask: int, write: bool) -> None:
        """Faults: a write makes pages present, a read of a none entry maps the zero page (do_anonymous_page)."""
        table = self.tree.install(slot)
        mask &= ~(table.marker | table.present)
        if write:
            if mask:
                self.vmas.prepare_anon(vma)
            table.present |= mask
            table.zero &= ~mask
            self.present_pages += mask.bit_count()
        else:
            table.zero |= mask
        self._make(table)

    def _make(self, table: PteTable) -> None:
        if table.exists != EVERY:
            for kind in CLASSES:
                self._tables[kind] += not table.exists & kind
            table.exists = EVERY

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
