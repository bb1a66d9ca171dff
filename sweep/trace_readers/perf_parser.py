"""Read the output of `perf trace`, and of `perf script` for tracepoints of system calls, as events.

perf trace leaves out arguments that are 0 and prints names without their prefix (`prot: READ|WRITE`). It does not show
the flags of clone3; perf script does where task:task_newtask was recorded too.
"""

import re
from collections.abc import Iterator

from engine.traces.page_tables import TraceError
from sweep.common.errors import one_line
from sweep.trace_readers.call_names import MEMORY_CALLS, PROCESS_CALLS, STARTS, UNKNOWN_EFFECT
from sweep.trace_readers.calls import (
    MAX_THREADS,
    CallBegun,
    Event,
    SkippedRows,
    SystemCall,
    ThreadEvent,
    ThreadStarted,
)

_PERF_TRACE = re.compile(
    r"\s*(?:\?|[\d.]{1,30}) \( *(?:[\d.]{1,30} ms)? *\): (?:(?P<comm>[^\n]{0,16})/)?(?:(?P<tid>\d{1,10}) )? *"
    r"(?:\.\.\. \[continued\]: (?P<resumed>\w+)\(\)|(?P<call>\w+)\()(?P<rest>.*)",
    re.ASCII,
)
_PERF_SCRIPT = re.compile(
    r"\s*(?P<comm>\S.{0,15}?)\s+(?:\d{1,10}/)?(?P<tid>\d{1,10})\s+(?:\[\d{1,4}\]\s+)?(?:[\w.]{1,8}\s+)?(?:[\d.]{1,30}:\s+)?"
    r"(?:\d{1,20}\s+)?(?:syscalls:sys_(?P<edge>enter|exit)_(?P<call>\w+)|(?P<point>(?:task|sched):\w+)): *(?P<rest>.*)",
    re.ASCII,
)
_RESULT = re.compile(
    r"(?P<arguments>.*)\) *= (?P<result>0x[0-9a-f]{1,16}|-?\d{1,20}|\?|$)(?: (?P<why>E\w+))?", re.ASCII
)
_UNFINISHED = re.compile(r"\) *\.\.\.\s*$")
_ARGUMENT = re.compile(r"(\w{1,40}): ([^,]*)", re.ASCII)
_NEW_TASK = re.compile(r"pid=(\d{1,10}) .*clone_flags=([0-9a-f]{1,16})\b", re.ASCII)
_LOST = re.compile(r"LOST (\d{1,20}) events|RECORD_LOST", re.ASCII)
_NAMES = {
    **dict.fromkeys(("mmap", "mmap2"), ("addr", "len", "prot", "flags", "fd", "off")),
    "munmap": ("addr", "len"),
    "madvise": ("start", "len_in", "behavior"),
    **dict.fromkeys(("mprotect", "pkey_mprotect"), ("start", "len", "prot")),
    "mremap": ("addr", "old_len", "new_len", "flags"),
    "brk": ("brk",),
    **dict.fromkeys(("mlock", "munlock"), ("start", "len")),
    "mlock2": ("start", "len", "flags"),
    "mlockall": ("flags",),
    "mbind": ("start", "len", "mode", "nmask"),
    "prctl": ("option", "arg2", "arg3"),
    "process_madvise": ("pidfd", "vec", "vlen", "behavior"),
}
"""The names of the arguments of a call (include/linux/syscalls.h), in the order of the kernel."""
_MAX_ERRNO = 4095
_ENOMEM = 12
_LONGEST_ARGUMENTS = 4096


def is_perf_trace(line: str) -> bool:
    return _PERF_TRACE.match(line) is not None


def is_perf_script(line: str) -> bool:
    return _PERF_SCRIPT.match(line) is not None


def read_perf_events(lines: Iterator[tuple[int, str]], skipped: SkippedRows, form: str) -> Iterator[Event]:
    """The events of (row, line) pairs; adds the other rows to `skipped`. form: `perf trace` or `perf script`.

    Raises TraceError above the limits of a replay.
    """
    parser = _PerfParser(skipped)
    parse = parser.trace_line if form == "perf trace" else parser.script_line
    row = 0
    for row, line in lines:
        yield from parse(row, line)
    parser.end(row)


class _PerfParser:
    """State over lines: calls that have not returned, and the names of the threads' programs."""

    def __init__(self, skipped: SkippedRows) -> None:
        self._skipped = skipped
        self._begun: dict[int, tuple[str, str]] = {}
        self._programs: dict[int, str] = {}

    def trace_line(self, row: int, line: str) -> Iterator[Event]:
        match = _PERF_TRACE.match(line)
        if match is None:
            self._no_call(row, line)
            return
        thread, name = int(match["tid"] or 0), match["call"] or match["resumed"]
        if not self._counts(row, name, match["rest"]):
            return
        yield from self._named(row, thread, match["comm"])
        text = match["rest"]
        if match["resumed"]:
            begun, beginning = self._begun.pop(thread, ("", ""))
            if begun == name:
                text = beginning + text
            elif name in MEMORY_CALLS:
                self._skipped.add_doubt(f"{name} continued, but not begun in this file", row)
                return
        if unfinished := _UNFINISHED.search(text):
            yield from self._begin(row, thread, name, text[: unfinished.start()])
            return
        result = _RESULT.match(text)
        if result is None:
            self._skipped.add_doubt(f"{name}: cut off, or not a line of perf's", row)
            return
        number = None if result["result"] == "?" else int(result["result"] or "0", 0)
        error = (result["why"] or "failed") if number is None or number < 0 else ""
        yield from self._finish(row, thread, name, result["arguments"], number, error)

    def script_line(self, row: int, line: str) -> Iterator[Event]:
        match = _PERF_SCRIPT.match(line)
        if match is None:
            self._no_call(row, line)
            return
        thread, name, rest = int(match["tid"]), match["call"], match["rest"]
        if match["point"]:
            task = _NEW_TASK.match(rest)
            if match["point"] == "task:task_newtask" and task:
                yield ThreadStarted(row, thread, int(task[1]), int(task[2], 16))
            elif match["point"] == "sched:sched_process_exit":
                yield ThreadEvent(row, thread, "exited")
            return
        if not self._counts(row, name, rest):
            return
        yield from self._named(row, thread, match["comm"])
        if match["edge"] == "enter":
            yield from self._begin(row, thread, name, rest)
            if name in ("exit", "exit_group"):
                del self._begun[thread]
                yield SystemCall(row, thread, name, [], None)
            return
        begun, arguments = self._begun.pop(thread, ("", ""))
        if begun != name and name in MEMORY_CALLS:
            self._skipped.add_doubt(f"{name} returns, but does not begin in this file", row)
            return
        try:
            value = int(rest.split()[0], 0)
        except (IndexError, ValueError):
            self._skipped.add_doubt(f"{name}: cut off, or not a line of perf's", row)
            return
        errno = -value if value < 0 else (1 << 64) - value
        error = "" if not 0 < errno <= _MAX_ERRNO else "ENOMEM" if errno == _ENOMEM else "failed"
        yield from self._finish(row, thread, name, arguments, value, error)

    def end(self, row: int) -> None:
        names = [name for name, _ in self._begun.values() if name in MEMORY_CALLS]
        if names:
            self._skipped.add_doubt(f"{len(names):,} calls such as {names[0]} that never returned", row)

    def _counts(self, row: int, name: str, rest: str) -> bool:
        if name in MEMORY_CALLS or name in PROCESS_CALLS:
            return True
        if name in UNKNOWN_EFFECT and "= -1 " not in rest:
            self._skipped.add_doubt(f"{name} {UNKNOWN_EFFECT[name]}", row)
        else:
            self._skipped.add("other system calls", row)
        return False

    def _named(self, row: int, thread: int, comm: str | None) -> Iterator[Event]:
        """The name of a thread's program, whenever it is another one."""
        name = one_line((comm or "").strip())
        if name and self._programs.get(thread) != name:
            if len(self._programs) >= MAX_THREADS:
                raise TraceError(f"more than {MAX_THREADS:,} threads: too many to tell apart")
            self._programs[thread] = name
            yield ThreadEvent(row, thread, "named", name)

    def _begin(self, row: int, thread: int, name: str, text: str) -> Iterator[Event]:
        if len(self._begun) >= MAX_THREADS:
            raise TraceError(f"more than {MAX_THREADS:,} unfinished calls")
        self._begun[thread] = (name, text[:_LONGEST_ARGUMENTS])
        if name in STARTS:
            yield CallBegun(row, thread, name, _arguments(name, text))

    def _finish(self, row: int, thread: int, name: str, text: str, result: int | None, error: str) -> Iterator[Event]:
        if name in STARTS and result == 0:
            return  # as the child sees it
        program = self._programs.get(thread, "")
        arguments = [f'"{program}"'] if name.startswith("execve") else _arguments(name, text)
        yield SystemCall(row, thread, name, arguments, result, error)

    def _no_call(self, row: int, line: str) -> None:
        if lost := _LOST.search(line):
            self._skipped.add_doubt(f"perf lost {lost[1] or 'some'} events", row)
        elif line.strip() and not line.startswith("#"):
            self._skipped.add("not a line of perf's", row)


def _arguments(name: str, text: str) -> list[str]:
    """The arguments in the kernel's order; those that perf leaves out are 0."""
    values = {key: value.strip() for key, value in _ARGUMENT.findall(text)}
    if name in STARTS:
        return [f"flags={values['clone_flags']}"] if "clone_flags" in values else []
    return [values.get(key, "0") or "0" for key in _NAMES.get(name, ())]
