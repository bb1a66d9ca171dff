"""Parse the output of `strace -f -e trace=mmap,munmap,madvise,mremap,brk,mprotect,prctl` into calls.

Lines may have process numbers, times, call numbers and instruction pointers before the call (-f, -t, -r, -n, -i). A
call that is cut in two by `<unfinished ...>` and `<... resumed>` is joined.
"""

import re
from collections.abc import Iterator

from engine.traces.page_tables import PAGE
from engine.traces.vmas import READ, WRITE
from sweep.common.errors import UserError, one_line
from sweep.common.text_lines import TextLines
from sweep.traces.trace_reader import ADVICE, MAX_THREADS, Call, ProgramTracker, SkippedRows, check_call

# Lines are at most 64 KiB. No two quantifiers of these patterns can match the same characters next to each other, so
# matching takes linear time.
_LINE = re.compile(
    r"(?:\[pid +(?P<pid>\d{1,10})(?:<[^>]*>)?\] +|(?P<number>\d{1,10})(?:<[^>]*>)? +)?"  # <comm>: --decode-pids
    r"(?:\(\+ *[\d.]+\) +|[\d:]{1,20}(?:\.\d+)? +)?"  # a time: -t, -tt, -ttt, -r
    r"(?:\[[ \da-f]+\] +)*"  # call number and instruction pointer: -n, -i
    r"(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)",
    re.ASCII,
)
_RESULT = re.compile(r"(?P<arguments>.*)\) *= (?P<result>0x[0-9a-f]+|-?\d+|\?)(?P<why>.*)", re.ASCII)
_RAW_ADVICE = re.compile(r"0x\w+ /\* (\w+) \*/", re.ASCII)
_UNFINISHED = "<unfinished ...>"
_OTHER_OUTPUT = ("+++", "---", "strace: ")
_ADVICE = ADVICE | {  # by name, or by number with -X raw
    "0x4": "dontneed",
    "0x18": "dontneed",
    "0x8": "free",
    "0xe": "hugepage",
    "0xf": "nohugepage",
    "0x19": "collapse",
}
_SHARED, _ANONYMOUS, _STACK = 0x1, 0x20, 0x20000  # include/uapi/linux/mman.h, asm-generic/mman.h
_ARGUMENT_COUNTS = {"mmap": 6, "munmap": 2, "madvise": 3, "mprotect": 3, "mremap": 4, "brk": 1, "prctl": 2}
_THP_DISABLE, _EXCEPT_ADVISED = ("PR_SET_THP_DISABLE", "0x29"), ("PR_THP_DISABLE_EXCEPT_ADVISED", "0x2")
_MAX_UNFINISHED_CHARACTERS = 4096


def read_strace_calls(lines: Iterator[tuple[int, str]], rows: TextLines, skipped: SkippedRows) -> Iterator[Call]:
    """The successful calls of (row, line) pairs; adds the other rows to `skipped`. `rows` gives errors their place.

    Raises UserError if there is no call at all.
    """
    parser = _Parser()
    for row, line in lines:
        try:
            call = parser.parse_line(row, line)
        except UserError as error:
            raise rows.error(str(error)) from error
        if isinstance(call, Call):
            call = check_call(call)
        if isinstance(call, Call):
            yield call
        elif call:
            skipped.add(call, row)
    if not parser.calls_seen:
        raise UserError(f"{rows.path}: {rows.row} rows, and not one call of {', '.join(_ARGUMENT_COUNTS)} in them")
    if parser.unfinished_calls:
        skipped.add(f"{parser.unfinished_calls} calls that never returned", rows.row)


class _Parser:
    """State over lines: calls that have not returned, the program break, the threads of the traced program."""

    def __init__(self) -> None:
        self.calls_seen = 0
        self._unfinished: dict[int, tuple[str, str]] = {}  # thread: (name of the call, its text so far)
        self._programs = ProgramTracker()
        self._break = 0

    @property
    def unfinished_calls(self) -> int:
        return len(self._unfinished)

    def parse_line(self, row: int, line: str) -> Call | str:
        """A call, or the reason to skip the line, or an empty string for a line without a call. Raises UserError."""
        match = _LINE.match(line)
        if match is None:
            is_expected = not line.strip() or any(mark in line for mark in _OTHER_OUTPUT)
            return "" if is_expected else "not a line of strace's"
        thread = int(match["pid"] or match["number"] or 0)
        name, rest = match["call"], match["rest"]
        if match["resumed"]:
            name, beginning = self._unfinished.pop(thread, ("", ""))
            if name != match["resumed"]:
                return "resumed, but not begun in this file"
            rest = beginning + rest
        if name not in _ARGUMENT_COUNTS:
            return f"{one_line(name)} is none of {', '.join(_ARGUMENT_COUNTS)}"
        if rest.rstrip().endswith(_UNFINISHED):
            if len(self._unfinished) >= MAX_THREADS:
                raise UserError(f"more than {MAX_THREADS:,} unfinished calls")
            if len(rest) > _MAX_UNFINISHED_CHARACTERS:
                raise UserError(f"an unfinished call of more than {_MAX_UNFINISHED_CHARACTERS:,} characters")
            self._unfinished[thread] = (name, rest.rstrip().removesuffix(_UNFINISHED).rstrip())
            return ""
        return self._parse_finished(row, thread, name, rest)

    def _parse_finished(self, row: int, thread: int, name: str, rest: str) -> Call | str:
        """`rest` is all after the opening parenthesis: `NULL, 4096, ...) = 0x7f...`."""
        match = _RESULT.match(rest)
        if match is None:
            return "cut off, or not a line of strace's"
        arguments = match["arguments"].split(", ", _ARGUMENT_COUNTS[name] - 1)
        if len(arguments) < _ARGUMENT_COUNTS[name]:
            return f"{name} with {len(arguments)} arguments"
        self.calls_seen += 1
        try:
            return self._call(row, thread, name, arguments, match["result"])
        except ValueError:
            return f"{name} with arguments that are no numbers"

    def _call(self, row: int, thread: int, name: str, arguments: list[str], result: str) -> Call | str:
        """Raises ValueError for an argument that should be a number."""
        if name == "prctl":
            return self._prctl(row, thread, arguments, result)
        start = _number(arguments[0])
        length = _number(arguments[1]) if len(arguments) > 1 else 0
        if self._programs.is_foreign(thread, name, start, length):
            return "another program's call, started by this one"
        if result == "?" or result.startswith("-"):
            return f"{name} that failed"
        match name:
            case "mmap":
                anonymous, stack = _anonymous_and_stack(arguments[3])
                return Call(row, "mmap", int(result, 16), length, _rights(arguments[2]), anonymous, stack)
            case "mremap":
                new_length = _number(arguments[2])
                return Call(row, "mremap", int(result, 16), new_length, moved_from=start, old_length=length)
            case "madvise":
                raw = _RAW_ADVICE.fullmatch(arguments[2])
                advice = _ADVICE.get(raw[1] if raw else arguments[2])
                return Call(row, advice, start, length) if advice else f"{one_line(arguments[2])} gives nothing back"
            case "mprotect":
                return Call(row, "mprotect", start, length, _rights(arguments[2]))
            case "brk":
                return self._brk(row, start, int(result, 16))
        return Call(row, "munmap", start, length)

    def _prctl(self, row: int, thread: int, arguments: list[str], result: str) -> Call | str:
        """PR_SET_THP_DISABLE; other settings of a process do not matter here. Raises ValueError as _call does."""
        if arguments[0] not in _THP_DISABLE or result != "0" or self._programs.is_foreign(thread, "prctl", 0, 0):
            return ""
        disable, flags, *_ = [*arguments[1].split(", "), "0"]
        how = "unadvised" if flags.startswith(_EXCEPT_ADVISED) else "all"
        return Call(row, "thp_disable", 0, 0, thp_disabled=how if _number(disable) else "")

    def _brk(self, row: int, requested: int, new_break: int) -> Call | str:
        """The mmap or munmap of the pages between the old break and the new one.

        brk(NULL) only queries the break, and may come from a program that was just started.
        """
        old_break = self._break
        if requested or not old_break:
            self._break = new_break
        old_end, new_end = -(-old_break // PAGE) * PAGE, -(-new_break // PAGE) * PAGE
        if not old_break or not requested or old_end == new_end:
            return ""
        if new_end > old_end:
            return Call(row, "mmap", old_end, new_end - old_end)
        return Call(row, "munmap", new_end, old_end - new_end)


def _number(text: str) -> int:
    """NULL, a hexadecimal or a decimal number. Raises ValueError for anything else."""
    if text == "NULL":
        return 0
    value = int(text, 16) if text.startswith("0x") else int(text)
    if value < 0:
        raise ValueError
    return value


def _anonymous_and_stack(flags: str) -> tuple[bool, bool]:
    """Whether a mapping is private and anonymous, and whether it is a stack. `flags`: MAP_ names, or a number."""
    if flags.startswith("0x") and "MAP_" not in flags:
        number = int(flags, 16)
        return bool(number & _ANONYMOUS) and not number & _SHARED, bool(number & _STACK)
    return "MAP_ANON" in flags and "MAP_SHARED" not in flags, "MAP_STACK" in flags


def _rights(text: str) -> int:
    """READ and WRITE of PROT_ names, or of the number that -X raw prints (PROT_READ 1, PROT_WRITE 2)."""
    if text.startswith("0x") and "PROT" not in text:
        return int(text, 16) & (READ | WRITE)
    return (READ if "PROT_READ" in text else 0) | (WRITE if "PROT_WRITE" in text else 0)
