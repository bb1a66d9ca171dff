"""Recognise what a recording is by its rows: not only by the first, as greetings, prompts and comments may come before.

Outputs of other tools, and forms without addresses, are refused by their name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.trace_readers.bpftrace_parser import is_bpftrace
from sweep.trace_readers.perf_parser import is_perf_script, is_perf_trace
from sweep.trace_readers.recording_rows import HEADERS as RECORDING_HEADERS
from sweep.trace_readers.strace_parser import is_strace

KERNEL_HEADER = "step,op,start,length,stride"
ALLOCATOR_HEADER = "tid,op,addr,len"
KERNEL, ALLOCATOR, STRACE, PERF_TRACE, PERF_SCRIPT = "kernel", "allocator", "strace", "perf trace", "perf script"
BPFTRACE, RECORDING = "bpftrace", "recording"
TABLES = (KERNEL, ALLOCATOR)
"""Forms that record one process."""
WITH_TOUCHES = (KERNEL, RECORDING)
"""Forms that have the touches, so that VmPTE is known."""
MAX_ROWS_BEFORE = 10_000
"""In so many rows a form must be recognised."""

_HOW_TO_RECORD = "record with strace -f -e trace=%memory,%process"
_OTHERS = tuple(
    (re.compile(pattern, re.ASCII), f"{name}; {remedy}")
    for pattern, name, remedy in (
        (
            r"% time +seconds +usecs/call",
            "the summary that strace -c prints, which has no addresses",
            "trace without -c",
        ),
        (
            r" Summary of events:|^ *syscall +calls +(?:errors +)?total",
            "the summary of perf trace -s",
            "trace without -s",
        ),
        (
            r"^(?:sys_(?:enter|exit)|.*: sys_(?:enter|exit)(?:_\w+)?[(:]|# tracer: |.*-\d+ +\[\d+\] .*: sys_\w+)",
            "ftrace's or trace-cmd's output",
            "record with perf record -e 'syscalls:sys_*' and perf script, or with strace -f",
        ),
        (r"^ \d+\) +(?:[\d.]+ us +)?\|  ", "ftrace's function graph, which has no arguments", _HOW_TO_RECORD),
        (
            r"^Attach(?:ing|ed) \d+ probes?|^@\w*\[",
            "the output of a bpftrace script of another form",
            f"{_HOW_TO_RECORD}; sweep record --bpftrace prints one that is read",
        ),
        (r"^ *\d+ \S+ +(?:CALL|RET) +\w+", "kdump's output of ktrace", _HOW_TO_RECORD),
        (r"^type=SYSCALL msg=audit\(", "auditd's log", _HOW_TO_RECORD),
        (r"^GNU gdb |^\(gdb\) ", "gdb's output", _HOW_TO_RECORD),
        (r"^rr: |^\[rr \d+ \d+\]", "rr's output", "record the program with strace -f, without rr"),
        (r"^\d+ [\d:.]+ \d+ .* \(\d+\) [<>] \w+", "sysdig's output", _HOW_TO_RECORD),
        (
            r"^[0-9a-f]{6,16}-[0-9a-f]{6,16} [r-][w-][x-][ps] ",
            "/proc/PID/maps or smaps: what is mapped at one moment, not calls",
            "sweep inspect PID reads a live process",
        ),
        (r"^==\d+== |^SYSCALL\[\d+,\d+\]", "valgrind's output", _HOW_TO_RECORD),
        (r"^# Overhead|^# Samples: ", "the output of perf report", "perf trace, or perf script, has the calls"),
        (
            r"^ptsweep recording ",
            "a recording of another version of sweep record",
            f"this version reads {' and '.join(map(repr, RECORDING_HEADERS))}",
        ),
        (r"^PERFILE2", "perf's data file", "perf script -i FILE prints it as text, which can be replayed"),
        (r"^\x17\x08Dtracing", "trace-cmd's data file", "record with perf or strace -f"),
        (r"^\s*[{\[]\s*(?:\"|$)", "JSON", _HOW_TO_RECORD),
    )
)
"""(pattern of a row, which tool prints it and what to do): for files in which no form is recognised."""
_LIKE_STRACE = tuple(
    (re.compile(pattern, re.ASCII), f"{name}; {remedy}")
    for pattern, name, remedy in (
        (
            r"SYS_\w+\(|\+\+\+ exited \(status|\) += <void>|\w->\w+\(.*\) += "
            r"|^(?:\[pid \d+\] )?(?:__libc_start_main|malloc|calloc|realloc|free|mem[a-z]+|str[a-z]+|puts|printf)\(",
            "ltrace's output",
            _HOW_TO_RECORD,
        ),
        (r"^\s*\d+/0x[0-9a-f]+: |SYSCALL\(args\)|\)\t+ = ", "dtruss's output", _HOW_TO_RECORD),
        (r"\) += \d+ \(0x[0-9a-f]+\)\s*$", "truss's output", _HOW_TO_RECORD),
        (
            r"raw_syscalls:sys_(?:enter|exit)",
            "perf script of raw_syscalls",
            "record -e 'syscalls:sys_*_mmap' and the like",
        ),
    )
)
"""The same for rows that would else be taken for strace's or perf's."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """The form of a recording, and its rows: after the header if the form has one, else from the first row on."""

    form: str
    rows: Iterator[tuple[int, str]]


def recognise(lines: TextLines) -> Recognised:
    """Read rows until one tells the form. Raises UserError for other files.

    The message shows nothing of the file: a grid may name any file that its reader may not want to be shown.
    """
    before: list[tuple[int, str]] = []
    other, may_be_strace = "", False
    for row, line in lines:
        if like := _tool_of(_LIKE_STRACE, line):
            raise lines.error(f"this is {like}")
        form = _form_of(line)
        if form in (*TABLES, RECORDING):
            lines.strict = True
            return Recognised(form, iter(lines))
        if form:
            return Recognised(form, chain(before, [(row, line)], lines))
        may_be_strace = may_be_strace or is_strace(line)
        other = other or _tool_of(_OTHERS, line)
        before.append((row, line))
        if len(before) >= MAX_ROWS_BEFORE:
            break
    if not before:
        raise UserError(f"{lines.path}: is empty")
    if other:
        raise UserError(f"{lines.path}: this is {other}")
    if may_be_strace:
        return Recognised(STRACE, chain(before, lines))
    which = (
        "row 1 is not a row of a trace" if len(before) == 1 else f"none of the first {len(before):,} rows is of a trace"
    )
    raise UserError(
        f"{lines.path}: {which}: a trace starts with {KERNEL_HEADER} or {ALLOCATOR_HEADER}, or is the output of "
        "sweep record, strace -f, perf trace, perf script or bpftrace"
    )


def _form_of(line: str) -> str:
    """The form that a row is of, or an empty string."""
    header = line.strip().lower()
    recordings = ((known, RECORDING) for known in RECORDING_HEADERS)
    known_headers = ((KERNEL_HEADER, KERNEL), (ALLOCATOR_HEADER, ALLOCATOR), *recordings)
    for known, form in known_headers:
        if header == known:
            return form
    if is_bpftrace(line):
        return BPFTRACE
    if is_perf_trace(line):
        return PERF_TRACE
    if is_perf_script(line):
        return PERF_SCRIPT
    return STRACE if is_strace(line, only_known=True) else ""


def _tool_of(tools: tuple[tuple[re.Pattern[str], str], ...], line: str) -> str:
    return next((name for pattern, name in tools if pattern.search(line)), "")
