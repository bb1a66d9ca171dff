"""Replay a trace file, process by process: apply operations under every policy, count calls that give memory back.

Memory grows with what is mapped and with the tables that exist, never with the length of the trace.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from engine.model.policy import ALL, Policy
from engine.traces.geometry import X86, Geometry
from engine.traces.page_tables import TraceError
from engine.traces.trace_rules import trace_rule
from sweep.common.errors import UserError, one_line, printable
from sweep.common.text_lines import STDIN, TextLines
from sweep.trace_readers import forms
from sweep.trace_readers.bpftrace_parser import read_bpftrace_events
from sweep.trace_readers.calls import END, Event, SkippedRows, SystemCall
from sweep.trace_readers.ff_files import FfFiles, read_ff_events
from sweep.trace_readers.kernel_calls import MemoryCalls
from sweep.trace_readers.perf_parser import read_perf_events
from sweep.trace_readers.recording_reader import RecordingReader
from sweep.trace_readers.strace_parser import read_strace_events
from sweep.trace_readers.trace_reader import read_allocator_calls, read_kernel_steps, trace_name
from sweep.traces.call_histogram import CallHistogram
from sweep.traces.process_replay import ProcessReplay
from sweep.traces.process_tree import ProcessTree
from sweep.traces.recorded_spaces import Moment, RecordedSpaces


class Applied(NamedTuple):
    """An operation or call that was just applied: the step of a kernel trace or the row of a call, and its process."""

    number: int
    process: ProcessReplay


class TraceReplay:
    """The replay of one trace file. Iterate over it once; then the results are complete.

    - `form`: one of those in forms.py
    - `processes`: in the order of their first call; one, without a pid, for traces that are tables
    - `skipped`, `remarks`: see `notes`
    """

    def __init__(
        self,
        path: str | FfFiles,
        name: str,
        policies: Sequence[Policy],
        *,
        touch_all: bool,
        scan_every: int = 1,
        thp: str | None = None,
        geometry: Geometry = X86,
        data: bytes | None = None,
    ) -> None:
        """`path`: a file, `-`, or the files of strace -ff; `data` is read in its place, and `path` then names it only.
        `touch_all`: every mapped page counts as written between two calls. `scan_every`: of the async policy,
        in operations. `thp`: the system's setting of huge pages; None if it is unknown, and then madvise is assumed.
        """
        self._files = path if isinstance(path, FfFiles) else None
        self.path = path.name if isinstance(path, FfFiles) else path
        self.name, self.form = name, forms.STRACE if self._files else ""
        self.processes: list[ProcessReplay] = []
        self.skipped = SkippedRows()
        self._policies, self._touch_all, self._scan_every, self._data = policies, touch_all, scan_every, data
        self._thp, self.geometry = thp, geometry
        self._tree: ProcessTree | RecordedSpaces | None = None
        self._calls_seen = 0

    @property
    def counts(self) -> bool:
        """Whether VmPTE is known: touches are recorded, or every page counts as touched."""
        return self.form in forms.WITH_TOUCHES or self._touch_all

    @property
    def histogram(self) -> CallHistogram:
        """The calls of all processes that give memory back."""
        return self.histogram_of(self.processes)

    def histogram_of(self, processes: Sequence[ProcessReplay]) -> CallHistogram:
        """The calls of some processes that give memory back."""
        total = CallHistogram((trace_rule(policy, self.geometry) for policy in self._policies), self.geometry)
        for process in processes:
            total.add(process.histogram)
        return total

    @property
    def moments(self) -> list[Moment]:
        """VmPTE as it was seen beside what is computed; only recordings of `sweep record` have it."""
        return self._tree.moments if isinstance(self._tree, RecordedSpaces) else []

    def label(self, process: ProcessReplay) -> str | None:
        """What names the process in tables; None for a trace that is a table."""
        return self._tree.label(process) if self._tree is not None else None

    def __iter__(self) -> Iterator[Applied]:
        """Raises UserError with the row: the file is no trace, or an operation cannot be applied."""
        if self._files is not None:
            try:
                yield from self._apply_events(read_ff_events(self._files, self.skipped))
            except TraceError as error:
                raise UserError(f"{printable(self.path)}: {error}") from error
        else:
            yield from self._apply_file()
        for process in self.processes:
            process.finish()

    def _apply_file(self) -> Iterator[Applied]:
        with TextLines(self.path, self._data) as lines:
            recognised = forms.recognise(lines)
            self.form = recognised.form
            if self.form in forms.WITH_TOUCHES and self.geometry.page != X86.page:
                raise UserError(
                    f"{lines.path}: is of pages of 4 KiB, so it was not recorded on {self.geometry.arch.name}"
                )
            try:
                if self.form == forms.KERNEL:
                    yield from self._apply_steps(lines)
                elif self.form == forms.ALLOCATOR:
                    yield from self._apply_calls(lines)
                elif self.form == forms.RECORDING:
                    yield from self._apply_recording(lines)
                else:
                    yield from self._apply_events(self._events(recognised.rows))
            except TraceError as error:
                raise lines.error(str(error)) from error
            if not any(process.steps for process in self.processes) and not self._notes_anything():
                raise UserError(f"{lines.path}: no row after the header")
            if lines.last_line_unterminated:
                self.skipped.remark("the last row has no line end: it may be cut off")

    def notes(self) -> Iterator[str]:
        """Lines for the user after the replay: which rows were skipped, and what may be wrong."""
        yield from self.skipped.lines()
        unknown = sum(process.unknown_calls for process in self.processes)
        if unknown:
            yield f"{unknown:,} calls gave back memory that the trace does not map; it counts as mapped"
        unmapped = sum(process.unmapped_calls for process in self.processes)
        if unmapped:
            yield f"{unmapped:,} munmap calls of memory that the trace does not map count for nothing"
        if self._thp is None and self._has_huge_advice:
            setting = "the system's setting of transparent huge pages is not in the trace"
            yield f"{setting}: madvise is assumed (see --thp, or `thp` of a grid's workload)"

    @property
    def _has_huge_advice(self) -> bool:
        return any(process.has_huge_advice for process in self.processes)

    def _notes_anything(self) -> bool:
        return bool(self.skipped.reasons or self.skipped.doubts)

    def _new_process(self, pid: int, program: str) -> ProcessReplay:
        return ProcessReplay(
            pid,
            program,
            self._policies,
            counts=self.counts,
            touch_all=self._touch_all,
            scan_every=self._scan_every,
            thp=self._thp or "madvise",
            geometry=self.geometry,
        )

    def _apply_steps(self, lines: TextLines) -> Iterator[Applied]:
        """Apply the rows of a kernel trace."""
        process = self._new_process(0, "")
        self.processes.append(process)
        first = last = None
        for _, last, operation in read_kernel_steps(lines):
            first = last if first is None else first
            process.apply_operation(operation)
            yield Applied(last, process)
        missing = last - first + 1 - process.steps if last is not None and first is not None else 0
        if missing:
            self.skipped.remark(f"{missing:,} steps are missing between the first and the last")

    def _apply_calls(self, lines: TextLines) -> Iterator[Applied]:
        """Apply the calls of an allocator trace."""
        process = self._new_process(0, "")
        self.processes.append(process)
        for call in read_allocator_calls(lines, self.skipped, self.geometry.page):
            process.apply(call)
            yield Applied(call.row, process)

    def _apply_recording(self, lines: TextLines) -> Iterator[Applied]:
        """Apply a recording of `sweep record`."""
        reader = RecordingReader(lines, self.skipped)
        self._tree = spaces = RecordedSpaces(reader, lambda pid, program: self._recorded_process(reader, pid, program))
        self.processes = spaces.processes
        for row, process in spaces:
            yield Applied(row, process)

    def _recorded_process(self, reader: RecordingReader, pid: int, program: str) -> ProcessReplay:
        self._thp = self._thp or reader.facts.get("thp")
        return self._new_process(pid, program)

    def _apply_events(self, events: Iterator[Event]) -> Iterator[Applied]:
        """Apply the calls of strace's, perf's and bpftrace's output, each to its process."""
        self._tree = tree = ProcessTree(self._new_process, self.skipped)
        self.processes = tree.processes
        decoder, calls_seen = MemoryCalls(self.skipped, self.geometry.page), 0
        for event in chain(events, [END]):
            due: Iterable[tuple[SystemCall, ProcessReplay]]
            if isinstance(event, SystemCall) and (known := tree.process_of(event)) is not None:
                due = ((event, known),)
            else:
                due = tree.handle(event)
            for call, process in due:
                calls_seen += 1
                for change in decoder.decode(call, process):
                    if not process.program_number:
                        tree.count(process)
                    steps = process.steps
                    process.apply(change)
                    if change.stops_at and process.steps == steps:  # it failed where it began
                        self.skipped.add(f"{call.name} that failed", change.row)
                    yield Applied(change.row, process)
        if not calls_seen:
            names = "mmap, munmap, madvise, mprotect, mremap, brk"
            raise UserError(f"{printable(self.path)}: has no call of {names}")
        if decoder.has_large_pages and self.geometry.page == X86.page:
            self.skipped.add_doubt(
                "maps memory as arm64 with pages of 16 or 64 KiB does, whose tables are others: give --arch", 1
            )
        elif decoder.beyond_x86 and self.geometry.page == X86.page:
            self.skipped.remark(
                "maps memory above 128 TiB, as arm64 does: counted with the tables of arm64-4k, those of x86-64"
            )

    def _events(self, rows: Iterator[tuple[int, str]]) -> Iterator[Event]:
        if self.form == forms.STRACE:
            return read_strace_events(rows, self.skipped)
        if self.form == forms.BPFTRACE:
            return read_bpftrace_events(rows, self.skipped)
        return read_perf_events(rows, self.skipped, self.form)


def replay_calls(path: str) -> TraceReplay:
    """Replay a trace to its end as it was recorded: no page counts as written unless the trace says so.

    Raises UserError with the row.
    """
    trace = TraceReplay(path, trace_name(path), ALL, touch_all=False)
    for _ in trace:
        pass
    return trace


def is_selected(trace: TraceReplay, process: ProcessReplay, choice: str) -> bool:
    """Whether `choice` selects the process: `all`, its pid, or its label (4001.2: the second program of 4001)."""
    return choice == "all" or choice in (str(process.pid), trace.label(process))


def selected(trace: TraceReplay, choice: str) -> list[ProcessReplay]:
    """The processes of a replayed trace that `all`, `largest` or a pid chooses. Raises UserError if there is none.

    largest: the one that had the most memory mapped at one time. A trace that is a table has no pids and one process.
    """
    if trace.form in forms.TABLES or not trace.processes:
        return trace.processes
    if choice == "largest":
        return [max(trace.processes, key=lambda process: process.max_mapped_bytes)]
    processes = [process for process in trace.processes if is_selected(trace, process, choice)]
    if not processes:
        labels = [str(trace.label(process)) for process in trace.processes]
        known = ", ".join(labels[:10]) + (f" and {len(labels) - 10:,} more" if len(labels) > 10 else "")
        raise UserError(f"--process {one_line(choice)}: {printable(trace.path)} has {known}; or largest, or all")
    return processes


def total_figures(processes: Sequence[ProcessReplay]) -> dict[str, dict[str, int]]:
    """The sum of the figures of processes, by policy. Maxima are summed though they need not be at one time."""
    total: dict[str, dict[str, int]] = {}
    for process in processes:
        for policy, figures in process.figures.items():
            sums = total.setdefault(policy, dict.fromkeys(figures, 0))
            for column, value in figures.items():
                sums[column] += value
    return total


def records_processes(trace: TraceReplay) -> bool:
    """Whether a trace is of a form that tells processes apart. Reads its first rows if it has not been replayed."""
    if not trace.form and trace.path != STDIN:
        with TextLines(trace.path) as lines:
            return forms.recognise(lines).form not in forms.TABLES
    return trace.form not in forms.TABLES
