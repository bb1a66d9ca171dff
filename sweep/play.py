"""A trace file played: each operation applied under every policy, each purge judged by what it covers. Streams.

Memory grows with what is mapped and with the tables that exist, never with the length of the trace.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

from engine.replay import Replay
from engine.trace import PURGES, AddressSpace
from engine.tree import PAGE, TraceError
from engine.vma import ANONYMOUS, READ, WRITE, Vmas
from sweep.asks import STACK_BYTES, Asks
from sweep.errors import UserError
from sweep.rows import Rows
from sweep.strace import strace_calls
from sweep.traces import Call, Skipped, calls, kind_of, steps

MOST_STACKS = 1 << 16


class Space(Protocol):
    """What a call changes: an address space of the engine, or only its VMAs."""

    vmas: Vmas

    def mmap(self, start: int, end: int, rights: int, backing: int = ANONYMOUS) -> None: ...
    def munmap(self, start: int, end: int) -> None: ...
    def dontneed(self, start: int, end: int) -> None: ...
    def free(self, start: int, end: int) -> None: ...
    def touch_all(self, start: int, end: int) -> None: ...
    def settle(self) -> None: ...


class Mappings:
    """The VMAs alone, for traces without touches. What is mapped counts as written, so anon_vmas come as they would."""

    def __init__(self) -> None:
        self.vmas = Vmas()

    def mmap(self, start: int, end: int, rights: int, backing: int = ANONYMOUS) -> None:
        self.vmas.munmap(start, end)
        self.vmas.mmap(start, end, rights, backing)

    def munmap(self, start: int, end: int) -> None:
        self.vmas.munmap(start, end)

    def dontneed(self, start: int, end: int) -> None:
        """Changes no VMA."""

    def free(self, start: int, end: int) -> None:
        """Changes no VMA."""

    def touch_all(self, start: int, end: int) -> None:
        for vma in self.vmas.overlapping(start, end):
            if vma.rights & WRITE:
                self.vmas.prepare_anon(vma)

    def settle(self) -> None:
        """Nothing to scan."""


class Play:
    """One file. Iterate for the step numbers, each yielded when it is done; then the figures are there.

    `replay` is None where VmPTE cannot be known: a trace without touches, unless all is taken as touched.
    """

    def __init__(
        self, path: str, name: str, policies: tuple[str, ...], *, touch_all: bool, scan_every: int = 1
    ) -> None:
        self.path, self.name, self.form = path, name, ""
        self.asks, self.skipped = Asks(), Skipped()
        self.remarks: list[str] = []
        self.steps, self.unknown_calls = 0, 0
        self.replay: Replay | None = None
        self.vm_pte_kib_max = dict.fromkeys(policies, 0)
        self._policies, self._touch_all, self._scan_every = policies, touch_all, scan_every
        self._pending = (0, 0)

    def __iter__(self) -> Iterator[int]:
        """Raises UserError with the row."""
        with Rows(self.path) as rows:
            numbered = iter(rows)
            first = next(numbered, None)
            if first is None:
                raise UserError(f"{rows.path}: is empty")
            self.form = kind_of(rows, first[1])
            if self.form == "kernel" or self._touch_all:
                self.replay = Replay(self._policies, scan_every=self._scan_every)
            try:
                yield from self._kernel(rows) if self.form == "kernel" else self._calls(rows, first)
            except TraceError as error:
                raise rows.error(str(error)) from error
            if not self.steps and not self.skipped.reasons:
                raise UserError(f"{rows.path}: no row after the header")
            if rows.cut:
                self.remarks.append("the last row has no line end: it may be cut off")

    def _kernel(self, rows: Rows) -> Iterator[int]:
        assert self.replay is not None
        vmas = self.replay.spaces[0].vmas
        last, missing = None, 0
        for step in steps(rows):
            operation = step.operation
            missing += step.number - last - 1 if last is not None else 0
            last = step.number
            if self._touch_all:
                self._touch_pending(self.replay.spaces)
            if operation.op in PURGES or operation.op == "munmap":
                kind = operation.op.removesuffix("_locked")
                self.asks.add(kind, operation.length, _pieces(vmas, operation.start, operation.end))
            self.replay.apply(operation)
            self._pending = (operation.start, operation.end)
            self._look()
            self.steps += 1
            yield step.number
        if missing:
            self.remarks.append(f"{missing:,} steps are missing between the first and the last")

    def _calls(self, rows: Rows, first: tuple[int, str]) -> Iterator[int]:
        spaces: list[Space] = [*self.replay.spaces] if self.replay else [Mappings()]
        stacks: set[int] = set()
        if self.form == "strace":
            found = strace_calls(_chained(first, rows), rows, self.skipped)
        else:
            found = calls(rows, self.skipped)
        for call in found:
            self._touch_pending(spaces)
            self._judge(spaces, call, stacks)
            for space in spaces:
                _apply(space, call)
                space.settle()
            self._pending = (call.start, call.end)
            self._look()
            self.steps += 1
            yield call.row
        if self.unknown_calls:
            self.remarks.append(
                f"{self.unknown_calls:,} calls gave back memory that the trace does not map; it counts as mapped"
            )

    def _judge(self, spaces: list[Space], call: Call, stacks: set[int]) -> None:
        """Count what gives memory back; what it names was mapped, even if the trace does not have the mmap."""
        if call.op == "mmap" and call.stack and len(stacks) < MOST_STACKS:
            stacks.add(call.start)
        if call.op not in ("dontneed", "free", "munmap"):
            return
        holes = list(_holes(spaces[0].vmas, call.start, call.end))
        self.unknown_calls += bool(holes)
        for space in spaces:
            for lo, hi in holes:
                space.mmap(lo, hi, READ | WRITE)
                space.touch_all(lo, hi)
        stack = call.op == "dontneed" and (call.length == STACK_BYTES or call.start in stacks)
        self.asks.add(call.op, call.length, _pieces(spaces[0].vmas, call.start, call.end), stack=stack)

    def _touch_pending(self, spaces: list[AddressSpace] | list[Space]) -> None:
        """Write what the last call left unwritten: all else was written before."""
        for space in spaces:
            space.touch_all(*self._pending)
        self._look()

    def _look(self) -> None:
        if self.replay is not None:
            for policy, most in self.vm_pte_kib_max.items():
                self.vm_pte_kib_max[policy] = max(most, self.replay.vm_pte_kib(policy))


def _apply(space: Space, call: Call) -> None:
    start, end = call.start, call.end
    match call.op:
        case "mmap":
            space.mmap(start, end, call.rights, ANONYMOUS if call.anonymous else call.row)
        case "munmap":
            space.munmap(start, end)
        case "mprotect":
            space.vmas.mprotect(start, end, call.rights)
        case "dontneed":
            space.dontneed(start, end)
        case "free":
            space.free(start, end)
        case "mremap":
            _mremap(space, start, end, call)


def _mremap(space: Space, start: int, end: int, call: Call) -> None:
    """In place, the end moves; else all pages count as written before the next call, so moving is mapping anew."""
    old_end = call.moved_from + -(-call.old_length // PAGE) * PAGE
    if start != call.moved_from:
        space.munmap(call.moved_from, old_end)
        space.mmap(start, end, READ | WRITE, backing=call.row)  # its vm_pgoff keeps it from merging
    elif end > old_end:
        space.mmap(old_end, end, READ | WRITE)
    elif end < old_end:
        space.munmap(end, old_end)


def _pieces(vmas: Vmas, start: int, end: int) -> list[tuple[int, int]]:
    return [(max(start, vma.start), min(end, vma.end)) for vma in vmas.overlapping(start, end)]


def _holes(vmas: Vmas, start: int, end: int) -> Iterator[tuple[int, int]]:
    edges = [start, *(edge for piece in _pieces(vmas, start, end) for edge in piece), end]
    yield from ((lo, hi) for lo, hi in list(pairwise(edges))[::2] if lo < hi)


def _chained(first: tuple[int, str], rows: Rows) -> Iterator[tuple[int, str]]:
    yield first
    yield from rows
