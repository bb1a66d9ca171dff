"""Count the calls with which a program gives memory back: by kind and size, and how many cover whole slots."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.model.arch import KIB, MIB
from engine.traces.geometry import X86, Geometry
from engine.traces.trace_rules import TraceRule
from engine.traces.vmas import Piece

ZAPS = ("dontneed", "free")
KINDS = (*ZAPS, "munmap")
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

    def add_call(self, size: int, slots: int) -> None:
        """Count one call of `size` mapped bytes that covers `slots` whole slots."""
        self.calls += 1
        self.bytes += size
        if slots:
            self.whole_slots += slots
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


@dataclass(slots=True)
class ReachedCalls:
    """MADV_DONTNEED calls with a piece of a certain size: how many, their bytes, and the bytes in such pieces."""

    calls: int = 0
    bytes: int = 0
    reached_bytes: int = 0


class CallHistogram:
    """CallCounts for each pair of kind (`dontneed`, `free`, `munmap`) and size class.

    rules: those that `acting_calls` will be asked about
    """

    def __init__(self, rules: Iterable[TraceRule], geometry: Geometry = X86) -> None:
        self.geometry = geometry
        self._counts: dict[tuple[str, str], CallCounts] = {}
        self._reached = {rule.least: ReachedCalls() for rule in rules if rule.when == "zap"}

    def add_call(self, kind: str, length: int, pieces: Sequence[Piece], *, is_stack: bool = False) -> None:
        """Count one call of `length` bytes. `pieces`: its range clipped to each VMA that it meets."""
        size_class = STACKS if is_stack else _CLASS_NAMES[bisect_left(_CLASS_LIMITS, length)]
        counts = self._counts.get((kind, size_class))
        if counts is None:
            counts = self._counts[kind, size_class] = CallCounts()
        size = slots = 0
        span = self.geometry.slot
        for _, start, end in pieces:
            size += end - start
            whole = end // span - -(-start // span)
            if whole > 0:
                slots += whole
        counts.add_call(size, slots)
        if kind == "dontneed" and not is_stack:
            self._add_reached(pieces, size, slots)

    def _add_reached(self, pieces: Sequence[Piece], size: int, slots: int) -> None:
        """Count one call of MADV_DONTNEED in `_reached`.

        For each smallest size of piece after which a rule acts (`least`): if the call has such a piece, count the call,
        all its bytes, and the bytes of such pieces. A piece is the part of a call inside one table's range.
        """
        for least, reached in self._reached.items():
            if least <= self.geometry.page:
                reached_bytes = size
            elif least == self.geometry.slot:
                reached_bytes = slots * least
            else:
                reached_bytes = sum(
                    count * part
                    for _, start, end in pieces
                    for part, count in _piece_sizes(start, end, self.geometry.slot)
                    if part >= least
                )
            if reached_bytes:
                reached.calls += 1
                reached.bytes += size
                reached.reached_bytes += reached_bytes

    def add(self, other: "CallHistogram") -> None:
        """Add the calls of another histogram of the same rules."""
        for key, counts in other._counts.items():
            self._counts[key] = self._counts.get(key, CallCounts()) + counts
        for least, reached in other._reached.items():
            own = self._reached[least]
            own.calls += reached.calls
            own.bytes += reached.bytes
            own.reached_bytes += reached.reached_bytes

    def by_size(self) -> Iterator[tuple[str, str, CallCounts]]:
        """(kind, size class, counts) of all pairs that have calls, kinds in the order of KINDS, sizes ascending."""
        for kind in KINDS:
            for size_class in (*_CLASS_NAMES, STACKS):
                if (kind, size_class) in self._counts:
                    yield kind, size_class, self._counts[kind, size_class]

    def zap_totals(self) -> CallCounts:
        """All zap calls (`dontneed` and `free`) except those of stacks."""
        return self._total(ZAPS)

    @property
    def zap_calls(self) -> int:
        """The number of zap calls, those of stacks included."""
        return sum(counts.calls for kind, _, counts in self.by_size() if kind in ZAPS)

    def acting_calls(self, rule: TraceRule) -> tuple[int, int, int]:
        """(calls, bytes, bytes reached) of the zap calls after which `rule` may free a table.

        Judged by the calls alone: whether a table is empty then depends on its other entries. Of a call that covers a
        whole slot and parts of its neighbours, a rule for whole slots reaches only the slot. A rule that scans reaches
        all that is zapped, but MADV_FREE zaps nothing. A rule that unmaps does so at every one.
        """
        if rule.when == "unmap":
            totals = self.zap_totals()
            return totals.calls, totals.bytes, totals.bytes
        if rule.when == "zap":
            reached = self._reached[rule.least]
            return reached.calls, reached.bytes, reached.reached_bytes
        dontneed = self._total(("dontneed",))
        return (dontneed.calls, dontneed.bytes, dontneed.bytes) if rule.when == "scan" else (0, 0, 0)

    def _total(self, kinds: tuple[str, ...]) -> CallCounts:
        total = CallCounts()
        for kind, size_class, counts in self.by_size():
            if kind in kinds and size_class != STACKS:
                total = total + counts
        return total


def _piece_sizes(start: int, end: int, slot: int) -> list[tuple[int, int]]:
    """(bytes, how many) of the pieces, inside one slot each, that a range consists of."""
    first, last = -(-start // slot) * slot, end // slot * slot
    if first > last:  # within one slot
        return [(end - start, 1)]
    return [(first - start, 1), (slot, (last - first) // slot), (end - last, 1)]
