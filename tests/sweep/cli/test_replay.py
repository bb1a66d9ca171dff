"""The command replay: tables from traces, notes on what was skipped, and errors."""

import csv
import gzip
import io
import json
import platform
import sys
from pathlib import Path

import pytest

from engine.model.policy import POLICIES
from sweep.cli.main import main
from tests.paths import DATA

KERNEL = "step,op,start,length,stride"
ALLOCATOR = "tid,op,addr,len"
BASE = 16 << 40
SLOT = 2 << 20
MAPPED = f"{KERNEL}\n0,mmap,{BASE},{4 * SLOT},\n"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, words)])
    return code, *capsys.readouterr()


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_steps_agree_with_the_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    """--steps gives the figures that were recorded on a kernel, without step 0."""
    code, out, err = run(capsys, DATA / "kernel/rich-1000.csv", "--steps", "--format", "csv", "--policy", "merged")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "trace,step,policy,vm_pte_kib,res_kib,anon_huge_kib"
    with (DATA / "kernel/rich-1000.expected.csv").open(newline="") as file:
        expected = [["rich-1000", step, "merged", pte, res, "0"] for step, pte, res in list(csv.reader(file))[1:]]
    assert [list(row.values()) for row in table(out)] == expected


def test_rules_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--rule replays the policies of a file: one that looks at every 64 KiB frees after two halves, merged does not."""
    halves = [f"{2 + i},dontneed,{BASE + i * SLOT // 2},{SLOT // 2},\n" for i in range(2)]
    (tmp_path / "a.csv").write_text(f"{MAPPED}1,write,{BASE},{SLOT},4096\n{''.join(halves)}")
    (tmp_path / "rules.yaml").write_text("- {name: small, like: merged, least: 64KiB}\n- merged\n")
    code, out, _ = run(capsys, tmp_path / "a.csv", "--rule", tmp_path / "rules.yaml", "--format", "csv")
    assert code == 0
    assert [(row["policy"], row["tables_freed"], row["acting"]) for row in table(out)] == [
        ("merged", "0", "0"),
        ("small", "1", "2"),
    ]
    code, _, err = run(capsys, tmp_path / "a.csv", "--rule", tmp_path / "rule.yaml")
    assert (code, err) == (2, f"sweep: --rule {tmp_path / 'rule.yaml'}: no such file\n")


def test_the_setting_of_huge_pages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--thp is the system's setting; without it a trace that advises is replayed under madvise, and stderr says so."""
    path = tmp_path / "a.csv"
    path.write_text(f"{MAPPED}1,write,{BASE},1,1\n2,hugepage,{BASE},{4 * SLOT},\n3,write,{BASE + SLOT},1,1\n")

    def res_kib(*words: str) -> tuple[list[str], str]:
        code, out, err = run(capsys, path, "--policy", "none", "--steps", "--format", "csv", *words)
        assert code == 0
        return [row["res_kib"] for row in table(out)], err

    figures, err = res_kib()
    assert figures == ["4", "4", "2052"]
    assert "madvise is assumed (see --thp, or `thp` of a grid" in err
    assert res_kib("--thp", "madvise") == (figures, "")
    assert res_kib("--thp", "always")[0] == ["2048", "2048", "4096"]
    assert res_kib("--thp", "never")[0] == ["4", "4", "8"]


def test_huge_pages_in_strace_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """MADV_HUGEPAGE acts on what is touched after it, unless the process disabled huge pages."""
    mapped = f"mmap(NULL, {2 * SLOT}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {BASE:#x}\n"
    advised = f"madvise({BASE:#x}, {2 * SLOT}, MADV_HUGEPAGE) = 0\n"
    zapped = f"madvise({BASE:#x}, {SLOT // 2}, MADV_DONTNEED) = 0\n"
    disabled = "prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) = 0\n"
    path = tmp_path / "calls.strace"
    huge = {}
    for name, calls in (("advised", ""), ("disabled", disabled), ("elsewhere", 'prctl(PR_SET_NAME, "a") = 0\n')):
        path.write_text(calls + mapped + advised + zapped + zapped)
        _, out, _ = run(capsys, path, "--touch", "all", "--steps", "--policy", "merged", "--format", "csv")
        huge[name] = [int(row["anon_huge_kib"]) for row in table(out)][-1]
    assert huge == {"advised": 2048, "disabled": 0, "elsewhere": 2048}


def test_every_policy_in_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without --policy there are rows for all policies, in order; a compressed trace gives the same rows."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(f"{MAPPED}1,write,{BASE},1,1\n".encode()))
    code, out, _ = run(capsys, path, "--steps", "--json")
    assert code == 0
    rows = json.loads(out)
    assert tuple(row["policy"] for row in rows) == POLICIES
    assert {(row["trace"], row["vm_pte_kib"], row["res_kib"]) for row in rows} == {("a", 12, 4)}


def test_calls_of_an_allocator(capsys: pytest.CaptureFixture[str]) -> None:
    """Of jemalloc's calls a tenth cover a whole slot; thread stacks are counted apart, skipped rows are reported."""
    path = DATA / "allocator/jemalloc_mixed.csv.gz"
    code, out, err = run(capsys, path, "--format", "csv")
    merged = next(row for row in table(out) if row["policy"] == "merged")
    assert code == 0
    assert (merged["zap_calls"], merged["acting"], merged["vm_pte_kib_max"]) == ("532", "52", "")
    assert (merged["acting_bytes_share"], merged["reached_bytes_share"]) == ("0.6563", "0.5314")
    assert "32 rows skipped, the first is row 31: mmap without the address that it got" in err
    assert "60 rows skipped, the first is row 44: another program's call" in err
    _, out, _ = run(capsys, path, "--format", "csv", "--by", "size")
    stacks = next(row for row in table(out) if row["size"] == "pthread stacks")
    assert (stacks["calls"], stacks["bytes"], stacks["whole_slots"]) == ("3", str(3 * 8_368_128), "9")


@pytest.mark.parametrize(
    ("trace", "share"), [("jemalloc_decay0_large", 0.2023), ("mimalloc_large", 0.4228), ("glibc_large", 0.9131)]
)
def test_reached_shares_of_the_recorded_traces(trace: str, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole-slot rule reaches 20, 42 and 91 % of the bytes: those in slots that one call covers."""
    _, out, _ = run(capsys, DATA / f"allocator/{trace}.csv.gz", "--policy", "merged", "--format", "csv")
    assert [float(row["reached_bytes_share"]) for row in table(out)] == [share]


def test_memory_without_an_mmap_is_one_mapping(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neighbouring calls on memory whose mmap is missing are in one VMA: a later call covers the whole slot."""
    path, quarter = tmp_path / "a.csv", SLOT // 4
    calls = [(BASE, quarter), (BASE + 2 * quarter, quarter), (BASE + quarter, quarter), (BASE, SLOT)]
    path.write_text(ALLOCATOR + "\n" + "".join(f"1,MADV_DONTNEED,{start},{size}\n" for start, size in calls))
    code, out, err = run(capsys, path, "--by", "size", "--format", "csv")
    assert code == 0
    assert sum(int(row["whole_slots"]) for row in table(out)) == 1
    assert "4 calls gave back memory that the trace does not map" in err


def test_touch_all_bounds_vm_pte(capsys: pytest.CaptureFixture[str]) -> None:
    """With --touch all, merged frees the tables of the three stacks' whole slots, and VmPTE is an upper bound."""
    code, out, err = run(capsys, DATA / "allocator/threads.strace", "--touch", "all", "--format", "csv")
    rows = {row["policy"]: row for row in table(out)}
    assert code == 0
    assert "has no calls that start processes, so which threads share memory is a guess" in err
    assert rows["merged"]["tables_freed"] == "9"
    assert int(rows["none"]["vm_pte_kib_end"]) == int(rows["merged"]["vm_pte_kib_end"]) + 12


def test_allocator_steps_need_touches(capsys: pytest.CaptureFixture[str]) -> None:
    """--steps refuses an allocator trace without --touch all, as its VmPTE is unknown."""
    code, _, err = run(capsys, DATA / "allocator/tcmalloc_large.csv.gz", "--steps")
    assert code == 2
    assert "--touch all" in err


STRACE = f"""\
100 brk(NULL) = 0x1000000
100 12:00:01.5 mmap(NULL, {4 * SLOT}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
101 madvise({BASE:#x}, {SLOT}, MADV_DONTNEED) = -1 EINVAL (Invalid argument)
100 12:00:01.6 <... mmap resumed>) = {BASE:#x} <0.000012>
[pid   101] madvise({BASE:#x}, {SLOT}, MADV_DONTNEED) = 0
102 brk(NULL) = 0x2000000
102 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000
102 munmap(0x7f0000000000, 8192) = 0
100 mremap({BASE:#x}, {4 * SLOT}, {5 * SLOT}, MREMAP_MAYMOVE) = {BASE + 8 * SLOT:#x}
100 madvise({BASE + 8 * SLOT:#x}, {SLOT}, 0x4 /* MADV_DONTNEED */) = 0
100 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3
100 brk(0x1200000) = 0x1200000
100 madvise({BASE + 9 * SLOT:#x}, 4096, MADV_WILLNEED) = 0
no line of strace
100 munmap({BASE + 8 * SLOT:#x}, {5 * SLOT}) = 0
+++ exited with 0 +++
100 madvise({BASE:#x}, 81"""


def test_strace_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Unfinished calls are joined, failed ones skipped, mremap moves, other programs are processes, a cut shows."""
    path = tmp_path / "calls.strace"
    path.write_text(STRACE)
    code, out, err = run(capsys, path, "--format", "csv", "--by", "size", "--touch", "all")
    assert code == 0
    found = [(row["process"], row["call"], row["size"], row["calls"], row["whole_slots"]) for row in table(out)]
    assert [row for row in found if row[0] == "100"] == [
        ("100", "dontneed", "<4MiB", "2", "2"),
        ("100", "munmap", "<32MiB", "1", "5"),
    ]
    assert [row for row in found if row[0] == "102"] == [("102", "munmap", "<=64KiB", "1", "0")]
    for reason in ("madvise that failed", "other system calls", "MADV_WILLNEED gives nothing"):
        assert f": {reason}" in err
    assert "not a line of strace's" in err
    assert "the figures may be wrong: 1 row, the first is row 17: madvise: cut off, or not a line" in err
    assert "the last row has no line end" in err
    assert "does not map" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("{} ", "MAP_PRIVATE|MAP_ANONYMOUS", "MADV_DONTNEED"),
        ("{}<a b> ", "MAP_PRIVATE|MAP_ANONYMOUS", "MADV_DONTNEED"),  # --decode-pids=comm
        ("[pid   {}<x>] ", "MAP_PRIVATE|MAP_ANONYMOUS", "MADV_DONTNEED"),
        ("[pid {}] [  28] ", "MAP_PRIVATE|MAP_ANONYMOUS", "MADV_DONTNEED"),  # -n
        ("{} 12:00:01 [00007f49b48ef0d7] ", "MAP_PRIVATE|MAP_ANONYMOUS", "MADV_DONTNEED"),  # -t -i
        ("{} (+     0.000110) ", "0x22", "0x4"),  # -r -X raw
        ("{} 1700000000.123456 ", "0x22 /* MAP_PRIVATE|MAP_ANONYMOUS */", "0x4 /* MADV_DONTNEED */"),  # -ttt -X verbose
    ],
)
def test_forms_of_strace_output(
    words: tuple[str, str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Options of strace that change what precedes a call, names or numbers, do not change the table."""
    start, flags, advice = words
    rights = "0x3" if flags == "0x22" else "PROT_READ|PROT_WRITE"
    path = tmp_path / "calls.strace"
    path.write_text(
        "".join(
            f"{start.format(7)}{call}\n"
            for call in (
                f"mmap(NULL, {SLOT // 2}, {rights}, {flags}, -1, 0) = {BASE:#x}",
                f"mmap(NULL, {SLOT // 2}, {rights}, {flags}, -1, 0) = {BASE + SLOT // 2:#x}",
                f"madvise({BASE:#x}, {SLOT}, {advice}) = 0 <0.000031>",
            )
        )
    )
    _, out, err = run(capsys, path, "--format", "csv", "--by", "size")
    assert [(row["calls"], row["whole_slots"]) for row in table(out)] == [("1", "1")]
    assert err == ""


def test_a_file_between_is_another_vma(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A call over a slot that anonymous memory shares with a file mapping covers no whole slot of either."""
    path = tmp_path / "calls.strace"
    half = SLOT // 2
    path.write_text(
        f"1 mmap(NULL, {half}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {BASE:#x}\n"
        f"1 mmap(NULL, {half}, PROT_READ|PROT_WRITE, MAP_PRIVATE, 3, 0) = {BASE + half:#x}\n"
        f"1 madvise({BASE:#x}, {SLOT}, MADV_DONTNEED) = 0\n"
    )
    _, out, _ = run(capsys, path, "--format", "csv", "--by", "size")
    assert [(row["bytes"], row["whole_slots"]) for row in table(out)] == [(str(SLOT), "0")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (KERNEL, "no row after the header"),
        ("step,op,start,length\n0,mmap,0,1\n", "none of the first 2 rows is of a trace: a trace starts with step,op,"),
        (MAPPED + "1,write,175921", "row 3: 3 columns, not the 5"),
        (MAPPED + f"1,wriet,{BASE},1,1\n", "row 3: unknown op 'wriet'; did you mean 'write'?"),
        (MAPPED + f"2,free,{BASE},4096,\n1,free,{BASE},4096,\n", "row 4: step 1 after step 2; steps must rise"),
        (MAPPED + f"1,write,{BASE},4096,\n", "row 3: stride must be a whole number"),
        (MAPPED + f"1,write,{BASE},4096,0\n", "row 3: write: stride 0 must be 1 or more"),
        (MAPPED + f"1,free,{BASE},1_000,\n", "row 3: length must be a whole number of at most 64 bits, not '1_000'"),
        (MAPPED + f"1,free,{1 << 63},4096,\n", "row 3: free: [0x8000000000000000, +0x1000) is beyond"),
        (MAPPED + f"1,free,{1 << 64},4096,\n", "row 3: start must be a whole number of at most 64 bits"),
        (MAPPED + f"1,free,{BASE + 1},4096,\n", "row 3: free: start 0x100000000001 is not on a 4096-byte page"),
        (MAPPED + "x" * 70_000, "row 3: longer than 65536 bytes"),
        (f"{ALLOCATOR}\n1,mmap,4096\n", "row 2: 3 columns, not the 4"),
        (f"{ALLOCATOR}\n1,mmap,-4096,4096\n", "row 2: addr must be a whole number"),
        ("open(1) = 2\n", "has no call of mmap, munmap"),
    ],
)
def test_hostile_traces(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str) -> None:
    """Traces that cannot be right give exit code 2 and one line with file and row."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    code, _, err = run(capsys, path, "--steps", "--format", "csv", "--touch", "all")
    assert code == 2
    assert err.startswith(f"sweep: {path}: ")
    assert message in err
    assert err.count("\n") == 1


def test_skipped_rows_are_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Unknown calls, impossible addresses and missing steps are reported beside the table."""
    path = tmp_path / "a.csv"
    path.write_text(
        f"{ALLOCATOR}\n1,fork,1,1\n1,MADV_DONTNEED,{1 << 63},4096\n1,MADV_DONTNEED,5,4096\n1,munmap,4096,0\n"
    )
    code, out, err = run(capsys, path, "--format", "csv", "--policy", "merged")
    assert (code, table(out)[0]["zap_calls"]) == (0, "0")
    assert err.count("1 row skipped") == 4
    path.write_text(MAPPED + f"5,write,{BASE},4096,4096")
    _, _, err = run(capsys, path)
    assert "4 steps are missing" in err
    assert "the last row has no line end" in err


HERE = platform.machine() == "x86_64" and sys.platform == "linux"
LIVE = ["vma-00447.csv", "vma-00549.csv", "rich-1004.csv", "basic-0003.csv"]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the model's geometry is x86-64's"
)
def test_replay_on_the_live_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that makes the same calls has the model's VmPTE and RES after each step."""
    code, out, err = run(capsys, *(DATA / "kernel" / name for name in LIVE), "--engine", "kernel", "--format", "csv")
    if "this kernel refuses guard" in err:
        pytest.skip("this kernel has no guard markers (Linux 6.13)")
    assert code == 0, out
    assert [(row["steps"], row["agree"]) for row in table(out)] == [
        ("150", "150"),
        ("150", "150"),
        ("40", "40"),
        ("40", "40"),
    ]


@pytest.mark.skipif(not HERE, reason="the model's geometry is x86-64's")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{KERNEL}\n0,free,{BASE},4096,\n", "must start with an mmap"),
        (f"{MAPPED}1,write,{BASE},{4 * SLOT},4096\n", "row 3: needs more than half of the free"),
        (f"{KERNEL}\n0,mmap,65536,{(1 << 47) - (1 << 20)},\n", "row 2: [0x10000, 0x7ffffff10000) is where the child"),
        (f"{ALLOCATOR}\n1,brk,0,0\n", "only kernel traces can be played"),
    ],
)
def test_traces_that_the_live_kernel_refuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """Traces that need too much are refused with the row before anything is mapped."""
    monkeypatch.setattr("sweep.kernel.kernel_replay._available_kib", lambda: 10_000)
    path = tmp_path / "t.csv"
    path.write_text(text)
    code, _, err = run(capsys, path, "--engine", "kernel")
    assert code == 2
    assert message in err


def test_packed_and_cut_off(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A gzip file that ends early is an error after its last whole row."""
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress((DATA / "kernel/rich-1000.csv").read_bytes())
    path.write_bytes(whole[:400])
    code, _, err = run(capsys, path)
    assert code == 2
    assert "the compressed data ends early" in err


def test_no_such_file_or_policy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A missing file is named, and an unknown policy with the nearest known one."""
    assert "No such file" in run(capsys, tmp_path / "none.csv")[2]
    assert "did you mean 'merged'?" in run(capsys, tmp_path, "--policy", "mergd")[2]


def test_traces_of_one_name_go_by_their_paths(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Traces of one file name in different folders have their paths as names."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text(MAPPED + f"1,write,{BASE},1,1\n")
    _, out, _ = run(capsys, tmp_path / "a/t.csv", tmp_path / "b/t.csv", "--format", "csv", "--policy", "none")
    assert [row["trace"] for row in table(out)] == [f"{tmp_path}/a/t.csv", f"{tmp_path}/b/t.csv"]


RECORDING = """ptsweep recording 1
frees merged
executed 1 5 a
m 7f0000000 400 rw
w 7f0000000 1 1ff 1
t 5 16
d 7f0000000 200
t 6 12
t 7 16
"""


def test_moments_of_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """VmPTE seen and computed, side by side, also from standard input; other traces have none."""
    path = tmp_path / "a.rec"
    path.write_text(RECORDING)
    assert main(["replay", str(path), "--by", "moment", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "trace,process,seconds,seen_kib_least,seen_kib_most,computed_kib,agrees",
        "a,5,0.005,16,16,16,true",
        "a,5,0.006,12,12,12,true",
        "a,5,0.007,16,16,12,false",
    ]
    assert "2 of 3 moments: VmPTE as computed" in err
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["replay", "-"]) == 0
    assert "computed_kib" in capsys.readouterr().out
    for words in ([str(path), "--policy", "none"], [str(DATA / "kernel/basic-0000.csv")]):
        assert main(["replay", *words, "--by", "moment"]) == 2
        assert "has no VmPTE to compare with" in capsys.readouterr().err


def test_a_process_whose_first_call_fails_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A madvise that stopped at a locked VMA did nothing; what follows counts once."""
    path = tmp_path / "calls.strace"
    path.write_text(
        f"7 madvise({BASE:#x}, {SLOT}, MADV_DONTNEED) = -1 EINVAL (Invalid argument)\n"
        f"7 mmap({BASE:#x}, {SLOT}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0) = {BASE:#x}\n"
        f"7 madvise({BASE:#x}, {SLOT}, MADV_DONTNEED) = 0\n"
    )
    code, out, _ = run(capsys, path, "--format", "csv", "--by", "size", "--touch", "all")
    assert code == 0
    (row,) = table(out)
    assert row["calls"] == "1"
    assert "process" not in row
