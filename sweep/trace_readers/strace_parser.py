"""Read the output of strace, in any of its forms, as events.

Before a call there may be process numbers, times, call numbers, instruction pointers (-f, -t, -r, -n, -i), and what
mail and shells put there. A call that `<unfinished ...>` and `<... resumed>` cut in two is joined, and so is a line
that strace's own words tore (`madvise(0x7f..., 4096strace: Process 7 attached`).
"""

import re
from collections.abc import Iterator

from engine.traces.page_tables import TraceError
from sweep.common.text_lines import MAX_LINE_CHARACTERS
from sweep.trace_readers.call_names import MEMORY_CALLS, PROCESS_CALLS, PROGRAM_32_BIT, STARTS, UNKNOWN_EFFECT
from sweep.trace_readers.calls import MAX_THREADS, CallBegun, Event, SkippedRows, SystemCall, ThreadEvent

# Lines are at most 64 KiB. No two quantifiers of these patterns can match the same characters next to each other, so
# matching takes linear time.
_PREFIX = (
    r"[\s>|]*"  # -r, and lines that were quoted in mail
    r"(?:\[pid +(?P<pid>\d{1,10})(?:<[^>]*>)?\] +|(?P<number>\d{1,10})(?:<[^>]*>)? +)?"  # <comm>: --decode-pids
    r"(?:[\d:]{1,20}(?:\.\d+)? +)?(?:\(\+ *[\d.]+\) +)?"  # times: -t, -tt, -ttt, -r, and one of them with -r
    r"(?:\[[ \w:?]{1,80}\] +)*"  # call number, instruction pointer, security context: -n, -i, --secontext
)
_LINE = re.compile(_PREFIX + r"(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>[a-z_]\w*)\()(?P<rest>.*)", re.ASCII)
_PLAIN = re.compile(
    _PREFIX + r"(?P<call>madvise|munmap|mmap|mprotect|brk)\((?P<arguments>[^()\"\n]*)\) += "
    r"(?P<result>0x[0-9a-f]{1,16}|\d{1,20})(?: <[\d.]{1,20}>)?\s*$",
    re.ASCII,
)
"""The usual row: a call of memory that worked."""
_END = re.compile(_PREFIX + r"\+\+\+ (?:(?P<exited>exited with|killed by)|superseded by execve in pid (?P<by>\d+))")
_RESULT = re.compile(
    r"(?P<arguments>.*)\) *= (?P<result>0x[0-9a-f]{1,16}|-?\d{1,20}|\?)(?: (?P<why>[A-Z]\w*|/\* \d{1,10} in strace))?",
    re.ASCII,
)
_OWN_WORDS = re.compile(
    r"(?:(?:/[\w/.-]{1,80}/)?strace: )?(?:Process (?P<pid>\d{1,10}) (?:attached|detached|suspended|resumed)"
    r"(?: with (?P<threads>\d{1,10}) threads)?(?: - interrupt to quit)?"
    r"|\[ Process PID=\d{1,10} runs in (?P<mode>32 bit|x32) mode\. \])",
    re.ASCII,
)
_STACK_LINE = re.compile(r"\s*> .*\[0x[0-9a-f]+\]\s*$")  # -k
_VECTOR_CALL = re.compile(r"([^,]*), (\[.*\]|\w+), (\w+), ([^,]+)(?:, .*)?", re.ASCII)
_UNFINISHED = re.compile(r"<(?:unfinished|detached) \.\.\.>\s*$")
_QUIET_MARKS = ("+++", "---", "strace:", "# ")
_MOST_UNFINISHED_BYTES = 64 << 20
_LONGEST_PROGRAM_NAME = 4096
_COUNTED = {**MEMORY_CALLS, **dict.fromkeys(PROCESS_CALLS, 0)}


def is_strace(line: str, *, only_known: bool = False) -> bool:
    """Whether a row can be strace's: a call that returned or was cut in two, or the end of a thread.

    only_known: only for calls that count
    """
    match = _LINE.match(line)
    if match is None:
        return _END.match(line) is not None
    if only_known and (match["call"] or match["resumed"]) not in _COUNTED:
        return False
    rest = match["rest"]
    return bool(match["resumed"] or _RESULT.match(rest) or _UNFINISHED.search(rest) or _OWN_WORDS.search(rest))


def read_strace_events(lines: Iterator[tuple[int, str]], skipped: SkippedRows, thread: int = 0) -> Iterator[Event]:
    """The events of (row, line) pairs; adds the other rows to `skipped`.

    thread: of lines that name none. Raises TraceError above the limits of a replay.
    """
    parser = StraceParser(skipped, thread)
    for row, line in lines:
        call = parser.parse_plain_call(row, line)
        if call is not None:
            yield call
        else:
            yield from parser.parse_line(row, line)
    parser.end()


class StraceParser:
    """State over lines: calls that have not returned, torn lines, which thread a line without a number is of."""

    def __init__(self, skipped: SkippedRows, thread: int = 0) -> None:
        self._skipped, self._thread = skipped, thread
        self._row = 0
        self._torn = ""
        self._unfinished: dict[int, tuple[str, str]] = {}  # thread: (name of the call, its text so far)
        self._unfinished_bytes = 0
        self._alive: set[int] = set()
        self._children: set[int] = set()  # threads that were started or attached while strace ran
        self._main: int | None = None  # the number of the thread whose lines had none at first
        self._is_renamed = False

    def parse_plain_call(self, row: int, line: str) -> SystemCall | None:
        """The call of a usual row by a thread that is known; None for all else, which `parse_line` reads."""
        match = _PLAIN.match(line)
        if match is None or self._torn or self._is_renamed:
            return None
        pid, number, name, arguments, result = match.groups()
        thread = int(pid or number or self._thread)
        if thread not in self._alive or thread == self._main:
            return None
        return SystemCall(row, thread, name, arguments.split(", ", _COUNTED[name]), int(result, 0), "")

    def parse_line(self, row: int, line: str) -> Iterator[Event]:
        self._row = row
        if self._torn or "rocess" in line:
            is_torn = False
            for own in _OWN_WORDS.finditer(line):
                yield from self._own_words(row, own)
                is_torn = not own["mode"] and own.end() == len(line.rstrip())
            line, self._torn = self._torn + _OWN_WORDS.sub("", line), ""
            if is_torn and len(line) < MAX_LINE_CHARACTERS:
                self._torn = line if line.strip(" \t>|") else ""
                return
        match = _LINE.match(line)
        if match is None:
            yield from self._no_call(row, line)
            return
        name, rest = match["call"], match["rest"]
        resumed = match["resumed"]
        if (resumed or name) not in _COUNTED:
            name = resumed or name
            if name in UNKNOWN_EFFECT and not (rest.rstrip().endswith("...>") or "= -1 " in rest):
                self._skipped.add_doubt(f"{name} {UNKNOWN_EFFECT[name]}", row)
            else:
                self._skipped.add("other system calls", row)
            self._thread_of(match, resumed)
            return
        thread = self._thread_of(match, resumed)
        if self._is_renamed:
            self._is_renamed = False
            yield ThreadEvent(row, self._thread, "numbered", str(self._main))
        if resumed:
            name, beginning = self._unfinished.pop(thread, ("", ""))
            self._unfinished_bytes -= len(beginning)
            if name != resumed:
                self._skipped.add_doubt(f"{resumed} resumed, but not begun in this file", row)
                return
            rest = beginning + rest
        assert name is not None
        if "...>" in rest and (unfinished := _UNFINISHED.search(rest)):
            yield from self._begin(row, thread, name, rest[: unfinished.start()].rstrip(" "))
            return
        yield from self._finish(row, thread, name, rest)

    def end(self) -> None:
        """Note the memory calls that never returned."""
        names = [name for name, _ in self._unfinished.values() if name in MEMORY_CALLS]
        if names:
            self._skipped.add_doubt(f"{len(names):,} calls such as {names[0]} that never returned", self._row)
        if self._torn:
            self._skipped.add_doubt("cut off", self._row)

    def _begin(self, row: int, thread: int, name: str, text: str) -> Iterator[Event]:
        if name.startswith("execve"):
            text = text[:_LONGEST_PROGRAM_NAME]
        self._unfinished_bytes += len(text)
        if len(self._unfinished) >= MAX_THREADS or self._unfinished_bytes > _MOST_UNFINISHED_BYTES:
            raise TraceError(
                f"more than {MAX_THREADS:,} unfinished calls, or {_MOST_UNFINISHED_BYTES >> 20} MiB of them"
            )
        self._unfinished[thread] = (name, text)
        if name in STARTS:
            yield CallBegun(row, thread, name, text.split(", "))

    def _finish(self, row: int, thread: int, name: str, rest: str) -> Iterator[Event]:
        """Yield the event of a call that returned. rest: what follows the parenthesis: `NULL, 4096, ...) = 0x7f...`."""
        match = _RESULT.match(rest)
        if match is None:
            self._skipped.add_doubt(f"{name}: cut off, or not a line of strace's", row)
            return
        text, why = match["arguments"], match["why"] or ""
        result = None if match["result"] == "?" else int(match["result"], 0)
        if name == "process_madvise" and (vector := _VECTOR_CALL.fullmatch(text)):
            arguments = list(vector.groups())
        else:
            arguments = text.split(", ", _COUNTED[name] or -1)
        if why.startswith("/*"):  # the child's number outside of its PID namespace
            result, why = int(why.split()[1]), ""
        if name in STARTS and result and result > 0:
            self._children.add(result)
        error = (why or "failed") if result is None or result < 0 else ""
        yield SystemCall(row, thread, name, arguments, result, error)

    def _no_call(self, row: int, line: str) -> Iterator[Event]:
        if end := _END.match(line):
            thread = self._thread_of(end, None)
            if end["exited"]:
                self._alive.discard(thread)
                self._unfinished.pop(thread, None)
                yield ThreadEvent(row, thread, "exited")
            else:
                # The thread that executes the program gets the number of the first thread, which ends here.
                by = int(end["by"])
                if by in self._unfinished:
                    self._unfinished[thread] = self._unfinished.pop(by)
                self._alive.discard(by)
        elif line.strip(" \t>|`") and not any(mark in line for mark in _QUIET_MARKS) and not _STACK_LINE.match(line):
            self._skipped.add("not a line of strace's", row)

    def _own_words(self, row: int, own: re.Match[str]) -> Iterator[Event]:
        """Yield the event of a message of strace itself, such as `strace: Process 4002 attached`.

        That is a child, or a process that ran before if nothing was seen yet.
        """
        if own["mode"]:
            self._skipped.remark(PROGRAM_32_BIT)
        elif not self._alive or own["threads"]:
            pid = int(own["pid"])
            if not self._thread:
                self._thread = self._main = pid
            yield ThreadEvent(row, pid, "attached")
        else:
            self._children.add(int(own["pid"]))

    def _thread_of(self, match: re.Match[str], resumed: str | None) -> int:
        """The thread of a line. Lines have a number only while strace follows more than one thread (-f to a terminal).

        So the first thread, 0 so far, gets a number later; and when one thread is left, its lines have none.
        """
        number = int(match["pid"] or match["number"] or 0)
        if not number:
            if self._thread in self._alive or len(self._alive) != 1:
                self._alive.add(self._thread)
                return self._thread
            return next(iter(self._alive))
        if number == self._main:
            return self._thread
        if number not in self._alive:
            if self._main is None and self._thread in self._alive and number not in self._children:
                waiting = self._unfinished.get(self._thread)
                if waiting is None or (resumed and waiting[0] == resumed):
                    self._main, self._is_renamed = number, True
                    return self._thread
            if len(self._alive) >= MAX_THREADS:
                raise TraceError(f"more than {MAX_THREADS:,} threads: too many to tell apart")
            self._alive.add(number)
        return number
