"""Each fast way is taken where it should be, and gives what the general walk gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.arch import GIB, MIB
from engine.run import encode, finish, tally
from engine.scenario import Scenario, columns_of
from engine.slots import fits

KIB = 1024


def takes_short_way(scenario: Scenario) -> bool:
    return bool(fits(encode(columns_of([scenario])).par)[0])


@pytest.mark.parametrize(
    ("scenario", "short"),
    [
        (Scenario(virt=GIB, sparsity=0.9), True),
        (Scenario(virt=GIB, sparsity=0.9, coverage=0.5), True),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9), True),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5), False),
        (Scenario(virt=GIB, sparsity=0.9, rounds=9, coverage=0.5, cluster=2 * MIB), True),
        (Scenario(virt=GIB, sparsity=0.9, zap=64 * KIB), False),
        (Scenario(virt=GIB, sparsity=0.9, zap=4 * MIB), False),
        (Scenario(virt=GIB + 4 * KIB, sparsity=0.9), False),
        (Scenario(virt=GIB, sparsity=0.9, threads=2), False),
        (Scenario(virt=GIB, sparsity=0.9, pinned=0.1), False),
        (Scenario(virt=GIB, sparsity=0.9, refault=0.1), False),
        (Scenario(virt=GIB, sparsity=0.9, advice="free"), False),
        (Scenario(virt=GIB, sparsity=0.9, zap_shift=2 * MIB), False),
    ],
)
def test_which_way(scenario: Scenario, short: bool) -> None:
    """Calls of one slot go the short way unless something needs places."""
    assert takes_short_way(scenario) is short


@st.composite
def slot_scenarios(draw: st.DrawFn) -> Scenario:
    arch = draw(st.sampled_from(["x86-64", "x86-64", "arm64-4k", "arm64-16k", "arm64-64k"]))
    span = {"x86-64": 2 * MIB, "arm64-4k": 2 * MIB, "arm64-16k": 32 * MIB, "arm64-64k": 512 * MIB}[arch]
    page = {"x86-64": 4, "arm64-4k": 4, "arm64-16k": 16, "arm64-64k": 64}[arch] * KIB
    cluster = draw(st.sampled_from([page, page, 2 * page, 16 * page, span // 2, span, 2 * span, 8 * span]))
    rounds = draw(st.integers(1, 6))
    whole = cluster >= span or rounds == 1
    coverage = draw(st.sampled_from([1.0, 0.5, 0.9, 0.0, 0.25])) if whole else 1.0
    sparsity = draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.998, 0.9995, 1.0]))
    tables = draw(st.integers(1, 40) | st.integers(500, 2200)) if arch != "arm64-64k" else draw(st.integers(1, 9))
    return Scenario(
        virt=tables * span, sparsity=sparsity, cluster=cluster, rounds=rounds, coverage=coverage, arch=arch,
        order=draw(st.sampled_from(["sequential", "random"])), seed=draw(st.integers(0, 2**63 - 1)),
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(slot_scenarios())
def test_short_way_equals_walk(scenario: Scenario) -> None:
    """Every column and round, whichever way is taken."""
    assert takes_short_way(scenario)
    columns = columns_of([scenario])
    points = encode(columns)
    short = finish(points, columns, tally(points, short=True))
    long = finish(points, columns, tally(points, short=False))
    np.testing.assert_array_equal(short.values, long.values)
    np.testing.assert_array_equal(short.rounds, long.rounds)
