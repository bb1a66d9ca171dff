"""Trace files, read row by row: kernel traces as operations, allocator traces and strace output as calls.

A kernel trace is exact or an error: what it cannot mean ends it. What an allocator asked for is counted as far as it
is known, and every row that is not is counted under its reason in `Skipped`. docs/traces.md has the forms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from engine.traces.address_space import HIGHEST, OPS, TOUCHES, Operation
from engine.traces.page_tables import PAGE
from engine.traces.vmas import READ, WRITE
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.common.text_lines import TextLines

KERNEL_HEADER = "step,op,start,length,stride"
ALLOCATOR_HEADER = "tid,op,addr,len"
LARGEST = (1 << 64) - 1
_LONGEST_NUMBER = 20
_KNOWN = frozenset(OPS)
READ_WRITE = READ | WRITE


class Step(NamedTuple):
    """A row of a kernel trace. A tuple, as millions are made."""

    row: int
    number: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class Call:
    """A system call of an allocator trace that worked: bytes. `op`: mmap munmap mprotect dontneed free mremap."""

    row: int
    op: str
    start: int
    length: int
    rights: int = READ_WRITE  #: of mmap and mprotect
    anonymous: bool = True
    stack: bool = False  #: mmap with MAP_STACK
    moved_from: int = 0  #: mremap: `start` and `length` are the new ones
    old_length: int = 0

    @property
    def end(self) -> int:
        return self.start + -(-self.length // PAGE) * PAGE


@dataclass(slots=True)
class SkippedRows:
    """Rows that say nothing that can be counted, by reason: how many, and the first."""

    reasons: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, row: int) -> None:
        self.reasons.setdefault(reason, [0, row])[0] += 1

    def lines(self) -> Iterator[str]:
        for reason, (count, row) in self.reasons.items():
            yield f"{count:,} row{'s' if count > 1 else ''} skipped, the first is row {row}: {reason}"


def trace_name(path: str) -> str:
    """What a trace is called in a table: its file's name without .csv, .gz and the like."""
    name = PurePath(path).name
    for ending in (".gz", ".csv", ".txt", ".strace"):
        name = name.removesuffix(ending)
    return name or path


def trace_names(paths: Sequence[str]) -> list[str]:
    """What traces are called beside each other; those of one name, from different folders, go by their paths."""
    names = [trace_name(path) for path in paths]
    return [
        PurePath(path).as_posix() if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]


def detect_format(rows: TextLines, first_line: str) -> str:
    """`kernel`, `allocator` or `strace` by the first line. Raises UserError."""
    header = first_line.strip().lower()
    if header in (KERNEL_HEADER, ALLOCATOR_HEADER):
        return "kernel" if header == KERNEL_HEADER else "allocator"
    if "(" in header or header.startswith(("strace:", "+++", "---")):
        return "strace"
    said = one_line(first_line)
    raise rows.error(
        f"a trace starts with {KERNEL_HEADER} or {ALLOCATOR_HEADER}, or is the output of strace; this has {said!r}"
    )


def read_kernel_steps(rows: TextLines) -> Iterator[Step]:
    """The rows of a kernel trace after its header, steps rising. Raises UserError."""
    last = -1
    for row, line in rows:
        fields = line.split(",")
        if len(fields) != 5:
            raise rows.error(f"{len(fields)} columns, not the 5 of {KERNEL_HEADER}: {one_line(line)!r}")
        op = fields[1]
        if op not in _KNOWN:
            raise rows.error(unknown_name("op", op, OPS))
        number = parse_number(rows, "step", fields[0])
        if number <= last:
            raise rows.error(f"step {number} after step {last}; steps must rise")
        last = number
        start, length = parse_number(rows, "start", fields[2]), parse_number(rows, "length", fields[3])
        stride = parse_number(rows, "stride", fields[4]) if fields[4] or op in TOUCHES else 0
        yield Step(row, number, Operation(op, start, length, stride))


ADVICE = {"MADV_DONTNEED": "dontneed", "MADV_DONTNEED_LOCKED": "dontneed", "MADV_FREE": "free"}
MOST_THREADS = 1 << 16


def read_allocator_calls(rows: TextLines, skipped: SkippedRows) -> Iterator[Call]:
    """The rows of an allocator trace after its header. Raises UserError where the file is not such a table."""
    programs = ProgramTracker()
    for row, line in rows:
        fields = line.split(",")
        if len(fields) != 4:
            raise rows.error(f"{len(fields)} columns, not the 4 of {ALLOCATOR_HEADER}: {one_line(line)!r}")
        op, thread = fields[1], parse_number(rows, "tid", fields[0])
        start, length = parse_number(rows, "addr", fields[2]), parse_number(rows, "len", fields[3])
        try:
            foreign = programs.foreign(thread, op, start, length)
        except UserError as error:
            raise rows.error(str(error)) from error
        if foreign:
            skipped.add("another program's call, started by this one", row)
            continue
        call = _call(row, op, start, length)
        if isinstance(call, Call):
            call = check_call(call)
        if isinstance(call, Call):
            yield call
        else:
            skipped.add(call, row)


def _call(row: int, op: str, start: int, length: int) -> Call | str:
    """A row of an allocator trace as a call, or why it counts for nothing."""
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
        # Only the first right is recorded: PROT_READ may be PROT_READ|PROT_WRITE, and is taken as that.
        return Call(row, "mprotect", start, length, rights=0 if op == "mprotect_PROT_NONE" else READ_WRITE)
    if op == "brk":
        return "brk without the address that it got"
    if op == "mremap":
        return "mremap without the address that it got"
    return f"unknown call {one_line(op)!r}"


def check_call(call: Call) -> Call | str:
    """The call, or why the kernel would have refused it."""
    if call.end > HIGHEST or call.moved_from + call.old_length > HIGHEST:
        return "beyond what a process can map"
    if call.start % PAGE:
        return f"start is not on a {PAGE}-byte page"
    if not call.length:
        return f"{call.op} of no bytes"
    return call


def parse_number(rows: TextLines, what: str, text: str) -> int:
    """A plain number of at most 64 bits. Raises UserError with the row."""
    if text.isdigit() and text.isascii() and len(text) <= _LONGEST_NUMBER and (value := int(text)) <= LARGEST:
        return value
    raise rows.error(f"{what} must be a whole number of at most 64 bits, not {one_line(text)!r}")


class ProgramTracker:
    """Tells the traced program's threads from programs that it started, whose addresses are others.

    A program starts with brk(NULL) and an mmap of two pages, both by the dynamic loader; a thread does not.
    """

    def __init__(self) -> None:
        self._state: dict[int, str] = {}

    def foreign(self, thread: int, op: str, start: int, length: int) -> bool:
        """Whether this call is another program's. Raises UserError without a place."""
        state = self._state.get(thread)
        if state is None:
            if len(self._state) >= MOST_THREADS:
                raise UserError(f"more than {MOST_THREADS:,} threads: too many to tell apart")
            asks = op == "brk" and not start
            state = "ours" if not self._state or not asks else "asked"
        elif state == "asked":
            state = "foreign" if op.startswith("mmap") and length == 2 * PAGE else "ours"
        self._state[thread] = state
        return state == "foreign"
