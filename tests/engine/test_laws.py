"""Laws of the engine: rows do not depend on batches, order or shards, and invariants hold in every row."""

from typing import Any

import numpy as np
import pytest

from engine.model.arch import GIB, MIB, TIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Columns, Scenario, columns_of
from engine.reclaim.encode import encode
from engine.run import divide_tables, run_batch, run_sharded

KIB = 1024
COLUMN_INDEX = {name: i for i, name in enumerate(COLUMNS)}
POLICY_INDEX = {name: i for i, name in enumerate(POLICIES)}
WHOLE_SLOT_POLICIES = ("second_walk", "seed_inline", "merged")

MIXED = [
    Scenario(virt=64 * MIB, sparsity=0.5),
    Scenario(virt=3 * GIB, sparsity=0.99, zap=64 * KIB, coverage=0.7, order="random", rounds=3, seed=3),
    Scenario(virt=GIB + 12 * KIB, res=100 * MIB, cluster=64 * KIB, zap=3 * MIB, zap_shift=4 * KIB, threads=4),
    Scenario(virt=2 * GIB, sparsity=0.9, zap=2 * MIB, threads=16, partition="interleaved", coverage=0.5),
    Scenario(virt=128 * MIB, sparsity=0.2, pinned=0.01, refault=0.1, folio=64 * KIB, zap=48 * MIB, rounds=2),
    Scenario(virt=96 * MIB, sparsity=0.2, advice="free", rounds=3, coverage=0.6),
    Scenario(virt=GIB, sparsity=0.5, arch="arm64-16k", zap=32 * MIB),
    Scenario(virt=2 * GIB, sparsity=0.5, arch="arm64-64k", cluster=3 * 64 * KIB),
]


def take(columns: Columns, rows: list[int]) -> Columns:
    """Return the points of these rows, in this order."""
    return {name: values[rows] for name, values in columns.items()}


def test_batch_equals_its_points_alone() -> None:
    """A point's rows do not depend on the other points of its batch."""
    columns = columns_of(MIXED)
    together = run_batch(columns)
    starts = np.concatenate([[0], np.cumsum(together.round_counts)])
    for i in range(len(MIXED)):
        alone = run_batch(take(columns, [i]))
        np.testing.assert_array_equal(alone.values[0], together.values[i])
        np.testing.assert_array_equal(alone.rounds, together.rounds[starts[i] : starts[i + 1]])


def test_order_in_a_batch_changes_no_row() -> None:
    """A point's rows do not depend on its position in the batch."""
    columns = columns_of(MIXED)
    reverse = list(range(len(MIXED)))[::-1]
    np.testing.assert_array_equal(run_batch(take(columns, reverse)).values[::-1], run_batch(columns).values)


@pytest.mark.parametrize("shard_count", [2, 3, 7])
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(virt=4 * TIB, sparsity=0.999, cluster=2 * MIB, rounds=3, coverage=0.5),
        Scenario(virt=3 * TIB + 5 * MIB, sparsity=0.9999, zap=1 * GIB, order="random", rounds=2, coverage=0.8),
        Scenario(virt=2 * TIB, sparsity=0.9999, zap=64 * KIB, zap_shift=64 * KIB),
        Scenario(virt=3 * TIB, sparsity=0.9999, cluster=64 * KIB, zap=3 * MIB, refault=0.2, pinned=0.0001),
    ],
)
def test_shards_give_the_same_rows(scenario: Scenario, shard_count: int) -> None:
    """A point judged in shards has the rows of the point judged at once."""
    columns = columns_of([scenario])
    at_once, sharded = run_batch(columns), run_sharded(columns, 0, shard_count)
    np.testing.assert_array_equal(at_once.values, sharded.values)
    np.testing.assert_array_equal(at_once.rounds, sharded.rounds)


def test_shards_are_cut_where_calls_allow() -> None:
    """A point with calls of 2 MiB is split between PUD tables; one with shifted calls or threads is not split."""

    def shard_count(scenario: Scenario) -> int:
        return len(divide_tables(encode(columns_of([scenario])).par[0], 4))

    assert shard_count(Scenario(virt=4 * TIB, sparsity=0.9)) == 4
    assert shard_count(Scenario(virt=4 * TIB, sparsity=0.9, zap_shift=4 * KIB)) == 1
    assert shard_count(Scenario(virt=4 * TIB, sparsity=0.9, threads=2)) == 1
    assert shard_count(Scenario(virt=GIB, sparsity=0.9)) == 1


@pytest.mark.parametrize("scenario", MIXED)
def test_invariants(scenario: Scenario) -> None:
    """Tables are conserved, no policy keeps more than none or fewer than needed, and the whole-slot policies agree."""
    values = run_batch(columns_of([scenario])).values[0]
    column = {name: values[:, i] for name, i in COLUMN_INDEX.items()}
    balance = column["pte_tables_allocated"] - column["pte_tables_freed"]
    np.testing.assert_array_equal(balance, column["pte_tables_end"])
    assert (column["vm_pte_kib_end"] <= column["vm_pte_kib_end"][POLICY_INDEX["none"]]).all()
    assert (column["vm_pte_kib_end"] >= column["vm_pte_kib_needed_end"]).all()
    assert column["pte_tables_empty_end"][POLICY_INDEX["refcount"]] == 0
    assert column["pte_tables_empty_end"][POLICY_INDEX["async"]] == 0
    assert (values >= 0).all()
    whole_slot = [POLICY_INDEX[policy] for policy in WHOLE_SLOT_POLICIES]
    assert len(set(column["vm_pte_kib_end"][whole_slot])) == 1


def test_threads_change_no_memory_figure() -> None:
    """Contention changes locks, scans and paths; resident pages and tables stay the same."""

    def run(threads: int) -> Any:
        scenario = Scenario(virt=2 * GIB, sparsity=0.9, threads=threads, partition="interleaved")
        return run_batch(columns_of([scenario])).values[0]

    one, many = run(1), run(32)
    memory = list(range(10)) + [
        COLUMN_INDEX[c] for c in ("zap_calls", "ptes_zapped", "pte_tables_freed", "table_visits")
    ]
    np.testing.assert_array_equal(one[:, memory], many[:, memory])
    failed = many[POLICY_INDEX["merged"], COLUMN_INDEX["pmd_trylocks_failed"]]
    assert 0 < failed < many[POLICY_INDEX["merged"], COLUMN_INDEX["pmd_trylocks"]]
    assert many[POLICY_INDEX["merged"], COLUMN_INDEX["slow_paths"]] == failed
    assert many[POLICY_INDEX["merged"], COLUMN_INDEX["ptes_rescanned"]] == failed * 512
