"""Read traces that are tables: kernel traces as operations, allocator traces as calls. docs/traces.md has the forms.

A kernel trace is exact: a row with an error ends it. An allocator trace is read as far as its rows say something; every
other row is counted under its reason in `SkippedRows`.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

from engine.traces.operations import OPS, TOUCHES, Operation
from engine.traces.page_tables import PAGE
from sweep.common.decompression import ENDINGS
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.common.text_lines import TextLines
from sweep.trace_readers.calls import MAX_THREADS, READ_WRITE, Call, SkippedRows
from sweep.trace_readers.forms import ALLOCATOR_HEADER, KERNEL_HEADER
from sweep.trace_readers.kernel_calls import MemoryCalls

ADVICE = {
    "MADV_DONTNEED": "dontneed",
    "MADV_DONTNEED_LOCKED": "dontneed",
    "MADV_FREE": "free",
    "MADV_HUGEPAGE": "hugepage",
    "MADV_NOHUGEPAGE": "nohugepage",
    "MADV_COLLAPSE": "collapse",
}
_LARGEST_NUMBER = (1 << 64) - 1
_MAX_DIGITS = 20
_KNOWN_OPS = frozenset(OPS)


class Step(NamedTuple):
    """A row of a kernel trace: its row in the file, its step number, its operation. A tuple, as millions are made."""

    row: int
    number: int
    operation: Operation


def trace_name(path: str) -> str:
    """The name of a trace in tables: its file name without .csv, .txt, .strace, .rec, and .gz and the like."""
    name = PurePath(path).name
    for ending in (*ENDINGS, ".csv", ".txt", ".strace", ".rec"):
        name = name.removesuffix(ending)
    return name or path


def trace_names(paths: Sequence[str]) -> list[str]:
    """Distinct names for several traces: files of the same name in different folders are named by their paths."""
    names = [trace_name(path) for path in paths]
    return [
        PurePath(path).as_posix() if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]


def read_kernel_steps(rows: TextLines) -> Iterator[Step]:
    """Yield the steps of a kernel trace: its rows after the header.

    Raises UserError for a malformed row, and for a step number below the one before it.
    """
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


def read_allocator_calls(rows: TextLines, skipped: SkippedRows, page: int = PAGE) -> Iterator[Call]:
    """The calls of an allocator trace after its header; adds the other rows to `skipped`.

    Raises UserError for a row that is not `tid,op,addr,len`.
    """
    programs, memory_calls = ProgramTracker(), MemoryCalls(skipped, page)
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
            reason = memory_calls.reason_to_refuse(call)
            if not reason:
                yield call if page == PAGE else memory_calls.in_pages(call)
                continue
            call = reason
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
        """Whether `thread` runs another program than the traced one, as far as its calls up to this one show.

        To be asked for every call, in order. The first two calls of a thread decide: brk(NULL), then an mmap of two
        pages. The brk itself still counts as the traced program's. Raises UserError above MAX_THREADS.
        """
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
