"""The page ranges for the kernel engine equal what the twin draws, page by page and call by call."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel.scenario_pages import Ranges, ScenarioPages
from engine.model.scenario import Scenario
from tests.twin.draws import Choices

KIB = 1024


def pages(ranges: Ranges) -> list[int]:
    return [page for start, end in ranges.tolist() for page in range(start, end)]


SCENARIOS = st.builds(
    lambda page, pages, cluster, zap, shift, arch, **rest: Scenario(
        virt=pages * page, cluster=cluster * page, zap=zap * page, zap_shift=shift * page, arch=arch, **rest
    ),
    page=st.just(4 * KIB),
    arch=st.just("x86-64"),
    pages=st.integers(1, 3000),
    sparsity=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    cluster=st.sampled_from([1, 2, 16, 512, 3, 700, 1024]),
    zap=st.sampled_from([1, 16, 511, 512, 513, 1024]),
    shift=st.sampled_from([0, 1, 256, 4000]),
    coverage=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    order=st.sampled_from(["sequential", "random"]),
    pinned=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    threads=st.sampled_from([1, 2, 5]),
    partition=st.sampled_from(["blocked", "interleaved"]),
    rounds=st.just(2),
    seed=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(SCENARIOS)
@pytest.mark.slow
def test_pages_and_calls_equal_the_twins(scenario: Scenario) -> None:
    """Installs, markers, and the calls of every thread in their order."""
    scenario_pages, choices = ScenarioPages(scenario), Choices(scenario)
    entries, threads = scenario.geometry.entries, scenario.threads
    pins = sorted(t * entries + e for t, found in choices.pins().items() for e in found)
    assert pages(scenario_pages.markers()) == pins
    for number in range(scenario.rounds):
        drawn = {t * entries + e for t, found in choices.installs(number).items() for e in found}
        installs = scenario_pages.installs(number)
        assert pages(installs) == sorted(drawn - set(pins))
        assert (installs[1:, 0] > installs[:-1, 1]).all()  # maximal ranges
        calls, made = scenario_pages.calls(number), choices.calls(number)
        for thread in range(threads):
            ranges = calls.ranges[calls.offsets[thread] : calls.offsets[thread + 1]].tolist()
            blocked = scenario.partition == "blocked"
            expected = [
                [call.start, call.end]
                for call in made
                if (call.index * threads // choices.grid_calls if blocked else call.index % threads) == thread
            ]
            assert ranges == expected


@pytest.mark.parametrize("cluster", [4 * KIB, 64 * KIB, 3 << 20])
def test_ranges_of_some_slots_are_those_of_all_slots(cluster: int) -> None:
    """Ranges can be computed for a few slots at a time."""
    drawn = ScenarioPages(Scenario(virt=20 << 20, sparsity=0.4, cluster=cluster, pinned=0.01, seed=3))
    for whole, part in (
        (drawn.installs(1), lambda a, b: drawn.installs(1, a, b)),
        (drawn.markers(), drawn.markers),
    ):
        pieces = [part(first, min(first + 3, drawn.tables)) for first in range(0, drawn.tables, 3)]
        assert pages(np.concatenate(pieces)) == pages(whole)
