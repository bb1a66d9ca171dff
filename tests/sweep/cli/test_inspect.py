"""The command inspect on processes that the tests start, compared with what these know and with their VmPTE."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.run import run_batch
from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.grid.loader import load_grid
from sweep.process import several, table_census
from sweep.process.huge_page_refill import HugePageVmas, read_huge_page_vmas, refill_bytes
from sweep.process.pagemap import PageMap
from sweep.process.proc import SmapsEntry, parse_smaps, read_sizes, read_thp_setting
from sweep.process.reclaim_estimate import estimate_reclaim
from sweep.process.similar_scenario import similar_scenario

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")

SLOT, GIB = 2 << 20, 1 << 30
BASE = 16 << 40

MAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
SLOT, BASE = 2 << 20, 16 << 40
PRIVATE_ANONYMOUS_FIXED_NORESERVE = 0x4032
assert libc.mmap(BASE, SIZE, 3, PRIVATE_ANONYMOUS_FIXED_NORESERVE, -1, 0) == BASE
def vm_pte():
    return int(open("/proc/self/status").read().split("VmPTE:")[1].split()[0])
def write(at):
    ctypes.memset(BASE + at, 1, 1)
def read(at):
    ctypes.string_at(BASE + at, 1)
vm_pte()
BODY
print("ready", flush=True)
for line in sys.stdin:
    for slot in EMPTIED:
        libc.madvise(BASE + slot * SLOT, SLOT, 4)
    print(vm_pte(), flush=True)THEN
"""


@contextmanager
def mapper(
    body: str, size: int = 1 << 40, env: dict[str, str] | None = None, then: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process that maps `size` bytes at BASE and runs `body`; it lives until the test is done.

    For each line that it is sent it gives back the slots EMPTIED, prints its VmPTE and runs `then`.
    """
    text = MAPPER.replace("SIZE", str(size)).replace("BODY", body).replace("THEN", then)
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


HALF_EMPTY = """
for slot in range(600):
    write(slot * 3 * SLOT)
EMPTIED = [slot * 3 for slot in range(1, 600, 2)]
for slot in EMPTIED:
    libc.madvise(BASE + slot * SLOT, 4096, 4)
"""


def region(census: table_census.TableCensus) -> table_census.VmaCount:
    return next(vma for vma in census.vmas if vma.mapping.start == BASE)


def test_a_sparse_mapper_is_counted_exactly() -> None:
    """Of 600 tables in 1 TiB the 300 emptied page by page are counted as those that whole-slot purges free."""
    with mapper(HALF_EMPTY) as process:
        census = table_census.take_census(process.pid)
        vma = region(census)
        assert (vma.present, vma.slots_with_entry, vma.slots) == (300, 300, 1 << 19)
        assert census.empty[0] <= 300 <= census.empty[1]
        spans = [(vma.mapping.start // SLOT, (vma.mapping.end - 1) // SLOT + 1) for vma in census.vmas]
        touched = {slot for first, last in spans for slot in range(first, last)}
        assert census.slots_without_entry == len(touched.difference(census.slot_numbers.tolist()))
        assert census.upper_least <= census.tables - census.needed - 300 <= census.upper_most
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        fell_to = int(process.stdout.readline())
        if fell_to == census.sizes.vm_pte_kib:
            pytest.skip("this kernel has no PT_RECLAIM: the rest cannot be seen")
        assert census.sizes.vm_pte_kib - fell_to == 300 * census.table_kib


def test_as_many_mappings_as_a_process_may_have() -> None:
    """Slots that many small VMAs share are counted once; none of them can be freed by a purge within one VMA."""
    body = """
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for page in range(0, 40 * 512, 2):
    assert libc.mprotect(BASE + page * 4096, 4096, 1) == 0
for slot in range(0, 40, 2):
    write(slot * SLOT + 4096)
EMPTIED = []
"""
    with mapper(body, size=40 * SLOT) as process:
        census = table_census.take_census(process.pid)
    small = [vma for vma in census.vmas if BASE <= vma.mapping.start < BASE + 40 * SLOT]
    assert len(small) == 40 * 512
    assert sum(vma.present for vma in small) == 20
    assert census.needed + census.upper_least <= census.tables
    slots = census.slot_numbers[(census.slot_numbers >= BASE // SLOT) & (census.slot_numbers < BASE // SLOT + 40)]
    assert len(slots) == 20
    assert sum(vma.whole_without_entry for vma in small) == 0


def test_what_an_entry_can_hold() -> None:
    """Pages, zero pages and guard markers are counted apart; each of them keeps a table in use."""
    body = """
EMPTIED = []
write(0); read(4096)
GUARDED = libc.madvise(BASE + 2 * SLOT, 8192, 102) == 0
"""
    with mapper(body) as process:
        vma = region(table_census.take_census(process.pid))
        if not vma.guard:
            pytest.skip("this kernel has no guard markers (Linux 6.13), or does not show them (6.15)")
        assert (vma.present, vma.zero, vma.guard, vma.slots_with_entry) == (1, 1, 2, 2)


HUGE_SLOTS = """
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15
libc.madvise(BASE, 32 * SLOT, MADV_HUGEPAGE)
libc.madvise(BASE + 32 * SLOT, 32 * SLOT, MADV_NOHUGEPAGE)
for slot in (0, 1, 2, 32, 33):
    write(slot * SLOT)
libc.madvise(BASE + 2 * SLOT, 4096, 4)
for slot in range(8, 24):
    write(slot * SLOT)
    libc.madvise(BASE + slot * SLOT, SLOT // 2, 4)
    libc.madvise(BASE + slot * SLOT + SLOT // 2, SLOT // 2, 4)
EMPTIED = list(range(8, 24))
"""


def test_slots_with_huge_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Slots are none, table or huge; writes in 16 freed slots bring as much RES as inspect says."""
    if read_thp_setting() == "never":
        pytest.skip("/sys/kernel/mm/transparent_hugepage/enabled is never, or missing")
    refill = "\n    for slot in EMPTIED: write(slot * SLOT)\n    print(1, flush=True)"
    with mapper(HUGE_SLOTS, size=64 * SLOT, then=refill) as process:
        assert main(["inspect", str(process.pid), "--json"]) == 0
        tables = json.loads(capsys.readouterr().out)
        vmas = {int(vma["start"], 16): vma for vma in tables["thp"]}
        advised, other = vmas[BASE], vmas[BASE + 32 * SLOT]
        if not advised["slots_huge"]:
            pytest.skip("the kernel gave no huge page: PR_SET_THP_DISABLE is set, or memory is fragmented")
        kinds = "slots_none", "slots_table", "slots_huge", "thp_allowed"
        assert [advised[kind] for kind in kinds] == [29, 1, 2, True]
        assert [other[kind] for kind in kinds] == [30, 2, 0, False]
        empty, refilled = (
            next(row for row in tables["summary"] if row["what"] == what)
            for what in ("PTE tables without", "once freed, RES of a write in each")
        )
        assert main(["advise", "--pid", str(process.pid), "--thp", "madvise", "--json"]) == 0
        facts = {fact["what"]: fact for fact in json.loads(capsys.readouterr().out)["facts"]}
        added = facts["thp madvise: RES that writes to the freed slots add"]
        assert added["most"] >> 10 == refilled["at_most"] - 4 * empty["at_most"] >= 16 * (2048 - 4)
        before = read_sizes(process.pid).vm_rss_kib
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        vm_pte_kib, _ = int(process.stdout.readline()), process.stdout.readline()
        if vm_pte_kib == tables["summary"][2]["at_most"]:
            pytest.skip("this kernel has no PT_RECLAIM: the tables stay, and writes bring pages")
        grown = read_sizes(process.pid).vm_rss_kib - before
        assert grown == pytest.approx(16 * SLOT >> 10, abs=1024)
        assert refilled["at_least"] <= grown + 1024
        assert grown <= refilled["at_most"] + 1024 <= (empty["at_most"] * SLOT >> 10) + 1024


def test_where_writes_bring_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """hg and nh of VmFlags, THPeligible and PR_SET_THP_DISABLE decide with the system's setting."""
    entries = [
        SmapsEntry(start, start + 1, frozenset(flags.split()), eligible)
        for start, (flags, eligible) in enumerate((("rd", True), ("hg", True), ("nh", True), ("hg", False)))
    ]
    module = "sweep.process.huge_page_refill."
    monkeypatch.setattr(module + "read_smaps", lambda pid: entries)
    monkeypatch.setattr(module + "read_thp_setting", lambda: "always")
    monkeypatch.setattr(module + "has_thp_disabled", lambda pid: False)

    def allowed(setting: str | None) -> list[int]:
        return sorted(start for start, _ in read_huge_page_vmas(1, setting).ranges)

    assert [allowed(setting) for setting in (None, "always", "madvise", "never")] == [[0, 1], [0, 1, 3], [1, 3], []]
    monkeypatch.setattr(module + "has_thp_disabled", lambda pid: True)
    assert allowed("always") == []


def test_smaps_of_any_kernel() -> None:
    """Names with capitals and colons are no fields; a kernel without THPeligible leaves it to the flags."""
    lines = ["10000-20000 rw-p 0 0:0 0    /a VmFlags: hg", "Size: 64 kB", "VmFlags: rd wr hg"]
    lines += ["ab000-ac000 rw-p 0 0:0 0", "THPeligible:    0", "VmFlags: rd"]
    first, second = parse_smaps(lines)
    assert first == SmapsEntry(0x10000, 0x20000, frozenset({"rd", "wr", "hg"}), True)
    assert second == SmapsEntry(0xAB000, 0xAC000, frozenset({"rd"}), False)


def test_refill_bounds() -> None:
    """Without huge pages each empty table's slot brings a page; where all VMAs allow them the most is a slot each."""
    with mapper(HALF_EMPTY) as process:
        census = table_census.take_census(process.pid)
    least, most = census.empty
    everywhere = frozenset((vma.mapping.start, vma.mapping.end) for vma in census.vmas)
    assert refill_bytes(census, HugePageVmas("never", False, frozenset())) == (least << 12, most << 12)
    assert refill_bytes(census, HugePageVmas("always", False, everywhere))[1] == most * SLOT


def test_more_runs_than_one_scan_holds() -> None:
    """A scan continues where its last region ended, not at walk_end, which is then out of date."""
    with mapper("EMPTIED = []\nfor page in range(0, 80 * 512, 2):\n    write(page * 4096)") as process:
        census = table_census.take_census(process.pid)
        assert (region(census).present, region(census).slots_with_entry) == (80 * 256, 80)
        assert census.slot_entries[census.slot_numbers >= BASE // SLOT][:80].tolist() == 80 * [256]


def test_without_pagemap_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PAGEMAP_SCAN, reading /proc/PID/pagemap gives the same counts."""
    with mapper(HALF_EMPTY.replace("600", "60"), size=4 * GIB) as process:
        scanned = table_census.take_census(process.pid)

        def old(pid: int) -> PageMap:
            pages = PageMap(pid)
            pages.has_scan = False
            return pages

        monkeypatch.setattr(table_census, "PageMap", old)
        read = table_census.take_census(process.pid)
        assert (read.has_scan, region(read).entries) == (False, region(scanned).entries)
        assert read.slot_numbers.tolist() == scanned.slot_numbers.tolist()
        assert read.empty == scanned.empty


def test_policies_on_sparse_terabytes() -> None:
    """Under the whole-slot rule purges below a slot's size free no table, and larger ones free all empty tables."""
    body = """
EMPTIED = [tera << 19 for tera in range(20)]
for tera in range(40):
    write(tera << 40)
for slot in EMPTIED:
    libc.madvise(BASE + slot * SLOT, 4096, 4)
"""
    with mapper(body, size=40 << 40) as process:
        census = table_census.take_census(process.pid)
        rows = {(row.policy, row.zap): (row.least, row.most) for row in estimate_reclaim(census, (4096, SLOT, 1 << 41))}
        assert region(census).whole_without_entry == (40 << 19) - 20
        assert census.empty[1] >= 20
        assert rows["merged", 4096] == rows["none", SLOT] == (0, 0)
        assert rows["merged", SLOT][1] == rows["refcount", 4096][1] == census.empty[1]


def test_blocks_with_an_entry_are_not_purged() -> None:
    """Purges of 4 slots leave out blocks in which a page is resident."""
    body = """
EMPTIED = list(range(1, 12))
for slot in range(12):
    write(slot * SLOT)
for slot in EMPTIED:
    libc.madvise(BASE + slot * SLOT, 4096, 4)
"""
    with mapper(body, size=12 * SLOT) as process:
        census = table_census.take_census(process.pid)
        other = census.empty[1] - 11
        rows = {(row.policy, row.zap): row.most for row in estimate_reclaim(census, (SLOT, 4 * SLOT))}
        assert rows["merged", SLOT] - rows["merged", 4 * SLOT] >= 3 - other


LIBRARIES = ("", "libjemalloc.so.2", "libmimalloc.so.2", "libtcmalloc_minimal.so.4")


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda name: name or "none")
def test_under_an_allocator(library: str) -> None:
    """With each allocator, needed and upper tables never exceed VmPTE, and the bounds are close."""
    env = {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc"} if library else None
    if library and subprocess.run(["true"], env=env, capture_output=True, text=True, check=False).stderr:
        pytest.skip(f"{library} is not installed")
    with mapper("EMPTIED = []\nx = [bytes(200_000) for _ in range(500)]\ndel x", size=SLOT, env=env) as process:
        census = table_census.take_census(process.pid)
        assert census.vm_pte_kib_before == census.sizes.vm_pte_kib
        assert census.needed + census.upper_least <= census.tables
        assert census.empty[1] - census.empty[0] <= 4


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """inspect prints all tables as JSON, one as CSV, and writes a grid that loads."""
    path = tmp_path / "like.yaml"
    with mapper(HALF_EMPTY) as process:
        assert main(["inspect", str(process.pid), "--json", "--grid", str(path)]) == 0
        parts = json.loads(capsys.readouterr().out)
        assert list(parts) == ["summary", "policy", "vma", "thp", "runs"]
        assert main(["inspect", str(process.pid), "--by", "slot", "--format", "csv"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "slot,entries,none"
        assert f"{BASE:#x},1,511" in lines
    assert load_grid(path).raw_points == 3


def test_several_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """Several pids, or all that may be read, get a line each; the one with the most empty tables comes first."""
    with mapper(HALF_EMPTY) as worst, mapper("EMPTIED = []") as other:
        for words in ((other.pid, worst.pid), ("--all",)):
            assert main(["inspect", *map(str, words), "--json"]) == 0
            rows = json.loads(capsys.readouterr().out)
            ranks = [row["pid"] for row in rows if row["pid"] in (worst.pid, other.pid)]
            assert ranks == [worst.pid, other.pid]
            assert all(row["empty_kib_least"] <= row["empty_kib_most"] <= row["vm_pte_kib"] for row in rows)
        census = table_census.take_census(worst.pid)
        row = next(row for row in rows if row["pid"] == worst.pid)
        assert (row["vm_pte_kib"], row["tables_with_entry"]) == (census.sizes.vm_pte_kib, census.needed)


def test_a_process_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One of several that ends before it is read is left out; one that never was there is an error."""
    read = table_census.take_census
    with mapper("EMPTIED = []") as ends, mapper("EMPTIED = []") as stays:

        def and_end(pid: int) -> table_census.TableCensus:
            ends.kill()
            ends.wait()
            return read(pid)

        monkeypatch.setattr(several, "take_census", and_end)
        assert main(["inspect", str(ends.pid), str(stays.pid), "--json"]) == 0
        out, err = capsys.readouterr()
        assert [row["pid"] for row in json.loads(out)] == [stays.pid]
        assert "1 process left out: it does not exist, or it ended while it was read" in err
        assert main(["inspect", str(stays.pid), "4194304"]) == 2
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("hierarchy", ["", "unified", "memory"])
def test_cgroups_of_both_versions(hierarchy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of a cgroup and of those below it, in version 2 and in hierarchies of version 1."""
    monkeypatch.setattr(several, "CGROUPS", tmp_path)
    for name, pids in (("a.slice", "12\n7\n0\n"), ("a.slice/b.service", "9\n")):
        (tmp_path / hierarchy / name).mkdir(parents=True)
        (tmp_path / hierarchy / name / "cgroup.procs").write_text(pids)
    assert several.cgroup_pids("a.slice") == several.cgroup_pids(f"{tmp_path}/a.slice/") == [7, 9, 12]
    with pytest.raises(UserError, match=r"--cgroup b\.slice: no cgroup "):
        several.cgroup_pids("b.slice")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which process? give a PID or several, --all, or --cgroup NAME"),
        (("--all", "7"), "give PIDs, --all or --cgroup, one of them"),
        (("--all", "--by", "vma"), "--by and --grid are for one process"),
        (("--cgroup", "../etc"), "--cgroup ../etc: no cgroup"),
        (("--cgroup", "no.slice"), "--cgroup no.slice: no cgroup /sys/fs/cgroup/no.slice"),
        (("1", "4194304"), "process"),
    ],
)
def test_which_processes(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What names no process, or names them in two ways, is one line and exit code 2."""
    assert main(["inspect", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


EMPTIED_TWICE = """
for turn in range(2):
    for slot in range(turn, 4096, 2):
        for page in range(40):
            write(slot * SLOT + page * 4096)
    EMPTIED = range(turn, 4096 - 1024 * turn, 2)
    for slot in EMPTIED:
        libc.madvise(BASE + slot * SLOT, 1 << 20, 4)
"""
FULL = "EMPTIED = []\nfor slot in range(1024):\n    ctypes.memset(BASE + slot * SLOT, 1, 1 << 16)"
STREWN = """
EMPTIED = []
for i in range(226):
    ctypes.memset(BASE + (i * 32_479 % 7_340_000) * SLOT, 1, 1 << 14 + i % 5)
"""
FEW_LARGE = """
EMPTIED = []
for i in range(9):
    ctypes.memset(BASE + (i * 4_477_713 % 20_971_520) * SLOT, 1, (i * 7 % 32 + 1) << 20)
"""
DENSE_AND_STREWN = "ctypes.memset(BASE, 1, 1 << 28)\n" + STREWN
LIKE = {
    "one slot": ("EMPTIED = []\nwrite(0)", SLOT),
    "few large": (FEW_LARGE, 41 << 40),
    "dense and strewn": (DENSE_AND_STREWN, 14 << 40),
    "half": (HALF_EMPTY, 1 << 40),
    "emptied": (EMPTIED_TWICE, 8 * GIB),
    "full": (FULL, 2 * GIB),
    "strewn": (STREWN, 14 << 40),
}


@pytest.mark.parametrize("case", LIKE)
@pytest.mark.slow
def test_the_similar_grid_has_as_many_tables(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The grid of --grid, run by the engine, has the process's RES, and its VmPTE within a twentieth or a table."""
    path, (body, size) = tmp_path / "like.yaml", LIKE[case]
    with mapper(body, size) as process:
        assert main(["inspect", str(process.pid), "--by", "summary", "--json", "--grid", str(path)]) == 0
        census = table_census.take_census(process.pid)
    capsys.readouterr()
    columns = next(load_grid(path).chunks()).columns
    ran = dict(zip(COLUMNS, run_batch(columns).values[0, POLICIES.index("none")].tolist(), strict=True))
    assert ran["vm_pte_kib_peak"] == pytest.approx(census.sizes.vm_pte_kib, rel=0.05, abs=4)
    assert similar_scenario(census).similar_vm_pte_kib == pytest.approx(ran["vm_pte_kib_peak"], rel=0.01)
    assert columns["res"][0] == sum(vma.present for vma in census.vmas if vma.mapping.is_anonymous) * 4096


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["4194304"], "no process 4194304: it does not exist, or it ended"),
        (["2"], "process 2 "),
        (["0"], "invalid value for 'PID'"),
        (["SELF", "--zap", "3MiB"], "--zap 3MiB: a call is whole pages of 4KiB, and above 2MiB whole slots"),
        (["SELF", "--zap", "64"], "--zap: '64' has no unit"),
    ],
)
def test_processes_that_cannot_be_inspected(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """Missing and unreadable processes and bad options give exit code 2 and one line."""
    code = main(["inspect", *(str(os.getpid()) if word == "SELF" else word for word in words)])
    err = capsys.readouterr().err
    if words == ["2"] and code == 0:
        pytest.skip("process 2 is a program here, in a container")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_process_that_ends_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends while it is read is an error, not a table of half its memory."""
    with mapper("EMPTIED = []") as process:
        read = PageMap.runs

        def and_kill(self: PageMap, start: int, end: int) -> Iterator[object]:
            process.kill()
            process.wait()
            return read(self, start, end)

        monkeypatch.setattr(PageMap, "runs", and_kill)
        with pytest.raises(UserError, match="ended while it was read"):
            table_census.take_census(process.pid)


def test_a_process_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process gives one line that names the missing privilege."""

    def refused(pid: int) -> PageMap:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(table_census, "PageMap", refused)
    for uid, message in ((1000, "may not be read: run as its owner"), (0, "may not be read: not even by root here")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        with mapper("EMPTIED = []") as process, pytest.raises(UserError, match=message):
            table_census.take_census(process.pid)
