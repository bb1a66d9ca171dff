"""Each pass is taken for the points that it fits, and gives the rows of the general pass, under any rules."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compiled_passes import PARTS, PASSES, SLOTS, UNMAP_FLUSHES, WALK, passes_needed
from engine.model.arch import GIB, MIB
from engine.model.policy import ALL, BUILT_IN, Policy, derive_policy
from engine.model.scenario import Scenario, columns_of
from engine.reclaim.encode import encode
from engine.reclaim.finish import finish
from engine.run import tally
from tests.support.rules import rules

KIB = 1024


def chosen_pass(scenario: Scenario, policies: Sequence[Policy] = ALL) -> int:
    (number,) = passes_needed(columns_of([scenario]), policies) - {UNMAP_FLUSHES}
    return number


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        (Scenario(virt=GIB, sparsity=0.9), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, coverage=0.5), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, cluster=2 * MIB, rounds=500), SLOTS),
        (Scenario(virt=GIB, sparsity=0), SLOTS),
        (Scenario(virt=128 * GIB, sparsity=0.9, cluster=4 * MIB), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5, cluster=2 * MIB), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5, cluster=4 * MIB), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB), PARTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, zap_shift=MIB, rounds=5, coverage=0.5, threads=8), PARTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, zap_shift=4 * KIB), WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, refault=0.5), WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=96 * KIB), WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=4 * MIB), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, zap=4 * MIB, folio=64 * KIB), WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap=2 * MIB, folio=64 * KIB), SLOTS),
        (Scenario(virt=GIB + 4 * KIB, sparsity=0.9), WALK),
        (Scenario(virt=GIB, sparsity=0.9, threads=2), SLOTS),
        (Scenario(virt=GIB, sparsity=0.9, pinned=0.1), WALK),
        (Scenario(virt=GIB, sparsity=0.9, refault=0.1), WALK),
        (Scenario(virt=GIB, sparsity=0.9, advice="free"), WALK),
        (Scenario(virt=GIB, sparsity=0.9, zap_shift=2 * MIB), SLOTS),
    ],
)
def test_which_pass(scenario: Scenario, expected: int) -> None:
    """Calls of whole slots and of aligned parts have a pass each, unless a field of the scenario rules it out."""
    assert chosen_pass(scenario) == expected


def test_rules_on_parts_of_a_table() -> None:
    """Rules that read entries after calls below a table's size do not need the general pass."""
    policies = [*ALL, derive_policy(BUILT_IN["merged"], "small", {"least": 64 * KIB})]
    assert chosen_pass(Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, order="random"), policies) == PARTS
    assert chosen_pass(Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB, threads=2), policies) == WALK


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("coverage", [1.0, 0.99, 0.9, 0.5, 0.05, 0.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99, 0.9995])
def test_calls_of_16_pages_equal_walk(sparsity: float, coverage: float, order: str) -> None:
    """Calls of 16 pages equal the general pass, wherever the first call starts."""
    for shift in (0, 256 * KIB, 2304 * KIB, 64 * KIB, 1088 * KIB):
        scenario = Scenario(
            virt=1200 * 2 * MIB, sparsity=sparsity, zap=64 * KIB, zap_shift=shift, coverage=coverage, rounds=3,
            order=order, seed=shift + 9,
        )  # fmt: skip
        assert chosen_pass(scenario) == PARTS
        assert_equals_general_pass(scenario)


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


def assert_equals_general_pass(scenario: Scenario, policies: Sequence[Policy] = ALL) -> None:
    columns = columns_of([scenario])
    points = encode(columns)
    results = finish(points, columns, tally(points, policies), policies)
    general = finish(points, columns, tally(points, policies, general=True), policies)
    np.testing.assert_array_equal(results.values, general.values)
    np.testing.assert_array_equal(results.rounds, general.rounds)


@settings(max_examples=200, deadline=None)
@given(slot_scenarios())
def test_whole_slots_equal_walk(scenario: Scenario) -> None:
    """Calls of whole slots equal the general pass in every column and round."""
    assert chosen_pass(scenario) == SLOTS
    assert_equals_general_pass(scenario)


@settings(max_examples=300, deadline=None)
@given(slot_scenarios(one_slot=True))
def test_calls_of_one_slot_equal_walk(scenario: Scenario) -> None:
    """Calls of one slot equal the general pass in every round, whatever an earlier round left."""
    assert chosen_pass(scenario) == SLOTS
    assert_equals_general_pass(scenario)


@pytest.mark.parametrize("coverage", [1.0, 0.9, 0.5, 0.0])
@pytest.mark.parametrize("cluster", [4 * KIB, 64 * KIB, MIB, 2 * MIB])
@pytest.mark.parametrize("sparsity", [0.3, 0.98, 0.995, 0.9999])
def test_counts_equal_walk(sparsity: float, cluster: int, coverage: float) -> None:
    """Counting equals the walk, in an address space that ends in the middle of a PMD table."""
    scenario = Scenario(virt=128 * GIB + 6 * MIB, sparsity=sparsity, cluster=cluster, coverage=coverage, seed=77)
    assert chosen_pass(scenario) == SLOTS
    assert_equals_general_pass(scenario)


def test_nearly_full_tables_on_arm64() -> None:
    """With 31 of 32 extents resident the absent one is drawn, and no flush of less than a table is a full one."""
    assert_equals_general_pass(Scenario(virt=8 * MIB, res=7_493_026, cluster=64 * KIB, rounds=2, arch="arm64-4k"))
    big = Scenario(virt=130 * GIB, sparsity=0.08, cluster=64 * KIB, arch="arm64-4k")
    assert chosen_pass(big) == SLOTS
    assert_equals_general_pass(big)


@settings(max_examples=300, deadline=None)
@given(part_scenarios())
def test_parts_equal_walk(scenario: Scenario) -> None:
    """The shortcut for parts of a slot equals the walk in every column and round."""
    assert chosen_pass(scenario) == PARTS
    assert_equals_general_pass(scenario)


@settings(max_examples=100, deadline=None)
@given(slot_scenarios() | part_scenarios(), st.lists(rules(), min_size=1, max_size=9))
def test_own_rules_equal_the_general_pass(scenario: Scenario, policies: list[Policy]) -> None:
    """Whatever pass a point takes under some rules, its rows are those of the general pass."""
    assert_equals_general_pass(scenario, policies)


def test_passes_are_compiled_once() -> None:
    """All points and rules have the same argument types, so that nothing is ever compiled twice."""
    for one_pass in PASSES:
        one_pass.load()
        assert len(one_pass.function.signatures) == 1
