"""Read what sweep/record/memory_calls.bt prints under bpftrace, as events.

Rows of different CPUs are not in order, so they are sorted by their time within a window. Each row has the process and
the thread, so threads that ran before the recording began are known by their first row.
"""

import errno
import re
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from engine.traces.page_tables import TraceError
from sweep.common.errors import one_line
from sweep.trace_readers.call_arguments import CLONE_THREAD, CLONE_VM
from sweep.trace_readers.call_names import MEMORY_CALLS, UNKNOWN_EFFECT
from sweep.trace_readers.calls import MAX_THREADS, Event, SkippedRows, SystemCall, ThreadEvent, ThreadStarted

HEADER = "ptsweep bpftrace 1"
WINDOW = 1 << 14
"""Rows that are sorted at a time: what a few CPUs have in their buffers."""
_ROW = re.compile(
    r"(?P<ns>\d{1,20}) (?P<pid>\d{1,10}) (?P<tid>\d{1,10}) "
    r"(?P<what>calls|range|returns|starts|executes|exits)(?: (?P<words>.{0,200}))?$",
    re.ASCII,
)
_LOST = re.compile(r"Lost (\d{1,20}) events", re.ASCII)
_QUIET = ("Attaching ", "Attached ", HEADER)


class _Row(NamedTuple):
    """Sorted by the time in ns, then by the row in the file."""

    ns: int
    row: int
    pid: int
    tid: int
    what: str
    words: list[str]


def is_bpftrace(line: str) -> bool:
    return line.startswith(HEADER) or _ROW.match(line) is not None


def read_bpftrace_events(lines: Iterator[tuple[int, str]], skipped: SkippedRows) -> Iterator[Event]:
    """The events of (row, line) pairs; adds the other rows to `skipped`. Raises TraceError above the limits."""
    parser = _BpftraceParser(skipped)
    for row in _in_order(lines, skipped):
        try:
            yield from parser.events(row)
        except (ValueError, IndexError):
            skipped.add_doubt("cut off, or not a line of bpftrace's", row.row)
    parser.end()


def _in_order(lines: Iterator[tuple[int, str]], skipped: SkippedRows) -> Iterator[_Row]:
    waiting: list[_Row] = []
    last_ns = 0
    for number, line in lines:
        match = _ROW.match(line)
        if match is None:
            if lost := _LOST.search(line):
                skipped.add_doubt(f"bpftrace lost {lost[1]} events", number)
            elif line.strip() and not line.startswith(_QUIET):
                skipped.add("not a line of bpftrace's", number)
            continue
        ns, pid, tid, what, words = match.groups("")
        row = _Row(int(ns), number, int(pid), int(tid), what, words.split(" "))
        if row.ns < last_ns:
            skipped.add_doubt(f"more than {WINDOW:,} rows too late", number)
            continue
        heappush(waiting, row)
        if len(waiting) > WINDOW:
            earliest = heappop(waiting)
            last_ns = earliest.ns
            yield earliest
    while waiting:
        yield heappop(waiting)


class _BpftraceParser:
    """State over rows: calls that have not returned, and the process of each thread."""

    def __init__(self, skipped: SkippedRows) -> None:
        self._skipped = skipped
        self._begun: dict[int, tuple[str, list[str]]] = {}  # by thread
        self._process_of: dict[int, int] = {}  # by thread
        self._last_row = 0

    def events(self, row: _Row) -> Iterator[Event]:
        """Yield the events of a row.

        Raises ValueError and IndexError for a row that was cut off, TraceError for too many threads.
        """
        self._last_row = row.row
        if row.what == "executes":
            yield from self._executes(row)
            return
        yield from self._known(row)
        if row.what == "calls":
            name, *arguments = row.words
            self._begun[row.tid] = name, [f"0x{int(word, 16):x}" for word in arguments if word]
        elif row.what == "range":
            start, length = (int(word, 16) for word in row.words)
            self._begun[row.tid][1].append(f"iov_base={start:#x}, iov_len={length}")
        elif row.what == "returns":
            yield from self._returns(row, int(row.words[0]))
        elif row.what == "starts":
            child, flags = int(row.words[0]), int(row.words[1], 16)
            self._process_of[child] = row.pid if flags & CLONE_THREAD else child
            yield ThreadStarted(row.row, row.tid, child, flags)
        else:
            self._begun.pop(row.tid, None)
            del self._process_of[row.tid]
            yield ThreadEvent(row.row, row.tid, "exited")

    def end(self) -> None:
        names = [name for name, _ in self._begun.values() if name in MEMORY_CALLS]
        if names:
            self._skipped.add_doubt(f"{len(names):,} calls such as {names[0]} that never returned", self._last_row)

    def _known(self, row: _Row) -> Iterator[Event]:
        """What is to be said of a thread that no row has announced: it ran before."""
        if row.tid in self._process_of:
            return
        if len(self._process_of) >= MAX_THREADS:
            raise TraceError(f"more than {MAX_THREADS:,} threads: too many to tell apart")
        known = next((thread for thread, process in self._process_of.items() if process == row.pid), None)
        if known is None:
            known = self._process_of[row.pid] = row.pid
            yield ThreadEvent(row.row, row.pid, "attached")
        if row.tid != row.pid:
            self._process_of[row.tid] = row.pid
            yield ThreadStarted(row.row, known, row.tid, CLONE_VM | CLONE_THREAD)

    def _executes(self, row: _Row) -> Iterator[Event]:
        """The process has one thread from then on, with the number of the process."""
        for thread in [thread for thread, process in self._process_of.items() if process == row.pid]:
            self._begun.pop(thread, None)
            del self._process_of[thread]
        self._process_of[row.tid] = row.pid
        yield SystemCall(row.row, row.tid, "execve", [f'"{one_line(" ".join(row.words))}"'], 0)

    def _returns(self, row: _Row, result: int) -> Iterator[Event]:
        begun = self._begun.pop(row.tid, None)
        if begun is None:
            return  # it began before the recording did
        name, arguments = begun
        if name in UNKNOWN_EFFECT:
            if result >= 0:
                self._skipped.add_doubt(f"{name} {UNKNOWN_EFFECT[name]}", row.row)
            return
        if name == "process_madvise":
            arguments[1:] = [", ".join(arguments[4:]), *arguments[2:4]]
        error = errno.errorcode.get(-result, "failed") if result < 0 else ""
        yield SystemCall(row.row, row.tid, name, arguments, result, error)
