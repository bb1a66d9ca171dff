"""What sweep/record/memory_calls.bt prints. Rows are made by the formats of the script, so neither can change alone."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.record.session import bpftrace_script
from sweep.trace_readers.bpftrace_parser import WINDOW
from sweep.trace_readers.call_names import MEMORY_CALLS, UNKNOWN_EFFECT
from tests.paths import DATA

FORMATS = re.findall(r'printf\("(.*?)\\n"((?:, [^;]+)?)\);', bpftrace_script(None))
BASE, MIB = 0x7F0000000000, 1 << 20
Rows = list[dict[str, str]]


def row(ns: int, pid: int, tid: int, text: str, *values: object) -> str:
    """A row of the script: that of the only printf whose text has these words."""
    (form,) = [form for form, _ in FORMATS if f" {text}" in f"{form} "]
    return str(form.replace("%ll", "%") % (ns, pid, tid, *values))


def called(ns: int, pid: int, tid: int, name: str, *arguments: int, result: int) -> list[str]:
    return [row(ns, pid, tid, f"calls {name} ", *arguments), row(ns + 1, pid, tid, "returns ", result)]


@pytest.fixture
def replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], tuple[Rows, str]]:
    def replay(lines: list[str]) -> tuple[Rows, str]:
        path = tmp_path / "calls.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        assert main(["replay", "--touch", "all", "--policy", "merged", "--format", "csv", str(path)]) == 0
        out, err = capsys.readouterr()
        return list(csv.DictReader(io.StringIO(out))), err.replace(f"{path}: ", "")

    return replay


def test_each_call_is_printed_with_its_arguments() -> None:
    """The script prints all calls that are read, with as many arguments as are read and as many values as words."""
    printed = dict(re.findall(r"calls (\w+)((?: %llx)*)", " ".join(form for form, _ in FORMATS)))
    assert {name for name in MEMORY_CALLS if name not in ("mmap2", "old_mmap")} <= set(printed)
    assert set(printed) <= {*MEMORY_CALLS, *UNKNOWN_EFFECT}
    for name, words in printed.items():
        assert words.count("%") >= MEMORY_CALLS.get(name, 0), name
    for form, values in FORMATS:
        assert form.count("%") == values.count(", "), form
    ends = set(re.findall(r"tracepoint:syscalls:sys_exit_(\w+)", bpftrace_script(None)))
    assert ends == set(printed)


def test_the_same_as_under_strace(capsys: pytest.CaptureFixture[str]) -> None:
    """A program under bpftrace 0.17 and under strace, without random addresses: threads, a fork, an exec of itself."""
    tables = []
    for name in ("bpftrace.txt", "bpftrace-same.strace"):
        path = DATA / "recordings" / name
        assert main(["replay", "--touch", "all", "--policy", "none,merged", "--format", "csv", str(path)]) == 0
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        # setarch, which switched random addresses off, is in the first only
        of_program = [row for row in rows if row["program"] == "small"]
        tables.append([{key: row[key] for key in list(row)[3:]} for row in of_program])
    assert tables[0] == tables[1]
    assert [row["tables_freed"] for row in tables[0]] == ["0", "8", "0", "1", "0", "0"]


def test_processes_and_threads(replayed: Callable[[list[str]], tuple[Rows, str]]) -> None:
    """A thread gives back what its process mapped, a child its copy, and an exec starts anew. Rows need no order."""
    lines = [
        *called(10, 7, 7, "mmap", 0, 8 * MIB, 3, 0x22, 0xFFFFFFFF, 0, result=BASE),
        row(20, 7, 7, "starts ", 8, 0x10F00),
        row(21, 7, 7, "starts ", 9, 0x11),
        *called(30, 7, 8, "madvise", BASE, 2 * MIB, 4, result=0),
        *called(40, 9, 9, "madvise", BASE, 8 * MIB, 4, result=0),
        row(41, 9, 9, "exits"),
        row(50, 7, 7, "executes ", "other program"),
        *called(60, 7, 7, "mmap", 0, 4 * MIB, 3, 0x22, 0xFFFFFFFF, 0, result=BASE),
    ]
    rows, err = replayed([FORMATS[0][0], lines[2], *lines[:2], *lines[3:]])
    found = [(row["process"], row["program"], row["zapped_bytes"], row["res_kib_end"]) for row in rows]
    assert found == [
        ("7.1", "", str(2 * MIB), str(6 * 1024)),
        ("9", "", str(8 * MIB), "0"),
        ("7.2", "other program", "0", str(4 * 1024)),
        ("sum", "", str(10 * MIB), str(10 * 1024)),
    ]
    assert err == "recorded from a running process: what was mapped before, and touched, is unknown\n"


def test_process_madvise_and_failures(replayed: Callable[[list[str]], tuple[Rows, str]]) -> None:
    """Ranges of a vector are rows of their own; a call over a hole fails after it acted; -EBADF did nothing."""
    lines = [
        *called(10, 7, 7, "mmap", 0, 16 * MIB, 3, 0x22, 0xFFFFFFFF, 0, result=BASE),
        row(20, 7, 7, "calls process_madvise ", 3, 0x1000, 2, 4),
        row(21, 7, 7, "range ", BASE, 2 * MIB),
        row(22, 7, 7, "range ", BASE + 4 * MIB, 2 * MIB),
        row(23, 7, 7, "returns ", 4 * MIB),
        *called(30, 7, 7, "madvise", BASE + 14 * MIB, 8 * MIB, 4, result=-12),
        *called(40, 7, 7, "munmap", BASE, 1, result=-9),
    ]
    rows, err = replayed(lines)
    assert (rows[0]["zap_calls"], rows[0]["zapped_bytes"], rows[0]["tables_freed"]) == ("3", str(6 * MIB), "3")
    assert "1 row skipped, the first is row 10: munmap that failed\n" in err


def test_what_may_be_wrong_is_said(replayed: Callable[[list[str]], tuple[Rows, str]]) -> None:
    """Lost events, calls that never returned, torn rows, rows that come too late, and other lines."""
    mapped = called(10**9, 7, 7, "mmap", 0, 2 * MIB, 3, 0x22, 0xFFFFFFFF, 0, result=BASE)
    many = [line for i in range(WINDOW) for line in called(10**9 + 2 * i + 2, 7, 7, "brk", 0, result=4096)]
    lines = ["Attaching 42 probes...", "hello", *mapped, "Lost 17 events", *many, row(5, 7, 7, "exits")]
    torn = row(10**10, 7, 7, "returns ", 0).removesuffix("0") + "?"
    _, err = replayed([*lines, row(10**10, 7, 7, "calls munmap ", BASE, 4096)[:-5] + " z", torn])
    doubt = "the figures may be wrong: 1 row, the first is row "
    last = 6 + len(many)
    assert "1 row skipped, the first is row 2: not a line of bpftrace's\n" in err
    assert f"{doubt}5: bpftrace lost 17 events\n" in err
    assert f"{doubt}{last}: more than {WINDOW:,} rows too late\n" in err
    assert f"rows, the first is row {last + 1}: cut off, or not a line of bpftrace's\n" in err


def test_the_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """For the program of bpftrace -c, and for a process that runs. Nothing is recorded."""
    assert main(["record", "--bpftrace"]) == 0
    script = capsys.readouterr().out
    assert "@followed[(uint64)cpid] = 1;" in script
    assert main(["record", "--bpftrace", "--pid", "4001"]) == 0
    assert capsys.readouterr().out == script.replace("(uint64)cpid", "(uint64)4001")
    assert main(["record", "--bpftrace", "--", "true"]) == 2
    assert capsys.readouterr() == (
        "",
        "sweep: --bpftrace: prints a script; of the other options only --pid goes with it\n",
    )
