"""Each shortcut is taken for the scenarios that it fits, and gives the rows of the general walk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.arch import GIB, MIB
from engine.model.scenario import Scenario, columns_of
from engine.run import BY_COUNTS, BY_PARTS, BY_SLOTS, BY_WALK, tally, ways
from engine.shortcuts.parts import by_lanes
from engine.reclaim.encode import encode
from engine.reclaim.finish import finish

KIB = 1024


def way(scenario: Scenario) -> int:
    return int(ways(encode(columns_of([scenario])).par)[0])


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        (Scenario(virt=GIB, sparsity=0.9), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0.9, coverage=0.5), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0.9, cluster=2 * MIB, rounds=500), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0), BY_SLOTS),
        (Scenario(virt=128 * GIB, sparsity=0.9, cluster=4 * MIB), BY_SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5, cluster=2 * MIB), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5, cluster=4 * MIB), BY_SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB), BY_PARTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, zap_shift=MIB, rounds=5, coverage=0.5, threads=8), BY_PARTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, zap_shift=4 * KIB), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, refault=0.5), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=96 * KIB), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=4 * MIB), BY_SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=4 * MIB, folio=64 * KIB), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=2 * MIB, folio=64 * KIB), BY_COUNTS),
        (Scenario(virt=GIB + 4 * KIB, sparsity=0.9), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, threads=2), BY_COUNTS),
        (Scenario(virt=GIB, sparsity=0.9, pinned=0.1), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, refault=0.1), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, advice="free"), BY_WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap_shift=2 * MIB), BY_WALK),
    ],
)
def test_which_way(scenario: Scenario, expected: int) -> None:
    """Calls of whole slots and of parts of one take a shortcut unless a field of the scenario rules it out."""
    assert way(scenario) == expected


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("coverage", [1.0, 0.99, 0.9, 0.5, 0.05, 0.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99, 0.9995])
def test_calls_of_16_pages_equal_walk(sparsity: float, coverage: float, order: str) -> None:
    """Calls of 16 pages equal the walk, both four to a 64-bit word and, where not aligned to one, one by one."""
    for shift, lanes in ((0, True), (256 * KIB, True), (2304 * KIB, True), (64 * KIB, False), (1088 * KIB, False)):
        scenario = Scenario(
            virt=1200 * 2 * MIB, sparsity=sparsity, zap=64 * KIB, zap_shift=shift, coverage=coverage, rounds=3,
            order=order, seed=shift + 9,
        )  # fmt: skip
        points = encode(columns_of([scenario]))
        assert way(scenario) == BY_PARTS
        assert by_lanes(points.par).tolist() == [lanes]
        assert_short_equals_walk(scenario)


@st.composite
def slot_scenarios(draw: st.DrawFn, one_slot: bool = False) -> Scenario:
    arch = draw(st.sampled_from(["x86-64", "x86-64", "arm64-4k", "arm64-16k", "arm64-64k"]))
    span = {"x86-64": 2 * MIB, "arm64-4k": 2 * MIB, "arm64-16k": 32 * MIB, "arm64-64k": 512 * MIB}[arch]
    page = {"x86-64": 4, "arm64-4k": 4, "arm64-16k": 16, "arm64-64k": 64}[arch] * KIB
    cluster = draw(st.sampled_from([page, page, 2 * page, 16 * page, span // 2, span, 2 * span, 8 * span]))
    rounds = draw(st.integers(1, 6))
    whole = one_slot or cluster >= span or rounds == 1
    coverage = draw(st.sampled_from([1.0, 0.5, 0.9, 0.0, 0.25])) if whole else 1.0
    sparsity = draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 0.99, 0.998, 0.9995, 1.0]))
    tables = draw(st.integers(1, 40) | st.integers(500, 2200)) if arch != "arm64-64k" else draw(st.integers(1, 9))
    return Scenario(
        virt=tables * span, sparsity=sparsity, cluster=cluster, rounds=rounds, coverage=coverage, arch=arch,
        zap=span * (1 if one_slot else draw(st.sampled_from([1, 1, 2, 3, 32, 600]))),
        threads=draw(st.sampled_from([1, 1, 2, 9, 64])),
        partition=draw(st.sampled_from(["blocked", "interleaved"])),
        order=draw(st.sampled_from(["sequential", "random"])), seed=draw(st.integers(0, 2**63 - 1)),
    )  # fmt: skip


@st.composite
def part_scenarios(draw: st.DrawFn) -> Scenario:
    arch = draw(st.sampled_from(["x86-64", "x86-64", "arm64-4k", "arm64-16k", "arm64-64k"]))
    entries = {"x86-64": 512, "arm64-4k": 512, "arm64-16k": 2048, "arm64-64k": 8192}[arch]
    page = {"x86-64": 4, "arm64-4k": 4, "arm64-16k": 16, "arm64-64k": 64}[arch] * KIB
    zap = page << draw(st.integers(0, entries.bit_length() - 2))
    cluster = page * draw(st.sampled_from([1, 1, 2, 3, 16, entries // 2, entries, entries * 3]))
    tables = draw(st.integers(1, 6) if entries > 512 else st.integers(1, 30) | st.integers(500, 600))
    return Scenario(
        virt=tables * entries * page, sparsity=draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.998, 0.9995, 1.0])),
        cluster=cluster, zap=zap, zap_shift=zap * draw(st.sampled_from([0, 0, 0, 1, 3, 700])),
        coverage=draw(st.sampled_from([1.0, 1.0, 0.5, 0.9, 0.99, 0.0])), rounds=draw(st.integers(1, 4)), arch=arch,
        order=draw(st.sampled_from(["sequential", "random"])), threads=draw(st.sampled_from([1, 1, 5])),
        seed=draw(st.integers(0, 2**63 - 1)),
    )  # fmt: skip


def assert_short_equals_walk(scenario: Scenario) -> None:
    columns = columns_of([scenario])
    points = encode(columns)
    shortcut = finish(points, columns, tally(points))
    walk = finish(points, columns, tally(points, short=False))
    np.testing.assert_array_equal(shortcut.values, walk.values)
    np.testing.assert_array_equal(shortcut.rounds, walk.rounds)


@settings(max_examples=200, deadline=None)
@given(slot_scenarios())
def test_whole_slots_equal_walk(scenario: Scenario) -> None:
    """Both shortcuts for whole slots equal the walk in every column and round."""
    assert way(scenario) in (BY_COUNTS, BY_SLOTS)
    assert_short_equals_walk(scenario)


@settings(max_examples=300, deadline=None)
@given(slot_scenarios(one_slot=True))
def test_calls_of_one_slot_equal_walk(scenario: Scenario) -> None:
    """Calls of one slot equal the walk; they go by counts in every round, whatever an earlier round left."""
    in_tables = scenario.geometry.span_bytes % (scenario.cluster or 1) == 0
    assert (way(scenario) == BY_COUNTS) == (in_tables and scenario.sparsity not in (0, 1))
    assert_short_equals_walk(scenario)


@pytest.mark.parametrize("coverage", [1.0, 0.9, 0.5, 0.0])
@pytest.mark.parametrize("cluster", [4 * KIB, 64 * KIB, MIB, 2 * MIB])
@pytest.mark.parametrize("sparsity", [0.3, 0.98, 0.995, 0.9999])
def test_counts_equal_walk(sparsity: float, cluster: int, coverage: float) -> None:
    """Counting equals the walk, in an address space that ends in the middle of a PMD table."""
    scenario = Scenario(virt=128 * GIB + 6 * MIB, sparsity=sparsity, cluster=cluster, coverage=coverage, seed=77)
    assert way(scenario) == BY_COUNTS
    assert_short_equals_walk(scenario)


def test_nearly_full_tables_on_arm64() -> None:
    """With 31 of 32 extents resident the absent one is drawn, and no flush of less than a table is a full one."""
    assert_short_equals_walk(Scenario(virt=8 * MIB, res=7_493_026, cluster=64 * KIB, rounds=2, arch="arm64-4k"))
    big = Scenario(virt=130 * GIB, sparsity=0.08, cluster=64 * KIB, arch="arm64-4k")
    assert way(big) == BY_COUNTS
    assert_short_equals_walk(big)


@settings(max_examples=300, deadline=None)
@given(part_scenarios())
def test_parts_equal_walk(scenario: Scenario) -> None:
    """The shortcut for parts of a slot equals the walk in every column and round."""
    assert way(scenario) == BY_PARTS
    assert_short_equals_walk(scenario)
