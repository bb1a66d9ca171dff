"""Count the calls with which a program gives memory back: by kind and size, and how many cover whole slots."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.model.arch import KIB, MIB
from engine.traces.address_space import BY_SLOT, CLASS_OF, NONE
from engine.traces.page_tables import SLOT
from engine.traces.vmas import Piece

PURGES = ("dontneed", "free")
KINDS = (*PURGES, "munmap")
SIZE_CLASSES = (
    ("<=4KiB", 4 * KIB),
    ("<=64KiB", 64 * KIB),
    ("<=512KiB", 512 * KIB),
    ("<2MiB", 2 * MIB - 1),
    ("<4MiB", 4 * MIB - 1),
    ("<32MiB", 32 * MIB - 1),
)
"""(name, largest length in bytes)"""
LARGEST_CLASS = ">=32MiB"
STACKS = "pthread stacks"
"""Calls in which glibc gives back the stack of a thread that ended: not the allocator's, so a class of their own."""
STACK_BYTES = 8_368_128
"""Length of that call for a stack of 8 MiB in glibc 2.36 (nptl/allocatestack.c, advise_stack_range)."""
_CLASS_NAMES = (*(name for name, _ in SIZE_CLASSES), LARGEST_CLASS)
_CLASS_LIMITS = [limit for _, limit in SIZE_CLASSES]


@dataclass(slots=True)
class CallCounts:
    """Calls of one kind and size class, and their mapped bytes.

    `whole_calls` cover at least one whole slot inside a VMA, `whole_bytes` are all bytes of these calls, `whole_slots`
    the slots that they cover.
    """

    calls: int = 0
    bytes: int = 0
    whole_calls: int = 0
    whole_bytes: int = 0
    whole_slots: int = 0

    def add_call(self, pieces: Iterable[Piece]) -> None:
        """Count one call. `pieces` are (vma, start, end): the call's range clipped to each VMA that it meets."""
        size = slots = 0
        for _, start, end in pieces:
            size += end - start
            slots += max(0, end // SLOT - -(-start // SLOT))
        self.calls += 1
        self.bytes += size
        self.whole_slots += slots
        if slots:
            self.whole_calls += 1
            self.whole_bytes += size

    def __add__(self, other: "CallCounts") -> "CallCounts":
        return CallCounts(
            self.calls + other.calls,
            self.bytes + other.bytes,
            self.whole_calls + other.whole_calls,
            self.whole_bytes + other.whole_bytes,
            self.whole_slots + other.whole_slots,
        )


class CallHistogram:
    """CallCounts for each pair of kind (`dontneed`, `free`, `munmap`) and size class."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], CallCounts] = {}

    def add_call(self, kind: str, length: int, pieces: Iterable[Piece], *, is_stack: bool = False) -> None:
        """Count one call of `length` bytes; `pieces` as in CallCounts.add_call."""
        size_class = STACKS if is_stack else _CLASS_NAMES[bisect_left(_CLASS_LIMITS, length)]
        counts = self._counts.get((kind, size_class))
        if counts is None:
            counts = self._counts[kind, size_class] = CallCounts()
        counts.add_call(pieces)

    def by_size(self) -> Iterator[tuple[str, str, CallCounts]]:
        """(kind, size class, counts) of all pairs that have calls, kinds in the order of KINDS, sizes ascending."""
        for kind in KINDS:
            for size_class in (*_CLASS_NAMES, STACKS):
                if (kind, size_class) in self._counts:
                    yield kind, size_class, self._counts[kind, size_class]

    def purge_totals(self) -> CallCounts:
        """All purges (`dontneed` and `free`) except those of stacks."""
        return self._total(PURGES)

    @property
    def purge_calls(self) -> int:
        """The number of purges, those of stacks included."""
        return sum(counts.calls for kind, _, counts in self.by_size() if kind in PURGES)

    def acting_calls(self, policy: str) -> tuple[int, int, int]:
        """(calls, bytes, bytes reached) of the purges after which `policy` may free a table.

        Judged by the calls alone: whether a table is empty then depends on its other entries. Of a call that covers a
        whole slot and parts of its neighbours, the whole-slot rules reach only the slot. refcount and async look at
        tables whatever the size of the call, but MADV_FREE empties none. munmap unmaps the range of every purge.
        """
        if policy == "munmap":
            totals = self.purge_totals()
            return totals.calls, totals.bytes, totals.bytes
        dontneed, policy_class = self._total(("dontneed",)), CLASS_OF[policy]
        if policy_class == BY_SLOT:
            return dontneed.whole_calls, dontneed.whole_bytes, dontneed.whole_slots * SLOT
        return (0, 0, 0) if policy_class == NONE else (dontneed.calls, dontneed.bytes, dontneed.bytes)

    def _total(self, kinds: tuple[str, ...]) -> CallCounts:
        total = CallCounts()
        for kind, size_class, counts in self.by_size():
            if kind in kinds and size_class != STACKS:
                total = total + counts
        return total
