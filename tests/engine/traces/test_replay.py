"""Traces: replays against recordings of the live kernel and the slow twin, and each policy's rule on small cases."""

import csv
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.arch import ARCHES
from engine.model.policy import ALL, BUILT_IN, POLICIES, Policy
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from engine.traces.geometry import X86, Geometry
from engine.traces.huge_pages import HugePages
from engine.traces.operations import MAX_ADDRESS, Operation
from engine.traces.page_tables import MAX_ENTRIES, SLOT, TraceError
from engine.traces.replay import Replay
from tests import paths
from tests.support.rules import rules
from tests.twin.huge_trace import HugeTwin
from tests.twin.trace import Twin

RECORDED = sorted(path for path in (paths.DATA / "kernel").glob("*-*.csv") if ".expected" not in path.name)
HUGE_RECORDED = sorted(path for path in (paths.DATA / "thp").glob("*-*.csv") if ".expected" not in path.name)
BASE = 16 << 40
PAGE = 4096


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def after(*operations: tuple[str, int, int] | tuple[str, int, int, int]) -> dict[str, int]:
    """Return the number of tables of all levels under each policy after operations at offsets from BASE."""
    replay = Replay()
    for op, start, length, *stride in operations:
        replay.apply(Operation(op, BASE + start, length, *(stride or [PAGE] if op in ("write", "read") else [])))
    return {policy: replay.vm_pte_kib(policy) // 4 for policy in POLICIES}


def tables(**other: int) -> dict[str, int]:
    """Return the number `every` for all policies, except for those given by name."""
    return dict.fromkeys(POLICIES, other.pop("every")) | other


def random_trace(seed: int, geometry: Geometry = X86, operations: int = 40) -> list[Operation]:
    """Return a mapping across a border of PMD tables, then touches, zaps, markers, holes, mostly at borders."""
    choose = random.Random(seed)
    page, slot, entries = geometry.page, geometry.slot, geometry.entries
    border = (BASE // geometry.pmd_span + 1) * geometry.pmd_span
    base = border - 3 * slot + choose.choice((0, page, -page))
    pages = choose.choice((4 * entries - 48, 5 * entries, 6 * entries))
    edges = [base, base + pages * page, *(base // slot * slot + i * slot for i in range(1, 6))]
    trace = [Operation("mmap", base, pages * page)]
    for _ in range(operations):
        op = choose.choice(
            ("write", "write", "read", *3 * ["dontneed"], "free", "guard_install", "guard_remove", "munmap")
        )
        start = choose.choice(edges) + choose.choice((0, 0, 0, page, -page))
        length = choose.choice((page, 7 * page, slot // 2, slot, slot, 2 * slot, slot - page, slot + page))
        if op == "munmap":
            length = choose.choice((page, slot // 2, slot))
        stride = choose.choice((page, page, 1000, 4097, 3 * page, slot)) if op in ("write", "read") else 0
        trace.append(Operation(op, start + (choose.randrange(page) if stride else 0), length, stride))
    return trace


@pytest.mark.parametrize("seed", range(24))
def test_replay_equals_twin(seed: int) -> None:
    """Every column that a trace determines equals the twin's, under every policy, after every operation."""
    scan_every = seed % 3 + 1
    replay, twins = Replay(scan_every=scan_every), {name: Twin(rule, scan_every) for name, rule in BUILT_IN.items()}
    for operation in random_trace(seed):
        replay.apply(operation)
        for policy, twin in twins.items():
            twin.apply(operation.op, operation.start, operation.length, operation.stride)
            assert replay.outcome(policy) == twin.outcome, (policy, operation)
            assert replay.outcome(policy)["vm_pte_kib_end"] == replay.vm_pte_kib(policy)
            assert replay.outcome(policy)["res_bytes_end"] == replay.res_kib(policy) << 10


@pytest.mark.parametrize(("arch", "levels"), [("arm64-16k", 4), ("arm64-64k", 3)])
def test_larger_pages_equal_the_twin(arch: str, levels: int) -> None:
    """With pages of 16 and 64 KiB, too: slots of 32 and 512 MiB, and no PUD tables on arm64-64k."""
    geometry = Geometry(next(other for other in ARCHES if other.name == arch))
    names = ("refcount", "merged", "munmap")
    replay = Replay([BUILT_IN[name] for name in names], geometry)
    twins = {name: Twin(BUILT_IN[name], 1, geometry.page >> 10, levels) for name in names}
    for operation in random_trace(7, geometry, 12):
        replay.apply(operation)
        for policy, twin in twins.items():
            twin.apply(*operation)
            assert replay.outcome(policy) == twin.outcome, (policy, operation)


@given(rule=rules(), seed=st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_rules_equal_the_twin(rule: Policy, seed: int) -> None:
    """Under any rule every column that a trace determines equals the twin's; the built-in ones do not change."""
    replay, alone, twin = Replay([*ALL, rule]), Replay([rule]), Twin(rule, 1)
    built_in = Replay()
    for operation in random_trace(seed):
        for one in (replay, alone, built_in, twin):
            one.apply(*(operation if one is twin else [operation]))
        assert replay.outcome("drawn") == alone.outcome("drawn") == twin.outcome, operation
    assert [replay.outcome(name) for name in POLICIES] == [built_in.outcome(name) for name in POLICIES]


@pytest.mark.parametrize(("end_break", "freed"), [("drop", 18), ("held", 19)])
def test_a_break_on_the_last_entry(end_break: str, freed: int) -> None:
    """The 9,678th page fills a gather; on the last entry of a piece it keeps the table only if it counts as a break."""
    rule = Policy("keep", when="visit", proof="held", otherwise="keep", end_break=end_break)
    replay = Replay([rule])
    for op, start, length in (
        ("mmap", 0, 19),
        ("write", 0, 18),
        ("write", 18 + 50 / 512, 462 / 512),
        ("dontneed", 0, 19),
    ):
        replay.apply(Operation(op, BASE + int(start * SLOT), int(length * SLOT), PAGE))
    assert replay.outcome("keep")["pte_tables_freed"] == freed


@pytest.mark.parametrize("pages", [9678, 9728, 10240])
def test_a_break_keeps_a_table(pages: int) -> None:
    """Where a rule reads nothing, a table stays whose zap a full gather broke: as many as in a scenario."""
    rule = Policy("keep", when="visit", proof="held", otherwise="keep")
    replay = Replay([rule])
    for op in ("mmap", "write", "dontneed"):
        replay.apply(Operation(op, BASE, pages * PAGE, PAGE))
    scenario = Scenario(virt=pages * PAGE, sparsity=0.0, zap=pages * PAGE)
    outcome = dict(zip(COLUMNS, run_batch(columns_of([scenario]), [rule]).values[0, 0].tolist(), strict=True))
    freed = replay.outcome("keep")["pte_tables_freed"]
    assert freed == outcome["pte_tables_freed"]
    assert freed == pages // 512 - (pages > 9678)  # the 9,678th page is in the middle of slot 18


def test_recordings_are_found() -> None:
    """The tests below run on all recordings."""
    assert (len(RECORDED), len(HUGE_RECORDED)) == (27, 12)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_replay_equals_recording(path: Path) -> None:
    """VmPTE and RES under merged equal those in /proc after every step, to the kB."""
    replay = Replay([BUILT_IN["merged"]])
    replayed = []
    for step, op, start, length, stride in csv_rows(path):
        replay.apply(Operation(op, int(start), int(length), int(stride or 0)))
        replayed.append((int(step), replay.vm_pte_kib("merged"), replay.res_kib("merged")))
    assert replayed[1:] == [tuple(map(int, row)) for row in csv_rows(path.with_suffix(".expected.csv"))]


@pytest.mark.parametrize("path", HUGE_RECORDED, ids=lambda path: path.stem)
def test_replay_equals_recording_with_huge_pages(path: Path) -> None:
    """VmPTE, RES and AnonHugePages equal those in /proc after every step, alone and beside the other policies."""
    for policies in ([BUILT_IN["merged"]], ALL):
        replay = Replay(policies)
        replayed = []
        for step, op, start, length, stride in csv_rows(path):
            replay.apply(Operation(op, int(start), int(length), int(stride or 0)))
            memory = replay.vm_pte_kib("merged"), replay.res_kib("merged"), replay.anon_huge_kib("merged")
            replayed.append((int(step), *memory))
        assert replayed[1:] == [tuple(map(int, row)) for row in csv_rows(path.with_suffix(".expected.csv"))]


@given(rule=rules(), seed=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None, derandomize=True)
@pytest.mark.slow
def test_huge_pages_equal_the_twin(rule: Policy, seed: int) -> None:
    """With huge pages every figure equals the twin's, under every policy and any rule, after every operation."""
    policies = {policy.name: policy for policy in (*ALL, rule)}
    replay = Replay([*policies.values()], huge_pages=HugePages("always"))
    twins = {name: HugeTwin(policy, 1) for name, policy in policies.items()}
    for operation in random_trace(seed):
        replay.apply(operation)
        for name, twin in twins.items():
            twin.apply(*operation)
            assert replay.outcome(name) == twin.outcome, (name, operation)
            assert replay.anon_huge_kib(name) == twin.anon_huge_kib, (name, operation)


def test_huge_pages_come_back_under_policies_that_free() -> None:
    """A byte written in a slot that was zapped in halves brings a page where the table stayed, and 2 MiB where not."""
    replay = Replay(huge_pages=HugePages("always"))
    halves = ("dontneed", 0, SLOT // 2), ("dontneed", SLOT // 2, SLOT // 2)
    for op, start, length in (("mmap", 0, SLOT), ("write", 0, SLOT), *halves, ("write", 0, 1)):
        replay.apply(Operation(op, BASE + start, length, PAGE))
    back = {policy: replay.res_kib(policy) for policy in POLICIES}
    assert back == dict.fromkeys(POLICIES, 4) | dict.fromkeys(("refcount", "async"), 2048) | {"munmap": 4}


def test_huge_pages_are_allowed_by_advice_and_setting() -> None:
    """A fault brings a huge page under `always` without advice, under `madvise` with it, never against either."""

    def res_after(setting: str, *operations: str, disabled: str = "") -> int:
        replay = Replay([BUILT_IN["none"]], huge_pages=HugePages(setting, disabled))
        for op in ("mmap", *operations, "write"):
            replay.apply(Operation(op, BASE, PAGE if op == "write" else SLOT, PAGE))
        return replay.res_kib("none")

    assert res_after("always") == res_after("madvise", "hugepage") == res_after("always", "hugepage") == 2048
    assert res_after("madvise") == res_after("never", "hugepage") == res_after("always", "nohugepage") == 4
    assert res_after("always", "hugepage", disabled="all") == res_after("always", disabled="unadvised") == 4
    assert res_after("always", "hugepage", disabled="unadvised") == 2048
    assert res_after("never", "hugepage", "write", "collapse") == 2048


def test_part_of_a_slot() -> None:
    """Calls over two halves free a table only under refcount, async and munmap; other policies need one call."""
    filled = (("mmap", 0, 2 * SLOT), ("write", 0, SLOT))
    halves = (("dontneed", 0, SLOT // 2), ("dontneed", SLOT // 2, SLOT // 2))
    assert after(*filled, *halves) == tables(every=3, refcount=2, munmap=2, **{"async": 2})
    assert after(*filled, ("dontneed", 0, SLOT)) == tables(every=2, none=3)


def test_a_marker_pins() -> None:
    """A guard marker keeps the table, except under munmap; once it is removed, refcount and async free the table."""
    marked = (("mmap", 0, SLOT), ("write", 0, SLOT), ("guard_install", PAGE, PAGE), ("dontneed", 0, SLOT))
    assert after(*marked) == tables(every=3, munmap=0)
    removed = (("guard_remove", PAGE, PAGE),)
    assert after(*marked, *removed) == tables(every=3, refcount=2, munmap=0, **{"async": 2})
    assert after(*marked, *removed, ("dontneed", 0, SLOT)) == tables(every=2, none=3, munmap=0)


def test_free_leaves_the_entries() -> None:
    """MADV_FREE frees no table, except under munmap, which unmaps on every advice."""
    assert after(("mmap", 0, SLOT), ("write", 0, SLOT), ("free", 0, SLOT)) == tables(every=3, munmap=0)


def test_upper_tables_are_shared() -> None:
    """A PMD table is freed with the last VMA of its GiB, a PUD table with the last of its 512 GiB."""
    two = (("mmap", 0, PAGE), ("mmap", X86.pmd_span, PAGE), ("write", 0, PAGE), ("write", X86.pmd_span, PAGE))
    assert after(*two) == tables(every=5)
    assert after(*two, ("munmap", 0, PAGE)) == tables(every=3)
    assert after(*two, ("munmap", 0, X86.pud_span)) == tables(every=0)


def test_munmap_maps_again_when_touched() -> None:
    """Under munmap a zapped range is unmapped, and mapped again by a touch."""
    zapped = (("mmap", 0, SLOT), ("write", 0, SLOT), ("dontneed", 0, SLOT))
    assert after(*zapped, ("write", 0, PAGE)) == tables(every=3)
    half, other = (0, SLOT // 2), (SLOT // 2, SLOT // 2)
    filled = (("mmap", 0, SLOT), ("write", 0, SLOT))
    mapped_anew = (("dontneed", *half), ("munmap", *half), ("mmap", *half), ("dontneed", *other))
    assert after(*filled, *mapped_anew)["munmap"] == 3
    never_reached = (("mprotect_ro", *half), ("dontneed", *half), ("write", *half), ("dontneed", *other))
    assert after(*filled, *never_reached)["munmap"] == 0


def test_async_scans_every_few_operations() -> None:
    """With a scan after every third operation, an empty table stays until the next scan."""
    replay = Replay([BUILT_IN["async"]], scan_every=3)
    tables_after = []
    for op, stride in (("mmap", 0), ("write", PAGE), ("read", PAGE), ("dontneed", 0), ("free", 0), ("free", 0)):
        replay.apply(Operation(op, BASE, SLOT, stride))
        tables_after.append(replay.vm_pte_kib("async") // 4)
    assert tables_after == [0, 3, 3, 3, 3, 2]


@pytest.mark.slow
def test_sparse_terabytes_cost_their_tables() -> None:
    """A page in every GiB of 64 TiB has its own PTE and PMD table; one zap frees the PTE tables."""
    size = 64 << 40
    spread = (("mmap", 0, size), ("write", 0, size, X86.pmd_span))
    upper = size // X86.pmd_span + size // X86.pud_span
    assert after(*spread) == tables(every=2 * (size // X86.pmd_span) + size // X86.pud_span)
    assert after(*spread, ("dontneed", 0, size))["merged"] == upper


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Operation("wriet", BASE, 1), "unknown op 'wriet'"),
        (Operation("write", BASE, PAGE, 0), "stride 0"),
        (Operation("mmap", BASE + 1, PAGE), "not on a 4096-byte page"),
        (Operation("mmap", BASE, 0), "must not be 0"),
        (Operation("mmap", PAGE, PAGE), "below what a process can map"),
        (Operation("dontneed", MAX_ADDRESS, PAGE), "beyond what a process can map"),
        (Operation("dontneed", -PAGE, PAGE), "must not be negative"),
    ],
)
def test_impossible_operations(operation: Operation, message: str) -> None:
    """An operation that no process can make is refused and changes nothing."""
    replay = Replay()
    with pytest.raises(TraceError, match=message):
        replay.apply(operation)
    assert replay.vm_pte_kib("none") == 0


def test_too_many_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay stops with an error at MAX_ENTRIES instead of using up the memory."""
    assert MAX_ENTRIES * PAGE == 8 << 40
    monkeypatch.setattr("engine.traces.page_tables.MAX_ENTRIES", 512_000)
    replay = Replay([BUILT_IN["merged"]])
    replay.apply(Operation("mmap", BASE, 64 << 40))
    with pytest.raises(TraceError, match="too many to replay"):
        replay.apply(Operation("write", BASE, 64 << 40, PAGE))
