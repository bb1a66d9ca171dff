"""Rules: the engine against the twin entry by entry, and against kernels into which the designs were built."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.compiled_passes import POLICIES_PER_PASS
from engine.model.arch import GIB, KIB
from engine.model.policy import ALL, BUILT_IN, Policy, RuleError, check_rule, derive_policy
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import results_of_shards, run_batch, run_shard
from tests.engine.test_twin import SCENARIOS, SHAPES, SLOW_SHAPES, cases
from tests.paths import DATA
from tests.support.rules import rules
from tests.twin.draws import Choices
from tests.twin.rules import space_of

TRUTH = json.loads((DATA / "designs_truth.json").read_text())
MERGED = BUILT_IN["merged"]
OWN = {
    "least_4k": derive_policy(MERGED, "least_4k", {"least": 4 * KIB}),
    "least_64k": derive_policy(MERGED, "least_64k", {"least": 64 * KIB}),
    "least_512k": derive_policy(MERGED, "least_512k", {"least": 512 * KIB}),
    "outside_64k": derive_policy(MERGED, "outside_64k", {"least": 64 * KIB, "otherwise": "outside"}),
}


@pytest.mark.parametrize("number", range(len(TRUTH)))
def test_kernels_with_these_designs_counted_the_same(number: int) -> None:
    """Every counter that a Linux 6.12 with these designs built in showed is the engine's, for eight designs."""
    policies = [(BUILT_IN | OWN)[name] for name in TRUTH[number]["kernel"]]
    results = run_batch(columns_of([Scenario(**TRUTH[number]["scenario"])]), policies)
    counted = dict(zip(TRUTH[number]["kernel"], results.values[0], strict=True))
    for name, columns in TRUTH[number]["kernel"].items():
        assert {column: counted[name][COLUMNS.index(column)] for column in columns} == columns, name


def assert_equals_twin(scenario: Scenario, policies: list[Policy]) -> None:
    results = run_batch(columns_of([scenario]), policies)
    choices = Choices(scenario)
    for p, policy in enumerate(policies):
        space = space_of(policy, choices)
        space.run()
        outcome = space.outcome()
        assert dict(zip(COLUMNS, results.values[0, p].tolist(), strict=True)) == {c: outcome[c] for c in COLUMNS}, (
            policy
        )
        np.testing.assert_array_equal(results.rounds[:, p], space.memory)


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[pytest.mark.slow] if shape in SLOW_SHAPES else []) for shape in SHAPES]
)
def test_random_rules_equal_the_twin(shape: str) -> None:
    """Rules that nobody chose agree with the twin in every column and round."""

    @cases(SHAPES[shape][1] / 4)
    @given(SCENARIOS[shape], st.lists(rules(), min_size=1, max_size=3))
    def compare(scenario: Scenario, policies: list[Policy]) -> None:
        assert_equals_twin(scenario, policies)

    compare()


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[pytest.mark.slow] if shape in SLOW_SHAPES else []) for shape in SHAPES]
)
def test_huge_pages_equal_the_twin(shape: str) -> None:
    """With huge pages the seven designs and rules that nobody chose agree with the twin in every column and round."""

    @cases(SHAPES[shape][1] / 4)
    @given(SCENARIOS[shape], st.lists(rules(), max_size=2))
    def compare(scenario: Scenario, own: list[Policy]) -> None:
        assert_equals_twin(replace(scenario, thp="always"), [*ALL, *own])

    compare()


def test_any_number_of_rules() -> None:
    """More rules than fit one pass are judged in several, also in shards; each has the rows that it has alone."""
    sizes = range(1, POLICIES_PER_PASS + 9)
    policies = [*ALL, *(derive_policy(MERGED, f"least_{n}", {"least": n * 4 * KIB}) for n in sizes)]
    columns = columns_of([Scenario(virt=GIB // 64, sparsity=0.5, zap=256 * KIB, coverage=0.9, rounds=2)])
    together = run_batch(columns, policies)
    shard = results_of_shards(columns, [run_shard(columns, 0, 8, policies)], policies)
    np.testing.assert_array_equal(shard.values, together.values)
    np.testing.assert_array_equal(shard.rounds, together.rounds)
    for p in (0, 5, 6, POLICIES_PER_PASS, len(policies) - 1):
        alone = run_batch(columns, [policies[p]])
        np.testing.assert_array_equal(alone.values[:, 0], together.values[:, p])
        np.testing.assert_array_equal(alone.rounds[:, 0], together.rounds[:, p])


def impossible() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"when": "sometimes"}, "when: unknown 'sometimes'; known: never, visit, call, round, unmap"
    yield {"least": 0}, "least: 0 is neither a size above 0 nor `slot`"
    yield {"least": "page"}, "least: 'page' is neither a size above 0 nor `slot`"
    yield {"when": "call"}, "proof: `held` needs the zap's own lock, so it goes with `when: visit`, not call"
    yield {"every": 2}, "every: has no effect with when: visit"
    yield {"proof": "scan", "otherwise": "keep"}, "otherwise: has no effect with proof: scan"
    yield {"when": "never", "least": 4096}, "least: has no effect with when: never"


@pytest.mark.parametrize(("changes", "message"), list(impossible()), ids=lambda value: str(value)[:40])
def test_impossible_rules(changes: dict[str, Any], message: str) -> None:
    """Values that a field cannot have, and fields that exclude each other, are refused in one line with the reason."""
    with pytest.raises(RuleError) as refusal:
        derive_policy(MERGED, "own", changes)
    assert str(refusal.value) == message


@given(rules())
def test_possible_rules(policy: Policy) -> None:
    """Every drawn rule passes the check, and so do the seven designs."""
    for one in (policy, *ALL):
        check_rule(one)
