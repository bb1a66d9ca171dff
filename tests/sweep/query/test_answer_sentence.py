"""The sentences of a run say what its rows say, and nothing about values that no point has."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.model.policy import BUILT_IN, POLICIES
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from sweep.query.answer_sentence import Headline, headline, percent_text
from sweep.query.database import Database
from sweep.store.store import Store
from sweep.tables import result_tables
from tests.support.small_stores import MIB, opened, point_id

KIB = 1024
Ask = Callable[..., Headline]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """A function that stores the outcomes of scenarios and returns their headline."""

    def headline_of(*scenarios: Scenario, policies: tuple[str, ...] = POLICIES) -> Headline:
        columns = columns_of(list(scenarios))
        results = run_batch(columns, [BUILT_IN[name] for name in policies])
        ids = [point_id(i) for i in range(len(scenarios))]
        with opened(tmp_path, "asked-0123abcd") as writer:
            writer.commit(
                result_tables.outcome_table(writer.run_id, ids, columns["seed"], columns, results, policies),
                result_tables.round_table(writer.run_id, ids, results, policies),
                result_tables.point_table(writer.run_id, ids, columns["seed"], columns, node="a"),
            )
            writer.finish("ok", {})
        with Database(Store(tmp_path), run="asked-0123abcd") as database:
            return headline(database)

    return headline_of


def test_sizes_of_calls(ask: Ask) -> None:
    """The sentence names the sizes that were run, on both sides of the one from which on `merged` frees tables."""
    found = ask(*(Scenario(virt=64 * MIB, sparsity=0.99, zap=zap) for zap in (64 * KIB, MIB // 2, 8 * MIB)))
    assert found.sentences[1] == "Under merged, calls of up to 512 KiB free no tables; calls of 8 MiB or more do."
    (axis,) = found.axes
    assert axis.values == (64 * KIB, MIB // 2, 8 * MIB)
    assert axis.given_back[:2] == (0, 0)
    assert axis.given_back[2] > 90
    by_policy = {figures.policy: figures for figures in found.policies}
    assert list(by_policy) == list(POLICIES)
    merged, best = (percent_text(by_policy[name].given_back or 0) for name in ("merged", "refcount"))
    assert f"gives back {merged} of page tables," in found.sentences[0]
    assert found.sentences[0].endswith(f" {best}.")
    assert by_policy["none"].added_ns_a_call == 0
    assert (by_policy["merged"].added_ns_a_table or 0) > 1000


def test_process_at_work(ask: Ask) -> None:
    """With several rounds in each point, what counts is VmPTE when the process has all its memory."""
    rounds = [Scenario(virt=64 * MIB, sparsity=0.97, cluster=size, rounds=8) for size in (4 * KIB, 2 * MIB)]
    found = ask(*rounds)
    assert found.moment == "peak"
    assert "of a process at work, no other design more." in found.sentences[0]
    assert found.sentences[1].startswith("Under merged it is 0 % with extents of 4 KiB, and ")


def test_rounds_that_vary(ask: Ask) -> None:
    """If one point has several rounds, the answer is that at work, by how often pages moved and how they lie."""
    found = ask(
        *(Scenario(virt=64 * MIB, sparsity=0.97, cluster=c, rounds=n) for c in (4 * KIB, 2 * MIB) for n in (1, 8))
    )
    assert found.moment == "peak"
    assert {axis.column for axis in found.axes} == {"rounds", "cluster"}
    assert "of a process at work" in found.sentences[0]
    assert "0 % with 1 round, and " in found.sentences[1]
    assert "0 % with extents of 4 KiB, and " in found.sentences[1]
    assert re.search(r" % with 8 rounds[;.]", found.sentences[1])


def test_one_point(ask: Ask) -> None:
    """Without an axis there is one sentence."""
    found = ask(Scenario(virt=64 * MIB, sparsity=0), policies=("none", "merged"))
    assert len(found.sentences) == 1
    assert "no other" not in found.sentences[0]


def test_without_none(ask: Ask) -> None:
    """Without the policy `none` nothing is compared: the sentence has VmPTE before and after."""
    found = ask(Scenario(virt=64 * MIB, sparsity=0), policies=("refcount",))
    assert found.sentences == ("refcount leaves 8.0 KiB of 136.0 KiB of page tables after the last calls.",)
    assert found.policies[0].given_back is None


def test_without_none_and_several_points(ask: Ask) -> None:
    """Several points are averaged, as in the named query savings."""
    two = ask(*(Scenario(virt=size * MIB, sparsity=0) for size in (64, 128)), policies=("refcount",))
    assert two.sentences == ("refcount leaves 8.0 KiB of 200.0 KiB of page tables after the last calls on average.",)


def test_several_kernels(ask: Ask) -> None:
    """In a run on two kernels of one policy and one of another, each policy has its own number of rows a point."""
    found = ask(Scenario(virt=64 * MIB, sparsity=0), policies=("none", "merged", "merged"))
    assert found.sentences[0] == "merged (Linux 6.14+) gives back 94 % of page tables."


@pytest.mark.parametrize(("percent", "text"), [(0, "0 %"), (0.2, "below 1 %"), (99.9, "over 99 %"), (100, "100 %")])
def test_percent(percent: float, text: str) -> None:
    """Not quite nothing and not quite all are not rounded to it."""
    assert percent_text(percent) == text
