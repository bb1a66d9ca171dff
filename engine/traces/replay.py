"""A trace under every policy: the zap policies in one address space, munmap in another, in which purges unmap."""

from collections.abc import Sequence

from engine.model.policy import POLICIES
from engine.traces.address_space import CLASS_OF, NONE, ZAP_POLICIES, AddressSpace, Operation, check
from engine.traces.page_tables import PAGE
from engine.traces.ranges import Ranges
from engine.traces.vmas import ANONYMOUS, READ, WRITE, Piece, Vmas


class UnmappingSpace(AddressSpace):
    """Every purge unmaps its range, and a later touch maps what it asks for again: the bound for the other policies.

    The VMAs stay as the trace has them, so that rights and holes are the same; `_returned` is what purges unmapped.
    """

    def __init__(self, vmas: Vmas) -> None:
        super().__init__(vmas)
        self._returned = Ranges()

    def mapped(self, start: int, end: int) -> bool:
        return any(not self._returned.covers(lo, hi) for _, lo, hi in self.vmas.pieces(start, end))

    def dontneed(self, pieces: list[Piece]) -> None:
        before = self.pte_tables("none")
        for _, lo, hi in pieces:
            self._returned.add(lo, hi)
        self.zapped += super().unmapped(pieces)
        self.freed[NONE] += before - self.pte_tables("none")

    def free(self, pieces: list[Piece]) -> None:
        """The advice does not matter to munmap."""
        self.dontneed(pieces)

    def unmapped(self, gone: list[Piece]) -> int:
        entries = super().unmapped(gone)
        for _, lo, hi in gone:
            self._returned.subtract(lo, hi)
        return entries

    def touch(self, operation: Operation, pieces: list[Piece]) -> None:
        self._map_again(pieces, WRITE if operation.op == "write" else READ)
        super().touch(operation, pieces)

    def guard_install(self, pieces: list[Piece]) -> None:
        self._map_again(pieces, 0)
        super().guard_install(pieces)

    def _map_again(self, pieces: list[Piece], need: int) -> None:
        for vma, lo, hi in pieces:
            if vma.rights & need == need:
                self._returned.subtract(lo, hi)


class Replay:
    """Operations in, figures of each policy out. Differences to an address space with nothing in it.

    All policies share the VMAs. Without policies there is nothing else: then only what is mapped is known.
    """

    def __init__(self, policies: Sequence[str] = POLICIES, *, scan_every: int = 1) -> None:
        self.policies = tuple(policies)
        self.vmas = Vmas()
        self._zapping = AddressSpace(self.vmas, scan_every=scan_every) if set(policies) & set(ZAP_POLICIES) else None
        self._unmapping = UnmappingSpace(self.vmas) if "munmap" in policies else None
        self._spaces = [space for space in (self._zapping, self._unmapping) if space is not None]

    def apply(self, operation: Operation) -> None:
        """Do one operation. Raises TraceError: before anything is done, or at a limit on the way."""
        check(operation)
        op, start, end = operation.op, operation.start, operation.end
        match op:
            case "write" | "read":
                self.touch(operation)
            case "dontneed" | "dontneed_locked":
                self.dontneed(start, end)
            case "free":
                self.free(start, end)
            case "mmap":
                self.mmap(start, end, READ | WRITE)
            case "munmap":
                self.munmap(start, end)
            case "mprotect_ro" | "mprotect_rw":
                self.vmas.mprotect(start, end, READ if op == "mprotect_ro" else READ | WRITE)
            case "guard_install" | "guard_remove":
                for space in self._spaces:
                    getattr(space, op)(self.vmas.pieces(start, end))
        self.settle()

    def settle(self) -> None:
        """The end of an operation."""
        if self._zapping:
            self._zapping.settle()

    def mmap(self, start: int, end: int, rights: int, backing: int = ANONYMOUS, anon: int = 0) -> None:
        """MAP_FIXED: what was there goes first."""
        self.munmap(start, end)
        self.vmas.mmap(start, end, rights, backing, anon)

    def munmap(self, start: int, end: int) -> None:
        gone = self.vmas.munmap(start, end)
        if gone:
            for space in self._spaces:
                space.unmapped(gone)

    def dontneed(self, start: int, end: int) -> None:
        pieces = self.vmas.pieces(start, end)
        for space in self._spaces:
            space.dontneed(pieces)

    def free(self, start: int, end: int) -> None:
        pieces = self.vmas.pieces(start, end)
        for space in self._spaces:
            space.free(pieces)

    def touch(self, operation: Operation) -> None:
        """What is unmapped, guarded or read-only is passed over."""
        pieces = self.vmas.pieces(operation.start, operation.start + operation.length)
        for space in self._spaces:
            space.touch(operation, pieces)

    def touch_all(self, start: int, end: int) -> None:
        """Write every page of [start, end) that is mapped, or read it where it cannot be written."""
        for vma, lo, hi in self.vmas.pieces(start, end):
            operation = Operation("write" if vma.rights & WRITE else "read", lo, hi - lo, PAGE)
            for space in self._spaces:
                if vma.rights:
                    space.touch(operation, [(vma, lo, hi)])
            if vma.rights & WRITE:
                self.vmas.prepare_anon(vma)

    def vm_pte_kib(self, policy: str) -> int:
        return self._space(policy).vm_pte_kib(_kept_as(policy))

    def vm_pte_kib_max(self, policy: str) -> int:
        """The highest so far."""
        return self._space(policy).vm_pte_kib_max(_kept_as(policy))

    def res_kib(self, policy: str) -> int:
        return self._space(policy).res_kib

    def tables_freed(self, policy: str) -> int:
        """Tables that purges freed so far; one that was made again and freed again counts twice."""
        return self._space(policy).freed[CLASS_OF[_kept_as(policy)]]

    def outcome(self, policy: str) -> dict[str, int]:
        """The columns of an outcome that the operations so far determine, but for zap_calls; `peak` is the highest."""
        space, kept_as = self._space(policy), _kept_as(policy)
        pte_tables, needed = space.pte_tables(kept_as), space.tree.needed()
        return {
            "res_bytes_peak": space.most_present_pages * PAGE,
            "res_bytes_end": space.present_pages * PAGE,
            "vm_pte_kib_peak": self.vm_pte_kib_max(policy),
            "vm_pte_kib_end": self.vm_pte_kib(policy),
            "vm_pte_kib_max": self.vm_pte_kib_max(policy),
            "vm_pte_kib_needed_end": sum(needed) * (PAGE >> 10),
            "pte_tables_end": pte_tables,
            "pmd_tables_end": space.tree.pmd_tables,
            "pud_tables_end": space.tree.pud_tables,
            "pte_tables_empty_end": pte_tables - needed[0],
            "ptes_installed": space.installed,
            "ptes_zapped": space.zapped,
            "pte_tables_allocated": space.allocated[CLASS_OF[kept_as]],
            "pte_tables_freed": self.tables_freed(policy),
        }

    def _space(self, policy: str) -> AddressSpace:
        space = self._unmapping if policy == "munmap" else self._zapping
        assert space is not None
        return space


def _kept_as(policy: str) -> str:
    """In munmap's own space every class keeps the same tables, and `none` is their count."""
    return "none" if policy == "munmap" else policy
