"""Replay a trace file: apply each operation under every policy, and count the calls that give memory back.

Memory grows with what is mapped and with the tables that exist, never with the length of the trace.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from engine.model.policy import ALL, Policy
from engine.traces.huge_pages import HugePages
from engine.traces.operations import HUGE_ADVICE, PURGES
from engine.traces.page_tables import PAGE, TraceError
from engine.traces.replay import Replay
from engine.traces.trace_rules import trace_rule
from engine.traces.vmas import ANONYMOUS, READ, UNSEEN, WRITE, Piece
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.traces.call_histogram import KINDS, STACK_BYTES, CallHistogram
from sweep.traces.strace_parser import read_strace_calls
from sweep.traces.trace_reader import (
    Call,
    SkippedRows,
    detect_format,
    read_allocator_calls,
    read_kernel_steps,
    trace_name,
)

MAX_STACKS = 1 << 16
UNMAP_OR_PURGE = (*PURGES, "munmap")


class TraceReplay:
    """The replay of one trace file. Iterate over it once; then the results are complete.

    Iteration yields the step numbers of a kernel trace, or the row numbers of calls, each when it has been applied.

    - `format`: `kernel`, `allocator` or `strace`
    - `replay`: the engine's figures of each policy. Without any policy where VmPTE is unknown, that is for a trace that
      records no touches, unless `touch_all`
    - `histogram`: the calls that give memory back
    - `steps`: operations or calls applied; `unknown_calls`: those that gave back memory that was never seen mapped
    - `skipped`, `remarks`: see `notes`
    """

    def __init__(
        self,
        path: str,
        name: str,
        policies: Sequence[Policy],
        *,
        touch_all: bool,
        scan_every: int = 1,
        thp: str | None = None,
        data: bytes | None = None,
    ) -> None:
        """`touch_all`: every mapped page counts as written between two calls. `scan_every`: of the async policy, in
        operations. `thp`: the system's setting of huge pages; None if it is unknown, and then madvise is assumed.
        `data` is read in place of the file, and `path` then only names it in messages.
        """
        self.path, self.name, self.format = path, name, ""
        self.histogram, self.skipped = CallHistogram(map(trace_rule, policies)), SkippedRows()
        self.remarks: list[str] = []
        self.steps, self.unknown_calls = 0, 0
        self.replay = Replay(())
        self._policies, self._touch_all, self._scan_every, self._data = policies, touch_all, scan_every, data
        self._thp = thp
        self._untouched = (0, 0)  # the range of the last call: its pages count as written before the next one

    def __iter__(self) -> Iterator[int]:
        """Raises UserError with the row: the file is no trace, or an operation cannot be applied."""
        with TextLines(self.path, self._data) as rows:
            first = next(iter(rows), None)
            if first is None:
                raise UserError(f"{rows.path}: is empty")
            self.format = detect_format(rows, first[1])
            if self.format == "kernel" or self._touch_all:
                huge_pages = HugePages(self._thp or "madvise")
                self.replay = Replay(self._policies, scan_every=self._scan_every, huge_pages=huge_pages)
            try:
                yield from self._apply_steps(rows) if self.format == "kernel" else self._apply_calls(rows, first)
            except TraceError as error:
                raise rows.error(str(error)) from error
            if not self.steps and not self.skipped.reasons:
                raise UserError(f"{rows.path}: no row after the header")
            if rows.last_line_unterminated:
                self.remarks.append("the last row has no line end: it may be cut off")

    def notes(self) -> Iterator[str]:
        """Lines for the user after the replay: which rows were skipped, and what may be wrong."""
        yield from self.skipped.lines()
        yield from self.remarks
        if self._thp is None and self.replay.has_huge_advice:
            yield "the system's setting of transparent huge pages is not in the trace: madvise is assumed (see --thp)"

    def _apply_steps(self, rows: TextLines) -> Iterator[int]:
        """Apply the rows of a kernel trace; yields their step numbers."""
        vmas, apply = self.replay.vmas, self.replay.apply
        first = last = None
        for _, last, operation in read_kernel_steps(rows):
            first = last if first is None else first
            if self._touch_all and operation.op not in HUGE_ADVICE:
                self._touch_last_range()
                self._untouched = (operation.start, operation.end)
            if operation.op in UNMAP_OR_PURGE:
                kind = operation.op.removesuffix("_locked")
                self.histogram.add_call(kind, operation.length, vmas.pieces(operation.start, operation.end))
            apply(operation)
            self.steps += 1
            yield last
        missing = last - first + 1 - self.steps if last is not None and first is not None else 0
        if missing:
            self.remarks.append(f"{missing:,} steps are missing between the first and the last")

    def _apply_calls(self, rows: TextLines, first: tuple[int, str]) -> Iterator[int]:
        """Apply the calls of an allocator trace or of strace output; yields their row numbers."""
        stacks: set[int] = set()
        if self.format == "strace":
            calls = read_strace_calls(_chain(first, rows), rows, self.skipped)
        else:
            calls = read_allocator_calls(rows, self.skipped)
        for call in calls:
            is_advice = call.op in HUGE_ADVICE  # given before the first touch, so that it has an effect
            if not is_advice:
                self._touch_last_range()
            if call.op == "mmap" and call.stack and len(stacks) < MAX_STACKS:
                stacks.add(call.start)
            if call.op in KINDS:
                self._count_call(call, is_stack=call.length == STACK_BYTES or call.start in stacks)
            _apply(self.replay, call)
            self.replay.end_operation()
            if not is_advice:
                self._untouched = (call.start, call.end)
            self.steps += 1
            yield call.row
        if self.unknown_calls:
            self.remarks.append(
                f"{self.unknown_calls:,} calls gave back memory that the trace does not map; it counts as mapped"
            )

    def _count_call(self, call: Call, is_stack: bool) -> None:
        """Count a call that gives memory back. Its whole range was mapped then, even if the trace lacks the mmap."""
        pieces = self.replay.vmas.pieces(call.start, call.end)
        holes = list(_holes(pieces, call.start, call.end))
        for start, end in holes:
            self.replay.mmap(start, end, READ | WRITE, anon=UNSEEN)
            self.replay.touch_all(start, end)
        if holes:
            self.unknown_calls += 1
            pieces = self.replay.vmas.pieces(call.start, call.end)
        self.histogram.add_call(call.op, call.length, pieces, is_stack=is_stack and call.op == "dontneed")

    def _touch_last_range(self) -> None:
        """Write all pages of the last call's range; every other mapped page has been written before."""
        self.replay.touch_all(*self._untouched)


def replay_calls(path: str) -> TraceReplay:
    """Replay a trace to its end as it was recorded: no page counts as written unless the trace says so.

    Raises UserError with the row.
    """
    trace = TraceReplay(path, trace_name(path), ALL, touch_all=False)
    for _ in trace:
        pass
    return trace


def _apply(replay: Replay, call: Call) -> None:
    start, end = call.start, call.end
    match call.op:
        case "mmap":
            replay.mmap(start, end, call.rights, ANONYMOUS if call.anonymous else call.row)
        case "munmap":
            replay.munmap(start, end)
        case "mprotect":
            replay.mprotect(start, end, call.rights)
        case "dontneed":
            replay.dontneed(start, end)
        case "free":
            replay.free(start, end)
        case "hugepage" | "nohugepage":
            replay.advise(start, end, call.op)
        case "collapse":
            replay.collapse(start, end)
        case "thp_disable":
            replay.huge_pages.disabled = call.thp_disabled
        case "mremap":
            _mremap(replay, start, end, call)


def _mremap(replay: Replay, start: int, end: int, call: Call) -> None:
    """Move or resize a mapping. All its pages count as written before the next call, so moving is mapping anew."""
    old_end = call.moved_from + -(-call.old_length // PAGE) * PAGE
    if start != call.moved_from:
        replay.munmap(call.moved_from, old_end)
        replay.mmap(start, end, READ | WRITE, backing=call.row)  # vm_pgoff of its old address: it merges with nothing
    elif end > old_end:
        replay.mmap(old_end, end, READ | WRITE)
    elif end < old_end:
        replay.munmap(end, old_end)


def _holes(pieces: list[Piece], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of [start, end) that no piece covers."""
    edges = [start, *(edge for _, lo, hi in pieces for edge in (lo, hi)), end]
    yield from ((lo, hi) for lo, hi in list(pairwise(edges))[::2] if lo < hi)


def _chain(first: tuple[int, str], rows: TextLines) -> Iterator[tuple[int, str]]:
    yield first
    yield from rows
