"""The command advise: its bounds, its shares, its sources, and bad input."""

import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.arch import ARCHES
from engine.model.closed_form import aligned_reach, most_pte_tables, tables_for, unaligned_reach
from engine.model.scenario import Scenario, columns_of
from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.process.advice import Footprint
from sweep.process.allocator_settings import allocator_settings
from sweep.process.huge_page_refill import added_res_of_sizes
from sweep.process.kernels import frees_tables
from sweep.process.printed_sizes import parse_printed_size
from tests.paths import DATA

TRACE = DATA / "allocator/jemalloc_mixed.csv.gz"
SERVER = ["advise", "--virt", "55TiB", "--res", "590GiB", "--vmpte", "110GiB"]
SLOT, GIB, TIB = 2 << 20, 1 << 30, 1 << 40


def test_the_published_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Of VIRT 55t, RES 590g, VmPTE 110g reclaim gives back 108g at most, nothing at least, 0.5 % for random pages."""
    assert main([*SERVER, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["answer"][0] == "Of 110.0 GiB of page tables at least 0 B and at most 108.6 GiB can come back."
    facts = {fact["what"]: fact for fact in printed["facts"]}
    given = facts["reclaim can give back"]
    assert (given["least"], round(given["most"] / GIB)) == (0, 109)
    assert facts["PTE tables with an entry"]["least"] * 4096 == pytest.approx(1.15 * GIB, rel=0.01)
    evenly = facts["if resident pages lie at random in extents of 4KiB"]["least"]
    assert evenly == pytest.approx(0.0045 * 110 * GIB, rel=0.02)
    assert facts["second_walk, seed_inline, merged: calls of 2MiB, unaligned to aligned"]["most"] == 1
    assert all(fact["from"] for fact in facts.values())


def test_bounds_hold_for_what_the_engine_runs() -> None:
    """The empty tables of points that the engine runs are within the bounds for their VIRT, RES and VmPTE."""
    from engine.model.results import COLUMNS
    from engine.run import run_batch

    clusters = (4 << 10, 64 << 10, SLOT, 64 << 20)
    scenarios = [Scenario(virt=8 * GIB, sparsity=s, cluster=c) for c in clusters for s in (0.5, 0.99, 0.9995)]
    values = run_batch(columns_of(scenarios)).values[:, 0]
    for row in values.tolist():
        found = dict(zip(COLUMNS, row, strict=True))
        # Before the zaps all that `none` keeps: tables with an entry. Make it a process whose every slot has a table.
        footprint = Footprint(8 * GIB, found["res_bytes_peak"], tables_for(4096, ARCHES[0])[1] * 4096)
        upper = tables_for(4096, ARCHES[0])[1] - 4096
        needed = found["vm_pte_kib_peak"] // 4 - upper if found["vm_pte_kib_peak"] // 4 > upper else 0
        assert footprint.empty[0] <= 4096 - needed <= footprint.empty[1] + 9


def test_reach_agrees_with_the_kernel() -> None:
    """Calls one page off a slot's start free no table at 2 MiB, every second at 4 MiB, 7 of 8 at 16 MiB."""
    assert [unaligned_reach(n * SLOT, SLOT) for n in (1, 2, 8)] == [0, 0.5, 0.875]
    assert [aligned_reach(n * (1 << 20), SLOT) for n in (1, 2, 3, 4, 5)] == [0, 1, pytest.approx(2 / 3), 1, 0.8]
    assert most_pte_tables(tables_for(100_000, ARCHES[0])[1], ARCHES[0]) == 100_000


def test_a_small_process_is_not_one_mapping() -> None:
    """The bounds allow for the upper tables of a small program, whose mappings are far apart."""
    small = Footprint(virt=5 << 20, res=2 << 20, vmpte=48 << 10)
    assert small.pte_tables == (4, 10)
    assert small.needed == (1, 10)
    assert small.empty == (0, 9)


def test_a_process_and_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """--pid adds facts from the page map, --trace facts from the calls, and each fact names its source."""
    assert main(["advise", "--pid", str(os.getpid()), "--trace", str(TRACE), "--by", "facts", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    sources = {fact["from"].partition(":")[0] for fact in json.loads(out)}
    assert sources == {"process", "engine", "reference", "trace"}
    assert "rows skipped" in err
    assert main(["advise", "--pid", str(os.getpid()), "--trace", str(TRACE)]) == 0
    out = capsys.readouterr().out
    assert re.match(r"Of [\d.]+ .iB of page tables at least ", out)
    recorded = "jemalloc_mixed gives back 459.2 MiB in 532 calls. Linux can free the tables of 53% of it"
    assert recorded in " ".join(out.split())


def test_the_verdict_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --details at most 12 lines of 80 columns: bounds, kernels, what it depends on, what to measure next."""
    assert main(["advise", "--virt", "55t", "--res", "590g", "--vmpte", "110g"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Of 110.0 GiB of page tables at least 0 B and at most 108.6 GiB can come back."
    assert lines[1].split()[:2] == ["Linux", "7.0"]
    assert lines[-1] == "  sweep inspect PID"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("always", "may save up to 108.6 GiB of VmPTE and cost up to 54.2 TiB of RES."),
        ("madvise", "In memory under MADV_HUGEPAGE the next write then brings 2MiB, not 4KiB"),
        ("never", "the next write brings 4KiB either way, no more RES."),
    ],
)
def test_huge_pages_make_reclaim_cost_res(setting: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--thp says what reclaim may cost in RES beside what it saves, in the same 12 lines of 80 columns."""
    assert main([*SERVER, "--thp", setting]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 12
    assert max(map(len, out.splitlines())) <= 80
    assert words in " ".join(out.split())
    assert main([*SERVER, "--thp", setting, "--by", "facts", "--json"]) == 0
    facts = {fact["what"]: fact for fact in json.loads(capsys.readouterr().out)}
    added = facts[f"thp {setting}: RES that writes to the freed slots add"]
    empty = facts["reclaim can give back"]["most"] // 4096
    assert (added["least"], added["most"]) == (0, 0 if setting == "never" else empty * (SLOT - 4096))


def test_res_never_grows_beyond_virt() -> None:
    """Slots of a small process that are cut off, or already full, cannot bring 2 MiB each."""
    assert added_res_of_sizes(Footprint(GIB, 900 << 20, 4 << 20), "always").most == 124 << 20


def test_nothing_to_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    """The best is never below the worst, also for figures that only huge pages explain."""
    assert main(["advise", "--virt", "1GiB", "--res", "512MiB", "--vmpte", "4KiB"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Of 4.0 KiB of page tables at least 0 B and at most 0 B can come back.\nAll are in use:")
    assert "inspect" not in out


@given(virt=st.integers(1, 1 << 28), share=st.floats(0, 1), tables=st.integers(1, 1 << 20))
def test_bounds_are_in_order(virt: int, share: float, tables: int) -> None:
    """Whatever the figures, the least is at most the most, and neither is more than all tables."""
    try:
        footprint = Footprint(virt << 12, int(virt * share) << 12, tables << 12)
    except UserError:
        return
    for low, high in (footprint.pte_tables, footprint.needed, footprint.empty):
        assert 0 <= low <= high <= tables


def test_shared_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables of memory that many processes map are in use: huge pages help, no reclaim does."""
    assert main(["advise", "--processes", "500", "--shared", "32GiB"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "500 processes mapping the same 32.0 GiB" in out
    assert "31.2 GiB in all" in out  # 500 * 16,384 tables of 4 KiB
    assert "no reclaim frees them" in out
    assert "Huge pages of 2 MiB need 62.5 MiB instead" in out


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("55t", 55 << 40),
        ("1.2g", round(1.2 * GIB / 4096) * 4096),
        ("263.3m", round(263.3 * (1 << 20) / 4096) * 4096),
        ("269636 kB", 269636 << 10),
        ("67,409 pages", 67409 << 12),
        ("1 page", 4096),
        ("112640", 112640 << 10),
        ("2097152", 2097152 << 10),
        ("590GiB", 590 * GIB),
    ],
)
def test_sizes_as_tools_print_them(text: str, size: int) -> None:
    """What top, ps and /proc print can be pasted; rounded figures become whole pages."""
    assert parse_printed_size(text, 4096) == size


@pytest.mark.parametrize(
    ("release", "machine", "config", "frees"),
    [
        ("6.12.1", "x86_64", None, False),
        ("6.18.44", "x86_64", b"\nCONFIG_PT_RECLAIM=y\n", True),
        ("6.18.44", "x86_64", b"\n# CONFIG_PT_RECLAIM is not set\n", False),
        ("6.18.44", "x86_64", None, None),
        ("6.18.44", "aarch64", None, False),
        ("7.0.1", "aarch64", b"", True),
        ("7.3", "ppc64le", None, False),
    ],
)
def test_kernels(release: str, machine: str, config: bytes | None, frees: bool | None) -> None:
    """From 6.14 on x86-64 if it is configured, from 7.0 on always, and on arm64 too."""
    assert frees_tables(release, machine, config) is frees


def test_each_allocator_has_a_knob_with_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    """jemalloc, tcmalloc, mimalloc, glibc, Go; and each kernel policy says where it is."""
    assert {knob.allocator.split()[0] for knob in allocator_settings()} == {
        "jemalloc",
        "tcmalloc",
        "mimalloc",
        "glibc",
        "Go",
    }
    assert all(knob.source.startswith("https://") for knob in allocator_settings())
    assert main([*SERVER, "--details"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 or "https://" in max(out.splitlines(), key=len)
    assert "jemalloc: MALLOC_CONF=dirty_decay_ms:N (default: 10000)" in out
    assert "Linux 6.14" in out
    assert main(["advise", "--allocator", "tcmalloc"]) == 0
    out = capsys.readouterr().out
    assert out.count("tcmalloc (") == 3
    assert "jemalloc" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs --virt, --res and --vmpte, or --pid, or --trace"),
        (["--virt", "1TiB"], "--res and --vmpte missing"),
        ([*SERVER[1:], "--pid", "1"], "not both"),
        (["--allocator", "jemalloc", "--thp", "always"], "--thp always: needs --pid, or --virt, --res and --vmpte"),
        ([*SERVER[1:], "--thp", "allways"], "'allways' is not one of"),
        (["--virt", "1TiB", "--res", "2TiB", "--vmpte", "1GiB"], "--res 2TiB is more than --virt 1TiB"),
        (["--virt", "1TiB", "--res", "1GiB", "--vmpte", "10GiB"], "--vmpte 10GiB is more than the tables of 1TiB"),
        (
            ["--virt", "55", "--res", "1GiB", "--vmpte", "1m"],
            "--virt: '55' has no unit; write 55m, 55g, 55t, or 55kB for a number of ps or /proc",
        ),
        (["--virt", "1TiB", "--res", "1GiB", "--vmpte", "x"], "--vmpte: 'x' is not a size"),
        (["--allocator", "jmalloc"], "did you mean 'jemalloc'?"),
        (["--processes", "500"], "--processes N and --shared SIZE go together"),
        (["--virt", "1TiB", "--res", "1GiB", "--vmpte", "0B"], "less than one table"),
        (["--virt", "0B", "--res", "0B", "--vmpte", "4KiB"], "--virt 0B"),
        ([*SERVER[1:], "--zap", "0B"], "--zap 0B"),
        (["--trace", "/nonexistent.csv"], "No such file"),
    ],
)
def test_impossible_sizes(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """Missing or impossible sizes give exit code 2 and one line."""
    assert main(["advise", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
