"""Laws of the engine: rows do not depend on batches, order or shards; and what must never happen does not."""

from typing import Any

import numpy as np
import pytest

from engine.model.arch import GIB, MIB, TIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import run_batch, run_sharded, shards
from engine.walk.encode import encode

KIB = 1024
AT = {name: i for i, name in enumerate(COLUMNS)}
POLICY = {name: i for i, name in enumerate(POLICIES)}

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
    return {name: values[rows] for name, values in columns.items()}


def test_batch_equals_its_points_alone() -> None:
    """A point's rows do not depend on what it is batched with."""
    columns = columns_of(MIXED)
    together = run_batch(columns)
    starts = np.concatenate([[0], np.cumsum(together.round_counts)])
    for i in range(len(MIXED)):
        alone = run_batch(take(columns, [i]))
        np.testing.assert_array_equal(alone.values[0], together.values[i])
        np.testing.assert_array_equal(alone.rounds, together.rounds[starts[i] : starts[i + 1]])


def test_order_in_a_batch_changes_no_row() -> None:
    """Neither does its place in the batch."""
    columns = columns_of(MIXED)
    backwards = list(range(len(MIXED)))[::-1]
    np.testing.assert_array_equal(run_batch(take(columns, backwards)).values[::-1], run_batch(columns).values)


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(virt=4 * TIB, sparsity=0.999, cluster=2 * MIB, rounds=3, coverage=0.5),
        Scenario(virt=3 * TIB + 5 * MIB, sparsity=0.9999, zap=1 * GIB, order="random", rounds=2, coverage=0.8),
        Scenario(virt=2 * TIB, sparsity=0.9999, zap=64 * KIB, zap_shift=64 * KIB),
        Scenario(virt=3 * TIB, sparsity=0.9999, cluster=64 * KIB, zap=3 * MIB, refault=0.2, pinned=0.0001),
    ],
)
def test_shards_give_the_same_bits(scenario: Scenario, parts: int) -> None:
    """One point walked in pieces is the point walked whole."""
    columns = columns_of([scenario])
    whole, pieces = run_batch(columns), run_sharded(columns, 0, parts)
    np.testing.assert_array_equal(whole.values, pieces.values)
    np.testing.assert_array_equal(whole.rounds, pieces.rounds)


def test_shards_are_cut_where_calls_allow() -> None:
    """Calls of 2 MiB can be cut at each PUD table; a shifted grid, or threads, cannot."""

    def cuts(scenario: Scenario) -> int:
        return len(shards(encode(columns_of([scenario])).par[0], 4))

    assert cuts(Scenario(virt=4 * TIB, sparsity=0.9)) == 4
    assert cuts(Scenario(virt=4 * TIB, sparsity=0.9, zap_shift=4 * KIB)) == 1
    assert cuts(Scenario(virt=4 * TIB, sparsity=0.9, threads=2)) == 1
    assert cuts(Scenario(virt=GIB, sparsity=0.9)) == 1


@pytest.mark.parametrize("scenario", MIXED)
def test_what_always_holds(scenario: Scenario) -> None:
    """Tables are conserved, none keeps the most, what is needed is kept, and threads change no memory figure."""
    values = run_batch(columns_of([scenario])).values[0]
    column = {name: values[:, i] for name, i in AT.items()}
    balance = column["pte_tables_allocated"] - column["pte_tables_freed"]
    np.testing.assert_array_equal(balance, column["pte_tables_end"])
    assert (column["vm_pte_kib_end"] <= column["vm_pte_kib_end"][POLICY["none"]]).all()
    assert (column["vm_pte_kib_end"] >= column["vm_pte_kib_needed_end"]).all()
    assert column["pte_tables_empty_end"][POLICY["refcount"]] == 0
    assert column["pte_tables_empty_end"][POLICY["async"]] == 0
    assert (values >= 0).all()
    slot_rule = [POLICY[p] for p in ("second_walk", "seed_inline", "merged")]
    assert len(set(column["vm_pte_kib_end"][slot_rule])) == 1


def test_threads_change_no_memory_figure() -> None:
    """Contention costs locks and reads; what is resident and which tables stay does not move."""

    def run(threads: int) -> Any:
        scenario = Scenario(virt=2 * GIB, sparsity=0.9, threads=threads, partition="interleaved")
        return run_batch(columns_of([scenario])).values[0]

    one, many = run(1), run(32)
    memory = list(range(10)) + [AT[c] for c in ("zap_calls", "ptes_zapped", "pte_tables_freed", "table_visits")]
    np.testing.assert_array_equal(one[:, memory], many[:, memory])
    failed = many[POLICY["merged"], AT["pmd_trylocks_failed"]]
    assert 0 < failed < many[POLICY["merged"], AT["pmd_trylocks"]]
    assert many[POLICY["merged"], AT["slow_paths"]] == failed
    assert many[POLICY["merged"], AT["ptes_rescanned"]] == failed * 512
