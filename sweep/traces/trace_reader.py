"""Read trace files row by row: kernel traces as operations, allocator traces as calls. docs/traces.md has the formats.

A kernel trace is exact: a row with an error ends it. An allocator trace is read as far as its rows say something; every
other row is counted under its reason in `SkippedRows`. strace output, the third format, is read by strace_parser.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from engine.traces.operations import MAX_ADDRESS, OPS, TOUCHES, Operation
from engine.traces.page_tables import PAGE
from engine.traces.vmas import READ, WRITE
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.common.text_lines import TextLines

KERNEL_HEADER = "step,op,start,length,stride"
ALLOCATOR_HEADER = "tid,op,addr,len"
READ_WRITE = READ | WRITE
ADVICE = {
    "MADV_DONTNEED": "dontneed",
    "MADV_DONTNEED_LOCKED": "dontneed",
    "MADV_FREE": "free",
    "MADV_HUGEPAGE": "hugepage",
    "MADV_NOHUGEPAGE": "nohugepage",
    "MADV_COLLAPSE": "collapse",
}
MAX_THREADS = 1 << 16
_LARGEST_NUMBER = (1 << 64) - 1
_MAX_DIGITS = 20
_KNOWN_OPS = frozenset(OPS)


class Step(NamedTuple):
    """A row of a kernel trace: its row in the file, its step number, its operation. A tuple, as millions are made."""

    row: int
    number: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class Call:
    """A successful system call of an allocator trace or of strace output. Addresses and lengths are in bytes."""

    row: int
    op: str  #: mmap, munmap, mprotect, dontneed, free, mremap, hugepage, nohugepage, collapse, or thp_disable
    start: int
    length: int
    rights: int = READ_WRITE  #: of mmap and mprotect
    anonymous: bool = True
    stack: bool = False  #: mmap with MAP_STACK
    moved_from: int = 0  #: of mremap: the old start; `start` and `length` are the new ones
    old_length: int = 0
    thp_disabled: str = ""  #: of thp_disable: see HugePages.disabled

    @property
    def end(self) -> int:
        """The end of the range, rounded up to a page as the kernel does."""
        return self.start + -(-self.length // PAGE) * PAGE


@dataclass(slots=True)
class SkippedRows:
    """The rows of a trace that count for nothing, by reason: [how many, the first of them]."""

    MAX_REASONS = 100  #: hostile files could name a new reason in every row
    reasons: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, row: int) -> None:
        """Count a row under its reason, or under `other reasons` once there are MAX_REASONS."""
        if reason not in self.reasons and len(self.reasons) >= self.MAX_REASONS:
            reason = "other reasons"
        self.reasons.setdefault(reason, [0, row])[0] += 1

    def lines(self) -> Iterator[str]:
        """One line for the user per reason."""
        for reason, (count, row) in self.reasons.items():
            yield f"{count:,} row{'s' if count > 1 else ''} skipped, the first is row {row}: {reason}"


def trace_name(path: str) -> str:
    """The name of a trace in tables: its file name without .csv, .txt, .strace and .gz."""
    name = PurePath(path).name
    for ending in (".gz", ".csv", ".txt", ".strace"):
        name = name.removesuffix(ending)
    return name or path


def trace_names(paths: Sequence[str]) -> list[str]:
    """Distinct names for several traces: files of the same name in different folders are named by their paths."""
    names = [trace_name(path) for path in paths]
    return [
        PurePath(path).as_posix() if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]


def detect_format(rows: TextLines, first_line: str) -> str:
    """`kernel`, `allocator` or `strace`, by the first line of `rows`. Raises UserError for any other file.

    The message does not show the line: a grid may name any file that its reader may not want to be shown.
    """
    header = first_line.strip().lower()
    if header in (KERNEL_HEADER, ALLOCATOR_HEADER):
        return "kernel" if header == KERNEL_HEADER else "allocator"
    if "(" in header or header.startswith(("strace:", "+++", "---")):
        return "strace"
    raise rows.error(
        f"a trace starts with {KERNEL_HEADER} or {ALLOCATOR_HEADER}, or is the output of strace -f; this file does not"
    )


def read_kernel_steps(rows: TextLines) -> Iterator[Step]:
    """The rows of a kernel trace after its header. Raises UserError for a malformed row and for falling steps."""
    last = -1
    for row, line in rows:
        fields = line.split(",")
        if len(fields) != 5:
            raise rows.error(f"{len(fields)} columns, not the 5 of {KERNEL_HEADER}: {one_line(line)!r}")
        op = fields[1]
        if op not in _KNOWN_OPS:
            raise rows.error(unknown_name("op", op, OPS))
        number = parse_number(rows, "step", fields[0])
        if number <= last:
            raise rows.error(f"step {number} after step {last}; steps must rise")
        last = number
        start, length = parse_number(rows, "start", fields[2]), parse_number(rows, "length", fields[3])
        stride = parse_number(rows, "stride", fields[4]) if fields[4] or op in TOUCHES else 0
        yield Step(row, number, Operation(op, start, length, stride))


def read_allocator_calls(rows: TextLines, skipped: SkippedRows) -> Iterator[Call]:
    """The calls of an allocator trace after its header; adds the other rows to `skipped`.

    Raises UserError for a row that is not `tid,op,addr,len`.
    """
    programs = ProgramTracker()
    for row, line in rows:
        fields = line.split(",")
        if len(fields) != 4:
            raise rows.error(f"{len(fields)} columns, not the 4 of {ALLOCATOR_HEADER}: {one_line(line)!r}")
        op, thread = fields[1], parse_number(rows, "tid", fields[0])
        start, length = parse_number(rows, "addr", fields[2]), parse_number(rows, "len", fields[3])
        try:
            is_foreign = programs.is_foreign(thread, op, start, length)
        except UserError as error:
            raise rows.error(str(error)) from error
        if is_foreign:
            skipped.add("another program's call, started by this one", row)
            continue
        call = _allocator_call(row, op, start, length)
        if isinstance(call, Call):
            call = check_call(call)
        if isinstance(call, Call):
            yield call
        else:
            skipped.add(call, row)


def _allocator_call(row: int, op: str, start: int, length: int) -> Call | str:
    """The call of one row, or the reason to skip it."""
    if op in ADVICE:
        return Call(row, ADVICE[op], start, length)
    if op.startswith("MADV_"):
        return f"{one_line(op)} gives nothing back"
    if op in ("mmap", "mmap_fixed", "mmap_none"):
        if not start:
            return "mmap without the address that it got"
        return Call(row, "mmap", start, length, rights=0 if op == "mmap_none" else READ_WRITE)
    if op == "munmap":
        return Call(row, "munmap", start, length)
    if op.startswith("mprotect_"):
        # Only the first right is recorded: PROT_READ may stand for PROT_READ|PROT_WRITE, and is taken as that.
        return Call(row, "mprotect", start, length, rights=0 if op == "mprotect_PROT_NONE" else READ_WRITE)
    if op in ("brk", "mremap"):
        return f"{op} without the address that it got"
    return f"unknown call {one_line(op)!r}"


def check_call(call: Call) -> Call | str:
    """`call` itself, or the reason for which the kernel would have refused it."""
    if call.op == "thp_disable":
        return call
    if call.end > MAX_ADDRESS or call.moved_from + call.old_length > MAX_ADDRESS:
        return "beyond what a process can map"
    if call.start % PAGE:
        return f"start is not on a {PAGE}-byte page"
    if not call.length:
        return f"{call.op} of no bytes"
    return call


def parse_number(rows: TextLines, what: str, text: str) -> int:
    """A plain decimal number of at most 64 bits. Raises UserError with the row; `what` names the column."""
    if len(text) <= _MAX_DIGITS and text.isdigit() and text.isascii() and (value := int(text)) <= _LARGEST_NUMBER:
        return value
    raise rows.error(f"{what} must be a whole number of at most 64 bits, not {one_line(text)!r}")


class ProgramTracker:
    """Tells threads of the traced program from other programs that it started: their addresses are unrelated.

    A new program begins with brk(NULL) and an mmap of two pages, both made by the dynamic loader; a thread does not.
    """

    def __init__(self) -> None:
        self._state: dict[int, str] = {}  # by thread id: "ours", "foreign", or "unsure" after a first brk(NULL)

    def is_foreign(self, thread: int, op: str, start: int, length: int) -> bool:
        """Whether this call, the next one of `thread`, is another program's. Raises UserError above MAX_THREADS."""
        state = self._state.get(thread)
        if state is None:
            if len(self._state) >= MAX_THREADS:
                raise UserError(f"more than {MAX_THREADS:,} threads: too many to tell apart")
            is_query = op == "brk" and not start
            state = "unsure" if self._state and is_query else "ours"
        elif state == "unsure":
            state = "foreign" if op.startswith("mmap") and length == 2 * PAGE else "ours"
        self._state[thread] = state
        return state == "foreign"
