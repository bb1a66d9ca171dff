"""A trace file played: each operation applied under every policy, each purge judged by what it covers. Streams.

Memory grows with what is mapped and with the tables that exist, never with the length of the trace.
"""

from collections.abc import Iterator
from itertools import pairwise

from engine.model.policy import POLICIES
from engine.traces.address_space import PURGES
from engine.traces.page_tables import PAGE, TraceError
from engine.traces.replay import Replay
from engine.traces.vmas import ANONYMOUS, READ, UNSEEN, WRITE, Piece
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.traces.call_histogram import STACK_BYTES, CallHistogram
from sweep.traces.strace_parser import read_strace_calls
from sweep.traces.trace_reader import (
    Call,
    SkippedRows,
    detect_format,
    read_allocator_calls,
    read_kernel_steps,
    trace_name,
)

MOST_STACKS = 1 << 16
UNMAP_OR_PURGE = (*PURGES, "munmap")


class TraceReplay:
    """One file. Iterate for the step numbers, each yielded when it is done; then the figures are there.

    `replay` has no policies where VmPTE cannot be known: a trace without touches, unless all is taken as touched.
    """

    def __init__(
        self,
        path: str,
        name: str,
        policies: tuple[str, ...],
        *,
        touch_all: bool,
        scan_every: int = 1,
        data: bytes | None = None,
    ) -> None:
        """`data`: what is played instead of the file, which then only gives its name."""
        self.path, self.name, self.format = path, name, ""
        self.histogram, self.skipped = CallHistogram(), SkippedRows()
        self.remarks: list[str] = []
        self.steps, self.unknown_calls = 0, 0
        self.replay = Replay(())
        self._policies, self._touch_all, self._scan_every, self._data = policies, touch_all, scan_every, data
        self._pending = (0, 0)

    def __iter__(self) -> Iterator[int]:
        """Raises UserError with the row."""
        with TextLines(self.path, self._data) as rows:
            numbered = iter(rows)
            first = next(numbered, None)
            if first is None:
                raise UserError(f"{rows.path}: is empty")
            self.format = detect_format(rows, first[1])
            if self.format == "kernel" or self._touch_all:
                self.replay = Replay(self._policies, scan_every=self._scan_every)
            try:
                yield from self._kernel(rows) if self.format == "kernel" else self._calls(rows, first)
            except TraceError as error:
                raise rows.error(str(error)) from error
            if not self.steps and not self.skipped.reasons:
                raise UserError(f"{rows.path}: no row after the header")
            if rows.cut:
                self.remarks.append("the last row has no line end: it may be cut off")

    def notes(self) -> Iterator[str]:
        """Remarks for the user, once the trace is played: which rows were skipped, and what may be wrong."""
        yield from self.skipped.lines()
        yield from self.remarks

    def _kernel(self, rows: TextLines) -> Iterator[int]:
        vmas, apply = self.replay.vmas, self.replay.apply
        first = last = None
        for _, last, operation in read_kernel_steps(rows):
            first = last if first is None else first
            if self._touch_all:
                self._touch_pending()
                self._pending = (operation.start, operation.end)
            if operation.op in UNMAP_OR_PURGE:
                kind = operation.op.removesuffix("_locked")
                self.histogram.add(kind, operation.length, vmas.pieces(operation.start, operation.end))
            apply(operation)
            self.steps += 1
            yield last
        missing = last - first + 1 - self.steps if last is not None and first is not None else 0
        if missing:
            self.remarks.append(f"{missing:,} steps are missing between the first and the last")

    def _calls(self, rows: TextLines, first: tuple[int, str]) -> Iterator[int]:
        stacks: set[int] = set()
        if self.format == "strace":
            found = read_strace_calls(_chained(first, rows), rows, self.skipped)
        else:
            found = read_allocator_calls(rows, self.skipped)
        for call in found:
            self._touch_pending()
            self._judge(call, stacks)
            _apply(self.replay, call)
            self.replay.settle()
            self._pending = (call.start, call.end)
            self.steps += 1
            yield call.row
        if self.unknown_calls:
            self.remarks.append(
                f"{self.unknown_calls:,} calls gave back memory that the trace does not map; it counts as mapped"
            )

    def _judge(self, call: Call, stacks: set[int]) -> None:
        """Count what gives memory back; what it names was mapped, even if the trace does not have the mmap."""
        if call.op == "mmap" and call.stack and len(stacks) < MOST_STACKS:
            stacks.add(call.start)
        if call.op not in ("dontneed", "free", "munmap"):
            return
        pieces = self.replay.vmas.pieces(call.start, call.end)
        holes = list(_holes(pieces, call.start, call.end))
        for lo, hi in holes:
            self.replay.mmap(lo, hi, READ | WRITE, anon=UNSEEN)
            self.replay.touch_all(lo, hi)
        if holes:
            self.unknown_calls += 1
            pieces = self.replay.vmas.pieces(call.start, call.end)
        stack = call.op == "dontneed" and (call.length == STACK_BYTES or call.start in stacks)
        self.histogram.add(call.op, call.length, pieces, stack=stack)

    def _touch_pending(self) -> None:
        """Write what the last call left unwritten: all else was written before."""
        self.replay.touch_all(*self._pending)


def play_calls(path: str) -> TraceReplay:
    """Play a trace to its end as it was recorded (no page counts as written unless the trace says so).

    Raises UserError with the row.
    """
    play = TraceReplay(path, trace_name(path), POLICIES, touch_all=False)
    for _ in play:
        pass
    return play


def _apply(space: Replay, call: Call) -> None:
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


def _mremap(space: Replay, start: int, end: int, call: Call) -> None:
    """In place, the end moves; else all pages count as written before the next call, so moving is mapping anew."""
    old_end = call.moved_from + -(-call.old_length // PAGE) * PAGE
    if start != call.moved_from:
        space.munmap(call.moved_from, old_end)
        space.mmap(start, end, READ | WRITE, backing=call.row)  # its vm_pgoff keeps it from merging
    elif end > old_end:
        space.mmap(old_end, end, READ | WRITE)
    elif end < old_end:
        space.munmap(end, old_end)


def _holes(pieces: list[Piece], start: int, end: int) -> Iterator[tuple[int, int]]:
    edges = [start, *(edge for _, lo, hi in pieces for edge in (lo, hi)), end]
    yield from ((lo, hi) for lo, hi in list(pairwise(edges))[::2] if lo < hi)


def _chained(first: tuple[int, str], rows: TextLines) -> Iterator[tuple[int, str]]:
    yield first
    yield from rows
