"""Points that differ in their seed alone are worked out together, and only those."""

from dataclasses import replace

import numpy as np
import pytest

from engine.model.arch import GIB, MIB
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import run_batch
from engine.walk.point_groups import kinds_of

FIRST = Scenario(virt=GIB, sparsity=0.9, coverage=0.5, seed=1)
OTHERS = (
    replace(FIRST, seed=2),
    replace(FIRST, coverage=0.6),
    replace(FIRST, sparsity=None, res=100 * MIB),
    replace(FIRST, rounds=3),
)
BATCH = columns_of([FIRST, OTHERS[1], OTHERS[0], OTHERS[2], FIRST, OTHERS[3], replace(OTHERS[2], seed=9)])


def test_a_kind_has_many_seeds() -> None:
    kinds, which = kinds_of(BATCH)
    assert which[0] == which[2] == which[4]
    assert which[3] == which[6]
    assert len(np.unique(which)) == len(kinds["virt"]) == 4
    for name in set(BATCH) - {"seed"}:
        np.testing.assert_array_equal(kinds[name][which], BATCH[name])


def test_kinds_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every point is its own kind, and the rows are the same."""
    before = run_batch(BATCH)
    monkeypatch.setattr("engine.walk.point_groups.GOLDEN", np.uint64(0))
    kinds, which = kinds_of(BATCH)
    assert which.tolist() == list(range(7))
    np.testing.assert_array_equal(kinds["seed"], BATCH["seed"])
    np.testing.assert_array_equal(run_batch(BATCH).values, before.values)


def test_columns_of_any_make_are_taken() -> None:
    """Read-only and of no stride, for one."""
    odd = {name: np.broadcast_to(values[0], 7) for name, values in BATCH.items()}
    np.testing.assert_array_equal(run_batch(odd).values, run_batch({n: v.copy() for n, v in odd.items()}).values)


def test_seeds_of_a_kind_are_as_alone() -> None:
    together = run_batch(BATCH)
    for i in range(7):
        alone: Columns = {name: values[i : i + 1] for name, values in BATCH.items()}
        np.testing.assert_array_equal(run_batch(alone).values[0], together.values[i])
