"""The output of `strace -f -e trace=mmap,munmap,madvise,mremap,brk,mprotect`, read line by line as calls.

With or without process numbers and times, to a file or to the terminal; `<unfinished ...>` is joined with `resumed`.
"""

import re
from collections.abc import Iterator

from engine.traces.page_tables import PAGE
from engine.traces.vmas import READ, WRITE
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.traces.trace_reader import MOST_THREADS, Call, ProgramTracker, SkippedRows, check_call

_LINE = re.compile(
    r"(?:\[pid +(?P<pid>\d+)(?:<[^>]*>)?\] +|(?P<number>\d+)(?:<[^>]*>)? +)?"  # <comm>: --decode-pids
    r"(?:\(\+ *[\d.]+\) +|[\d:]+(?:\.\d+)? +)?"  # a time: -t, -tt, -ttt, -r
    r"(?:\[[ \da-f]+\] +)*"  # the call's number, where it was made: -n, -i
    r"(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)"
)
_RESULT = re.compile(r"(?P<arguments>.*)\) *= (?P<result>0x[0-9a-f]+|-?\d+|\?)(?P<why>.*)")
_UNFINISHED = "<unfinished ...>"
_NOISE = ("+++", "---", "strace: ")
_ADVICE = {"MADV_DONTNEED": "dontneed", "0x4": "dontneed", "MADV_DONTNEED_LOCKED": "dontneed", "0x18": "dontneed"} | {
    "MADV_FREE": "free",
    "0x8": "free",
}
_SHARED, _ANONYMOUS, _STACK = 0x1, 0x20, 0x20000  # include/uapi/linux/mman.h, asm-generic/mman.h
_ARGUMENTS = {"mmap": 6, "munmap": 2, "madvise": 3, "mprotect": 3, "mremap": 4, "brk": 1}
_LONGEST_CALL = 4096


def read_strace_calls(rows: Iterator[tuple[int, str]], place: TextLines, skipped: SkippedRows) -> Iterator[Call]:
    """The calls that worked. Raises UserError where there is not one call in the file."""
    reader = _Reader()
    for row, line in rows:
        try:
            call = reader.line(row, line)
        except UserError as error:
            raise place.error(str(error)) from error
        if isinstance(call, Call):
            call = check_call(call)
        if isinstance(call, Call):
            yield call
        elif call:
            skipped.add(call, row)
    if not reader.calls_seen:
        raise UserError(f"{place.path}: {place.row} rows, and not one call of {', '.join(_ARGUMENTS)} in them")
    if reader.open_calls:
        skipped.add(f"{reader.open_calls} calls that never returned", place.row)


class _Reader:
    """What must be known from earlier lines: calls that did not return yet, the break, which threads are ours."""

    def __init__(self) -> None:
        self.calls_seen = 0
        self._unfinished: dict[int, tuple[str, str]] = {}
        self._programs = ProgramTracker()
        self._break = 0

    @property
    def open_calls(self) -> int:
        return len(self._unfinished)

    def line(self, row: int, line: str) -> Call | str:
        """A call, or why the line counts for nothing, or nothing to say. Raises UserError."""
        match = _LINE.match(line)
        if match is None:
            noise = not line.strip() or any(mark in line for mark in _NOISE)
            return "" if noise else "not a line of strace's"
        thread = int(match["pid"] or match["number"] or 0)
        name, rest = match["call"], match["rest"]
        if match["resumed"]:
            name, begun = self._unfinished.pop(thread, ("", ""))
            if name != match["resumed"]:
                return "resumed, but not begun in this file"
            rest = begun + rest
        if name not in _ARGUMENTS:
            return f"{name} is none of {', '.join(_ARGUMENTS)}"
        if rest.rstrip().endswith(_UNFINISHED):
            if len(self._unfinished) >= MOST_THREADS or len(rest) > _LONGEST_CALL:
                raise UserError(f"more than {MOST_THREADS:,} unfinished calls")
            self._unfinished[thread] = (name, rest.rstrip().removesuffix(_UNFINISHED).rstrip())
            return ""
        return self._finished(row, thread, name, rest)

    def _finished(self, row: int, thread: int, name: str, rest: str) -> Call | str:
        match = _RESULT.match(rest)
        if match is None:
            return "cut off, or not a line of strace's"
        arguments = match["arguments"].split(", ", _ARGUMENTS[name] - 1)
        if len(arguments) < _ARGUMENTS[name]:
            return f"{name} with {len(arguments)} arguments"
        self.calls_seen += 1
        try:
            return self._call(row, thread, name, arguments, match["result"])
        except ValueError:
            return f"{name} with arguments that are no numbers"

    def _call(self, row: int, thread: int, name: str, arguments: list[str], result: str) -> Call | str:
        start = _number(arguments[0])
        length = _number(arguments[1]) if len(arguments) > 1 else 0
        if self._programs.foreign(thread, name, start, length):
            return "another program's call, started by this one"
        if result == "?" or result.startswith("-"):
            return f"{name} that failed"
        match name:
            case "mmap":
                anonymous, stack = _kind(arguments[3])
                return Call(row, "mmap", int(result, 16), length, _rights(arguments[2]), anonymous, stack)
            case "mremap":
                new_length = _number(arguments[2])
                return Call(row, "mremap", int(result, 16), new_length, moved_from=start, old_length=length)
            case "madvise":
                advice = _ADVICE.get(re.sub(r"^0x\w+ /\* (\w+) \*/$", r"\1", arguments[2]))
                return Call(row, advice, start, length) if advice else f"{arguments[2]} gives nothing back"
            case "mprotect":
                return Call(row, "mprotect", start, length, _rights(arguments[2]))
            case "brk":
                return self._brk(row, start, int(result, 16))
        return Call(row, "munmap", start, length)

    def _brk(self, row: int, asked: int, now: int) -> Call | str:
        """A break that moves maps or unmaps the pages between. brk(NULL) asks, and may be a new program's."""
        before = self._break
        if asked or not before:
            self._break = now
        old, new = -(-before // PAGE) * PAGE, -(-now // PAGE) * PAGE
        if not before or not asked or old == new:
            return ""
        return Call(row, "mmap", old, new - old) if new > old else Call(row, "munmap", new, old - new)


def _number(text: str) -> int:
    if text == "NULL":
        return 0
    value = int(text, 16) if text.startswith("0x") else int(text)
    if value < 0:
        raise ValueError
    return value


def _kind(flags: str) -> tuple[bool, bool]:
    """Whether a mapping is private and anonymous, and whether it is a stack: by MAP_ names, or the number of -X raw."""
    if flags.startswith("0x") and "MAP_" not in flags:
        number = int(flags, 16)
        return bool(number & _ANONYMOUS) and not number & _SHARED, bool(number & _STACK)
    return "MAP_ANON" in flags and "MAP_SHARED" not in flags, "MAP_STACK" in flags


def _rights(text: str) -> int:
    """PROT_ names, or the number that -X raw prints (PROT_READ 1, PROT_WRITE 2)."""
    if text.startswith("0x") and "PROT" not in text:
        return int(text, 16) & (READ | WRITE)
    return (READ if "PROT_READ" in text else 0) | (WRITE if "PROT_WRITE" in text else 0)
