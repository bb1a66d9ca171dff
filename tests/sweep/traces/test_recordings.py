"""Recordings of the kinds that reports show: each must give what the same calls give on the live kernel, or by hand."""

import bz2
import csv
import gzip
import importlib
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.paths import DATA

RECORDINGS = DATA / "recordings"


def replayed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[list[dict[str, str]], str]:
    """The rows of the policies none and merged under --touch all, and stderr."""
    assert main(["replay", "--touch", "all", "--policy", "none,merged", "--format", "csv", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(out))), err


def refusal(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    """The one line that `replay` prints for a file that it refuses."""
    assert main(["replay", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix(f"sweep: {path}: ").strip()


@pytest.mark.parametrize(
    ("name", "zap_calls", "acting", "zapped_bytes", "most", "end_none", "end_merged", "res"),
    [
        # by hand, from the lines
        ("perf-trace.txt", 6, 3, 12_779_520, 136, 136, 136, 65_472),
        # 6 PTE tables and two above them; the munmap is of nothing
        ("arm32.strace", 1, 1, 4_194_304, 32, 32, 32, 12_288),
        ("first-row-mode.strace", 1, 1, 4_194_304, 32, 32, 32, 12_288),
        # the same program under strace -T
        ("relative-times.strace", 4, 1, 11_538_432, 196, 180, 180, 75_808),
        # the same calls on Linux 6.18 with all pages touched
        ("go.strace", 4, 1, 6_332_416, 44, 40, 36, 4_356),
        ("dontunmap.strace", 1, 1, 2_097_152, 48, 48, 44, 14_336),
        ("huge-munmap.strace", 0, 0, 0, 24, 0, 0, 0),
        ("guard.strace", 1, 1, 8_388_608, 24, 24, 20, 0),
        # include/uapi/asm-generic/mman-common.h: MADV_FREE, DONTNEED_LOCKED, GUARD_INSTALL by number
        ("unnamed-advice.strace", 3, 2, 12_582_912, 40, 40, 32, 8_192),
        # by hand
        ("torn.strace", 2, 1, 4_198_400, 16, 16, 8, 0),
        ("first-row-old.strace", 0, 0, 0, 520, 520, 520, 262_144),
        ("first-row-prompt.strace", 0, 0, 0, 520, 520, 520, 262_144),
    ],
)
def test_one_process(
    name: str,
    zap_calls: int,
    acting: int,
    zapped_bytes: int,
    most: int,
    end_none: int,
    end_merged: int,
    res: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Calls, bytes, VmPTE and RES of recordings of one process."""
    (none, merged), _ = replayed(capsys, RECORDINGS / name)
    assert (merged["zap_calls"], merged["acting"], merged["zapped_bytes"]) == tuple(
        map(str, (zap_calls, acting, zapped_bytes))
    )
    assert (none["vm_pte_kib_max"], none["vm_pte_kib_end"]) == (str(most), str(end_none))
    assert (merged["vm_pte_kib_max"], merged["vm_pte_kib_end"]) == (str(most), str(end_merged))
    assert merged["res_kib_end"] == str(res)


def test_a_fork_copies(capsys: pytest.CaptureFixture[str]) -> None:
    """The parent keeps its own tables whatever the children unmap: on the live kernel 32 tables more, then 2 less."""
    rows, err = replayed(capsys, RECORDINGS / "fork.strace")
    parent, child = ({row["policy"]: row for row in rows if row["process"] == pid} for pid in ("4001", "4002"))
    assert err == ""
    assert (parent["merged"]["zap_calls"], parent["merged"]["res_kib_end"]) == ("1", str(60 * 1024 + 8))
    ends = [int(parent[policy]["vm_pte_kib_end"]) for policy in ("none", "merged")]
    assert ends == [148, 140]
    assert (child["merged"]["zapped_bytes"], child["merged"]["res_kib_end"]) == (
        str(32 << 20),
        str((32 + 16 << 10) + 8),
    )
    assert [row["process"] for row in rows[::2]] == ["4001", "4002", "4003", "sum"]


def test_one_process_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    """--process takes a pid or the largest; an unknown one is refused with those that there are."""
    path = RECORDINGS / "fork.strace"
    assert [row["zapped_bytes"] for row in replayed(capsys, path, "--process", "4002")[0]] == [str(32 << 20)] * 2
    largest, _ = replayed(capsys, path, "--process", "largest")
    assert largest == replayed(capsys, path, "--process", "4001")[0]  # the children unmap before they map more
    assert main(["replay", str(path), "--process", "7"]) == 2
    assert "--process 7:" in (err := capsys.readouterr().err)
    assert "4001, 4002, 4003; or largest, or all" in err


@pytest.mark.parametrize("name", ["static-child.strace", "exec-same-process.strace"])
def test_programs_without_the_calls_that_start_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A break that nobody set shows another program: a child's, or one that was executed in the same process."""
    rows, err = replayed(capsys, RECORDINGS / name)
    assert "has no calls that start processes" in err
    assert len({row["process"] for row in rows}) == 3
    assert all(int(row["vm_pte_kib_max"]) <= 52 for row in rows)
    labels = [row["process"] for row in rows[::2]]
    assert labels == (["4001", "4002", "sum"] if name.startswith("static") else ["639.1", "639.2", "sum"])


FOUR = (".strace", "-terminal.strace", ".perf-trace.txt", ".perf-script.txt")


@pytest.mark.parametrize("name", FOUR)
def test_every_tracer_shows_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A thread, a fork, a vfork, a posix_spawn: strace to a file and a terminal, perf trace and perf script agree."""
    rows, _ = replayed(capsys, RECORDINGS / f"four-processes{name}")
    merged = [row for row in rows if row["policy"] == "merged"]
    assert [row["program"] for row in merged] == ["t", "t", "true", "sh", ""]
    assert [row["zap_calls"] for row in merged] == ["2", "1", "0", "0", "3"]
    assert [row["vm_pte_kib_max"] for row in merged] == ["180", "180", "16", "28", "404"]
    assert [row["vm_pte_kib_end"] for row in merged] == ["108", "116", "16", "28", "268"]
    assert [row["res_kib_end"] for row in merged] == ["38944", "43040", "1948", "2080", "86012"]


@pytest.mark.parametrize("time", ["", "{:010d}.000001 ", "12:00:{:02d}.000001 "])
def test_files_of_ff(time: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The files of strace -ff are one recording, in the order of their times, or by who started whom."""
    mapped = f"mmap(NULL, {4 << 20}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x100000000000"
    zap = f"madvise(0x100000000000, {4 << 20}, MADV_DONTNEED) = 0"
    files: dict[int, list[tuple[int, str]]] = {
        7: [(0, mapped), (1, "clone(child_stack=NULL, flags=SIGCHLD) = 5"), (5, zap), (6, "+++ exited with 0 +++")],
        5: [(2, "munmap(0x100000000000, 2097152) = 0"), (3, zap.replace("= 0", "= -1 ENOMEM (Cannot)"))],
    }
    for pid, lines in files.items():
        text = "".join(f"{time.format(1_700_000_000 + at if '10' in time else at)}{line}\n" for at, line in lines)
        (tmp_path / f"out.{pid}").write_text(text)
    rows, _ = replayed(capsys, tmp_path / "out.5", tmp_path / "out.7")
    found = [(row["trace"], row["process"], row["zapped_bytes"], row["vm_pte_kib_end"]) for row in rows[1::2]]
    assert found[:2] == [("out", "7", str(4 << 20), "8"), ("out", "5", str(2 << 20), "8")]


def _zstd(data: bytes) -> bytes:
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    return bytes(zstd.compress(data))


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": _zstd,
}


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_recordings(ending: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A compressed file, also one of several streams, gives the same table; one that ends early is an error."""
    text, compress = (RECORDINGS / "fork.strace").read_bytes(), COMPRESSED[ending]
    expected, _ = replayed(capsys, RECORDINGS / "fork.strace")
    path = tmp_path / f"fork.strace.{ending}"
    path.write_bytes(compress(text[:300]) + compress(text[300:]))
    assert replayed(capsys, path)[0] == expected
    path.write_bytes(compress(text * 50)[:-20])
    assert "the compressed data ends early" in refusal(capsys, path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_text_of_windows(encoding: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A byte order mark, UTF-16 and line ends of two characters change nothing."""
    expected, _ = replayed(capsys, RECORDINGS / "fork.strace")
    path, text = tmp_path / "fork.strace", (RECORDINGS / "fork.strace").read_text().replace("\n", "\r\n")
    path.write_bytes(("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding))
    assert replayed(capsys, path)[0] == expected


@pytest.mark.parametrize("before", ["> ", "> > ", "| ", "    "])
def test_quoted_recordings(before: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Rows that were quoted in mail, after a greeting and between blank rows, are read."""
    expected, _ = replayed(capsys, RECORDINGS / "fork.strace")
    path, text = tmp_path / "fork.strace", (RECORDINGS / "fork.strace").read_text()
    quoted = "".join(f"{before}{line}\n{before.rstrip()}\n" for line in text.splitlines())
    path.write_text(f"Hello,\n\n# strace of the server\n$ strace -f ./server\n{quoted}")
    assert replayed(capsys, path)[0] == expected


def test_lines_of_any_length(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A write of 70,000 or 5 million characters between the calls is passed over."""
    for size in (70_000, 5_000_000):
        path = tmp_path / "long.strace.gz"
        text = f'write(1, "{"x" * size}", {size}) = {size}'
        call = "madvise(0x100000000000, 4194304, MADV_DONTNEED) = 0"
        flags = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0"
        path.write_bytes(gzip.compress(f"mmap(NULL, 4194304, {flags}) = 0x100000000000\n{text}\n{call}\n".encode()))
        (_, merged), err = replayed(capsys, path)
        assert (merged["zap_calls"], merged["acting"]) == ("1", "1")
        assert "1 row skipped, the first is row 2: other system calls" in err


def test_a_summary_is_refused_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """strace -c prints no addresses; its table comes after what the program prints."""
    text = refusal(capsys, RECORDINGS / "summary.txt")
    assert text == "this is the summary that strace -c prints, which has no addresses; trace without -c"


@pytest.mark.parametrize(
    ("rows", "tool"),
    [
        ("malloc(24)  = 0x5581\nfree(0x5581) = <void>\n+++ exited (status 0) +++\n", "ltrace's output"),
        ("SYS_mmap(0, 8192, 3, 34) = 0x7f1c\n", "ltrace's output"),
        ("mmap(0x0,135168,PROT_READ,MAP_ANON,-1,0x0) = 34366324736 (0x800628000)\n", "truss's output"),
        ("app 7 [000] 1.2: raw_syscalls:sys_enter: NR 9 (0, 2000)\n", "perf script of raw_syscalls"),
        ("00400000-0040b000 r-xp 00000000 08:01 131   /bin/cat\n", "/proc/PID/maps"),
        ("7 12:00:01.5 0 app (7) > mmap addr=0\n", "sysdig's output"),
        ("# tracer: nop\n#\n", "ftrace's or trace-cmd's output"),
        ("==7== Memcheck\n", "valgrind's output"),
        ("Attaching 2 probes...\n@: 7\n", "the output of a bpftrace script"),
        ("Attached 2 probes\n@[7]: 23\n", "the output of a bpftrace script"),
        (" 0)   0.100 us    |    find_vma();\n", "ftrace's function graph"),
        ("  7 app      CALL  mmap(0,0x1000,0x3)\n  7 app      RET   mmap 0\n", "kdump's output"),
        ("type=SYSCALL msg=audit(1.2:45): arch=c000003e syscall=28 exit=0\n", "auditd's log"),
        ("GNU gdb 13.1\n(gdb) catch syscall madvise\n", "gdb's output"),
        ("rr: Saving execution to trace directory `/x'.\n", "rr's output"),
        ("SYSCALL[7,1](9) sys_mmap ( 0x0, 4096 ) --> [pre-success]\n", "valgrind's output"),
        ("PERFILE2\0\0\x1b[0m", "perf's data file"),
        ('{"a": 1}\n', "JSON"),
    ],
)
def test_other_tools_are_refused_by_name(
    rows: str, tool: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The line says whose output the file is and what to do, and shows nothing of it."""
    path = tmp_path / "t.txt"
    path.write_text(rows)
    text = refusal(capsys, path)
    assert tool in text
    assert "; " in text


@pytest.mark.parametrize(
    ("step", "remark"), [(0x1000, "the tables of arm64-4k"), (0x10000, "the figures may be wrong")]
)
def test_recordings_of_arm64(step: int, remark: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Addresses show arm64, and how they are aligned its page size; calls that worked contradict a wrong `--arch`."""
    path = tmp_path / "arm.strace"
    starts = [0xFFFF80000000 + i * step for i in range(9)]
    protections = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS"
    path.write_text("".join(f"mmap(NULL, 4096, {protections}, -1, 0) = {start:#x}\n" for start in starts))
    _, err = replayed(capsys, path)
    assert remark in err
    assert replayed(capsys, path, "--arch", "arm64-4k")[0]
    if step == 0x10000:
        assert replayed(capsys, path, "--arch", "arm64-64k")[1] == ""
        return
    assert main(["replay", str(path), "--arch", "arm64-64k"]) == 2
    wrong = "row 2: mmap at 0xffff80001000 worked, so its pages are smaller than 64 KiB: another --arch"
    assert wrong in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arch", "vm_pte_kib_max", "vm_pte_kib_end", "res_kib", "tables_freed"),
    [
        # by hand: of 2 MiB 512 PTE tables, 1 + 1 above them, half of which are zapped, and one page is unmapped
        ("arm64-4k", 4 * (512 + 2), 4 * (256 + 2), (512 << 10) - 4, 256),
        # of 32 MiB: 32 PTE tables, a PMD and a PUD table
        ("arm64-16k", 16 * (32 + 2), 16 * (16 + 2), (512 << 10) - 16, 16),
        # of 512 MiB: 2 PTE tables and a PMD table; the PUD level is folded
        ("arm64-64k", 64 * (2 + 1), 64 * (1 + 1), (512 << 10) - 64, 1),
    ],
)
def test_pages_of_arm64(
    arch: str,
    vm_pte_kib_max: int,
    vm_pte_kib_end: int,
    res_kib: int,
    tables_freed: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Tables, slots and lengths are those of the page size: a munmap of 100 bytes unmaps a page."""
    path = tmp_path / "arm.strace"
    path.write_text(
        "mmap(NULL, 1073741824, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0xffff00000000\n"
        "munmap(0xffff30000000, 100) = 0\n"
        "madvise(0xffff00000000, 536870912, MADV_DONTNEED) = 0\n"
    )
    merged = replayed(capsys, path, "--arch", arch)[0][1]
    found = [int(merged[name]) for name in ("vm_pte_kib_max", "vm_pte_kib_end", "res_kib_end", "tables_freed")]
    assert found == [vm_pte_kib_max, vm_pte_kib_end, res_kib, tables_freed]
    assert int(merged["acting"]) == 1


def test_a_child_that_acts_before_its_clone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """strace -z prints a clone when it returns: what the child did before counts as its parent's, and is said."""
    path = tmp_path / "z.strace"
    path.write_text(
        "7 mmap(NULL, 8388608, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
        "8 madvise(0x7f0000000000, 2097152, MADV_DONTNEED) = 0\n"
        "7 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD) = 8\n"
        "8 munmap(0x7f0000000000, 4194304) = 0\n"
    )
    rows, err = replayed(capsys, path)
    doubt = "the figures may be wrong: 1 row, the first is row 3: calls of a child before the one that started it"
    assert doubt in err
    assert [(row["process"], row["zap_calls"], row["res_kib_end"]) for row in rows[1::2]] == [
        ("7", "1", "8192"),
        ("8", "0", "4096"),
        ("sum", "1", "12288"),
    ]


def test_exact_recordings_are_of_small_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Kernel traces and recordings of sweep record are of pages of 4 KiB: another --arch is an error."""
    path = DATA / "kernel" / "basic-0000.csv"
    assert main(["replay", str(path), "--arch", "arm64-64k"]) == 2
    assert "is of pages of 4 KiB, so it was not recorded on arm64-64k" in capsys.readouterr().err


def test_many_processes_fit_on_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In a table the processes with most page tables are shown, the others in one row; --process all shows all."""
    rows = 'execve("./a", [], 0x7f00 /* 2 vars */) = 0\n'
    mapped = "mmap(NULL, {size}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
    zapped = "madvise(0x7f0000000000, 4194304, MADV_DONTNEED) = 0\n"
    path = tmp_path / "many.strace"
    calls = (
        (pid, (rows, mapped.format(size=pid << 21), zapped)[call]) for pid in range(101, 131) for call in (0, 1, 2)
    )
    path.write_text("".join(f"{pid} {row}" for pid, row in calls))
    words = ["replay", "--touch", "all", "--policy", "none,merged", str(path)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if " merged " in line] == [
        *map(str, range(130, 120, -1)),
        "20",
        "sum",
    ]
    assert "20 others" in out
    assert "--process all shows all, with all columns" in err
    assert out.count("\n") < 48
    assert main([*words, "--process", "all"]) == 0
    assert capsys.readouterr().out.count("\npolicy ") == 62  # a record for each row, as a line has no place for it
    assert len(replayed(capsys, path)[0]) == 2 * 31
