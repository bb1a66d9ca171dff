"""Points that differ only in the seed form a point group and are computed together."""

from dataclasses import replace

import numpy as np
import pytest

from engine.model.arch import GIB, MIB
from engine.model.scenario import Columns, Scenario, columns_of
from engine.reclaim.point_groups import groups_of
from engine.run import run_batch

FIRST = Scenario(virt=GIB, sparsity=0.9, coverage=0.5, seed=1)
OTHERS = (
    replace(FIRST, seed=2),
    replace(FIRST, coverage=0.6),
    replace(FIRST, sparsity=None, res=100 * MIB),
    replace(FIRST, rounds=3),
)
BATCH = columns_of([FIRST, OTHERS[1], OTHERS[0], OTHERS[2], FIRST, OTHERS[3], replace(OTHERS[2], seed=9)])


def test_points_are_grouped_by_all_but_the_seed() -> None:
    """Points are in one group if and only if all columns but the seed are equal."""
    groups, group_of = groups_of(BATCH)
    assert group_of[0] == group_of[2] == group_of[4]
    assert group_of[3] == group_of[6]
    assert len(np.unique(group_of)) == len(groups["virt"]) == 4
    for name in set(BATCH) - {"seed"}:
        np.testing.assert_array_equal(groups[name][group_of], BATCH[name])


def test_groups_with_equal_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If two groups have the same hash, each point becomes a group of its own and the rows stay the same."""
    before = run_batch(BATCH)
    monkeypatch.setattr("engine.reclaim.point_groups.GOLDEN", np.uint64(0))
    groups, group_of = groups_of(BATCH)
    assert group_of.tolist() == list(range(7))
    np.testing.assert_array_equal(groups["seed"], BATCH["seed"])
    np.testing.assert_array_equal(run_batch(BATCH).values, before.values)


def test_broadcast_columns() -> None:
    """Columns may be read-only and have a stride of 0."""
    odd = {name: np.broadcast_to(values[0], 7) for name, values in BATCH.items()}
    np.testing.assert_array_equal(run_batch(odd).values, run_batch({n: v.copy() for n, v in odd.items()}).values)


def test_points_of_a_group_equal_points_alone() -> None:
    """A point has the same rows in a group and alone."""
    together = run_batch(BATCH)
    for i in range(7):
        alone: Columns = {name: values[i : i + 1] for name, values in BATCH.items()}
        np.testing.assert_array_equal(run_batch(alone).values[0], together.values[i])
