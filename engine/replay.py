"""A trace under every policy: the zap policies in one address space, munmap in another, in which purges unmap."""

from collections.abc import Sequence

from engine.policy import POLICIES
from engine.ranges import Ranges
from engine.trace import NONE, ZAP_POLICIES, AddressSpace, Operation
from engine.vma import READ, WRITE


class UnmappingSpace(AddressSpace):
    """Every purge unmaps its range, and a later touch maps what it asks for again: the bound for the other policies.

    The VMAs stay as the trace has them, so that rights and holes are the same; `_returned` is what purges unmapped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._returned = Ranges()

    @property
    def tables(self) -> int:
        return self.pte_tables("none")

    def mapped(self, start: int, end: int) -> bool:
        return any(not self._returned.covers(lo, hi) for _, lo, hi in self.pieces(start, end))

    def dontneed(self, start: int, end: int) -> None:
        before = self.tables
        gone = [(lo, hi) for _, lo, hi in self.pieces(start, end)]
        for lo, hi in gone:
            self._returned.add(lo, hi)
        self.unmapped(gone)
        self.freed[NONE] += before - self.tables

    def free(self, start: int, end: int) -> None:
        """The advice does not matter to munmap."""
        self.dontneed(start, end)

    def munmap(self, start: int, end: int) -> None:
        super().munmap(start, end)
        self._returned.subtract(start, end)

    def touch(self, operation: Operation) -> None:
        need = WRITE if operation.op == "write" else READ
        self._map_again(operation.start, operation.start + operation.length, need)
        super().touch(operation)

    def guard_install(self, start: int, end: int) -> None:
        self._map_again(start, end, 0)
        super().guard_install(start, end)

    def _map_again(self, start: int, end: int, need: int) -> None:
        for vma, lo, hi in self.pieces(start, end):
            if vma.rights & need == need:
                self._returned.subtract(lo, hi)


class Replay:
    """Operations in, figures of each policy out. Differences to an address space with nothing in it."""

    def __init__(self, policies: Sequence[str] = POLICIES, *, scan_every: int = 1) -> None:
        self.policies = tuple(policies)
        self._zapping = AddressSpace(scan_every=scan_every) if set(policies) & set(ZAP_POLICIES) else None
        self._unmapping = UnmappingSpace() if "munmap" in policies else None
        self.spaces = [space for space in (self._zapping, self._unmapping) if space is not None]

    def apply(self, operation: Operation) -> None:
        """Raises TraceError."""
        for space in self.spaces:
            space.apply(operation)

    def vm_pte_kib(self, policy: str) -> int:
        return self._space(policy).vm_pte_kib(_kept_as(policy))

    def res_kib(self, policy: str) -> int:
        return self._space(policy).res_kib

    def tables_freed(self, policy: str) -> int:
        """Tables that purges freed so far; one that was made again and freed again counts twice."""
        return self._space(policy).freed_by(_kept_as(policy))

    def _space(self, policy: str) -> AddressSpace:
        space = self._unmapping if policy == "munmap" else self._zapping
        assert space is not None
        return space


def _kept_as(policy: str) -> str:
    """In munmap's own space every class keeps the same tables, and `none` is their count."""
    return "none" if policy == "munmap" else policy
