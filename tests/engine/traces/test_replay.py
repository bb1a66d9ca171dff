"""Traces: the model against what the live kernel showed, and each policy's rule on cases small enough to count."""

import csv
import random
from pathlib import Path

import pytest

from engine.model.policy import POLICIES
from engine.traces.address_space import HIGHEST, Operation
from engine.traces.page_tables import MAX_TABLES, PMD_SPAN, PUD_SPAN, SLOT, TraceError
from engine.traces.replay import Replay
from tests import paths
from tests.twin.trace import Twin

DATA = paths.DATA / "kernel"
RECORDED = sorted(path for path in DATA.glob("*.csv") if not path.name.endswith(".expected.csv"))
BASE = 16 << 40
PAGE = 4096


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def after(*operations: tuple[str, int, int] | tuple[str, int, int, int]) -> dict[str, int]:
    """PTE, PMD and PUD tables of each policy, after operations on addresses counted from BASE."""
    replay = Replay()
    for op, start, length, *stride in operations:
        replay.apply(Operation(op, BASE + start, length, *(stride or [PAGE] if op in ("write", "read") else [])))
    return {policy: replay.vm_pte_kib(policy) // 4 for policy in POLICIES}


def tables(**other: int) -> dict[str, int]:
    """The same number for every policy, but for those named."""
    return dict.fromkeys(POLICIES, other.pop("every")) | other


def random_trace(seed: int) -> list[Operation]:
    """One mapping over the border of a GiB, then touches, purges, markers and holes, most of them at slots' edges."""
    choose = random.Random(seed)
    base, pages = BASE + PMD_SPAN - 3 * SLOT + choose.choice((0, PAGE, -PAGE)), choose.choice((2000, 2560, 3072))
    edges = [base, base + pages * PAGE, *(base // SLOT * SLOT + i * SLOT for i in range(1, 6))]
    trace = [Operation("mmap", base, pages * PAGE)]
    for _ in range(40):
        op = choose.choice(
            ("write", "write", "read", *3 * ["dontneed"], "free", "guard_install", "guard_remove", "munmap")
        )
        start = choose.choice(edges) + choose.choice((0, 0, 0, PAGE, -PAGE))
        length = choose.choice((PAGE, 7 * PAGE, SLOT // 2, SLOT, SLOT, 2 * SLOT, SLOT - PAGE, SLOT + PAGE))
        if op == "munmap":
            length = choose.choice((PAGE, SLOT // 2, SLOT))
        stride = choose.choice((PAGE, PAGE, 1000, 4097, 3 * PAGE, SLOT)) if op in ("write", "read") else 0
        trace.append(Operation(op, start + (choose.randrange(PAGE) if stride else 0), length, stride))
    return trace


@pytest.mark.parametrize("seed", range(24))
def test_the_slow_twin_agrees(seed: int) -> None:
    """Every column of an outcome that a trace determines, of every policy, after every operation."""
    scan_every = seed % 3 + 1
    replay, twins = Replay(scan_every=scan_every), {policy: Twin(policy, scan_every) for policy in POLICIES}
    for operation in random_trace(seed):
        replay.apply(operation)
        for policy, twin in twins.items():
            twin.apply(operation.op, operation.start, operation.length, operation.stride)
            assert replay.outcome(policy) == twin.outcome, (policy, operation)
            assert replay.outcome(policy)["vm_pte_kib_end"] == replay.vm_pte_kib(policy)
            assert replay.outcome(policy)["res_bytes_end"] == replay.res_kib(policy) << 10


def test_there_are_recorded_traces() -> None:
    """All twenty that came with the brief, and ours."""
    assert len(RECORDED) == 27


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_live_kernel_is_met_at_every_step(path: Path) -> None:
    """VmPTE and RES under merged are what /proc showed, to the kB."""
    replay = Replay(("merged",))
    found = []
    for step, op, start, length, stride in rows(path):
        replay.apply(Operation(op, int(start), int(length), int(stride or 0)))
        found.append((int(step), replay.vm_pte_kib("merged"), replay.res_kib("merged")))
    assert found[1:] == [tuple(map(int, row)) for row in rows(path.with_suffix(".expected.csv"))]


def test_part_of_a_slot() -> None:
    """Two halves free a table under refcount and async only; the whole-slot rules need one call."""
    filled = (("mmap", 0, 2 * SLOT), ("write", 0, SLOT))
    halves = (("dontneed", 0, SLOT // 2), ("dontneed", SLOT // 2, SLOT // 2))
    assert after(*filled, *halves) == tables(every=3, refcount=2, munmap=2, **{"async": 2})
    assert after(*filled, ("dontneed", 0, SLOT)) == tables(every=2, none=3)


def test_a_marker_pins() -> None:
    """A guard marker keeps the table under every zap policy; its removal lets refcount and async have it."""
    marked = (("mmap", 0, SLOT), ("write", 0, SLOT), ("guard_install", PAGE, PAGE), ("dontneed", 0, SLOT))
    assert after(*marked) == tables(every=3, munmap=0)
    removed = (("guard_remove", PAGE, PAGE),)
    assert after(*marked, *removed) == tables(every=3, refcount=2, munmap=0, **{"async": 2})
    assert after(*marked, *removed, ("dontneed", 0, SLOT)) == tables(every=2, none=3, munmap=0)


def test_free_leaves_the_entries() -> None:
    """MADV_FREE frees no table, but munmap does not ask which advice it was."""
    assert after(("mmap", 0, SLOT), ("write", 0, SLOT), ("free", 0, SLOT)) == tables(every=3, munmap=0)


def test_upper_tables_are_shared() -> None:
    """A PMD table goes with the last VMA of its GiB, a PUD table with the last of its 512 GiB."""
    two = (("mmap", 0, PAGE), ("mmap", PMD_SPAN, PAGE), ("write", 0, PAGE), ("write", PMD_SPAN, PAGE))
    assert after(*two) == tables(every=5)
    assert after(*two, ("munmap", 0, PAGE)) == tables(every=3)
    assert after(*two, ("munmap", 0, PUD_SPAN)) == tables(every=0)


def test_munmap_maps_again_when_touched() -> None:
    """A purged range is gone under munmap, until a touch asks for it."""
    purged = (("mmap", 0, SLOT), ("write", 0, SLOT), ("dontneed", 0, SLOT))
    assert after(*purged, ("write", 0, PAGE)) == tables(every=3)
    half, other = (0, SLOT // 2), (SLOT // 2, SLOT // 2)
    filled = (("mmap", 0, SLOT), ("write", 0, SLOT))
    mapped_anew = (("dontneed", *half), ("munmap", *half), ("mmap", *half), ("dontneed", *other))
    assert after(*filled, *mapped_anew)["munmap"] == 3
    never_reached = (("mprotect_ro", *half), ("dontneed", *half), ("write", *half), ("dontneed", *other))
    assert after(*filled, *never_reached)["munmap"] == 0


def test_async_scans_when_it_is_time() -> None:
    """With a scan every third operation the empty table lives until the third."""
    replay = Replay(("async",), scan_every=3)
    seen = []
    for op, stride in (("mmap", 0), ("write", PAGE), ("read", PAGE), ("dontneed", 0), ("free", 0), ("free", 0)):
        replay.apply(Operation(op, BASE, SLOT, stride))
        seen.append(replay.vm_pte_kib("async") // 4)
    assert seen == [0, 3, 3, 3, 3, 2]


def test_sparse_terabytes_cost_their_tables() -> None:
    """A page in every GiB of 64 TiB, then one purge over all of it."""
    size = 64 << 40
    spread = (("mmap", 0, size), ("write", 0, size, PMD_SPAN))
    upper = size // PMD_SPAN + size // PUD_SPAN
    assert after(*spread) == tables(every=2 * (size // PMD_SPAN) + size // PUD_SPAN)
    assert after(*spread, ("dontneed", 0, size))["merged"] == upper


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        (Operation("wriet", BASE, 1), "unknown op 'wriet'"),
        (Operation("write", BASE, PAGE, 0), "stride 0"),
        (Operation("mmap", BASE + 1, PAGE), "not on a 4096-byte page"),
        (Operation("mmap", BASE, 0), "must not be 0"),
        (Operation("mmap", PAGE, PAGE), "below what a process can map"),
        (Operation("dontneed", HIGHEST, PAGE), "beyond what a process can map"),
        (Operation("dontneed", -PAGE, PAGE), "must not be negative"),
    ],
)
def test_what_no_process_can_ask_for(operation: Operation, told: str) -> None:
    """Refused, and nothing is changed."""
    replay = Replay()
    with pytest.raises(TraceError, match=told):
        replay.apply(operation)
    assert replay.vm_pte_kib("none") == 0


def test_more_tables_than_a_machine_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay ends at its limit, with a word, rather than eat the machine."""
    assert MAX_TABLES * SLOT == 8 << 40
    monkeypatch.setattr("engine.traces.page_tables.MAX_TABLES", 1000)
    replay = Replay(("merged",))
    replay.apply(Operation("mmap", BASE, 64 << 40))
    with pytest.raises(TraceError, match="too many to replay"):
        replay.apply(Operation("write", BASE, 64 << 40, PAGE))
