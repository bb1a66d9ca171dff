"""Cost tables: reading, checking, and the SQL of cost_ns."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.model.policy import BUILT_IN
from engine.model.results import WORK
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from sweep.common import cost_tables
from sweep.common.errors import UserError
from sweep.query.database import Database, cost_ns
from sweep.store.store import Store
from sweep.tables import arrow_tables, result_tables
from tests.support.small_stores import filled


def test_cost_is_the_counters_times_the_table(tmp_path: Path) -> None:
    """cost_ns is the sum of counters times prices, with any cost table; an unknown table is an error."""
    store = filled(tmp_path, 2)
    prices = {cost.counter: cost.ns for cost in cost_tables.load_all()["published"].costs}
    look_ns = prices.pop("ptes_looked_at")
    mine = {"schema": "sweep-costs/1", "name": "mine", "counters": {"ipis": {"ns": 2}}}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "here.json").write_text(json.dumps({**mine, "name": "here"}))
    with Database(store) as database:
        for row in database.query("SELECT * FROM outcomes").to_pylist():
            pages = row["zap"] // 4096
            looked_at = min(row["table_visits"] * min(pages, 512), row["zap_calls"] * pages)
            assert row["cost_ns"] == pytest.approx(
                looked_at * look_ns + sum(row[name] * ns for name, ns in prices.items())
            )
        assert database.query("SELECT DISTINCT name FROM costs ORDER BY 1").column(0).to_pylist() == [
            "here",
            "published",
        ]
    for cost in ("here", str(tmp_path / "mine.json")):
        with Database(store, cost) as database:
            assert database.query("SELECT count(*) AS n FROM latest WHERE cost_ns <> 2 * ipis").to_pylist() == [
                {"n": 0}
            ]
    with pytest.raises(UserError, match=r"unknown cost table 'publishd'; did you mean 'published'"):
        Database(store, "publishd")


def test_the_published_costs_are_complete() -> None:
    """Every counter has a price with source and machine, or names the counter that covers it."""
    tree = json.loads((cost_tables.SHIPPED / "published.json").read_text())
    assert sorted([*tree["counters"], *tree["unpriced"]]) == sorted([*WORK, "ptes_looked_at"])
    for cost in cost_tables.load_all()["published"].costs:
        assert all((cost.covers, cost.source, cost.machine, cost.date)), cost.counter
        assert cost.guess == ("guess" in cost.source), cost.counter


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "not a cost table"),
        ('{"schema": "sweep-costs/1"}', "counters"),
        ('{"schema": "sweep-costs/1", "counters": {"ipi": {"ns": 1}}}', "did you mean 'ipis'"),
        ('{"schema": "sweep-costs/1", "counters": {}, "cpus": 0}', "cpus: a whole number"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": -1}}}', r"counters\.ipis\.ns"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": true}}}', r"counters\.ipis\.ns"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": 3}}', r"counters\.ipis\.ns"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": 1e400}}}', r"counters\.ipis\.ns"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": NaN}}}', r"counters\.ipis\.ns"),
        (f'{{"schema": "sweep-costs/1", "counters": {{"ipis": {{"ns": {10**400}}}}}}}', r"counters\.ipis\.ns"),
        (f'{{"schema": "sweep-costs/1", "counters": {{}}, "cpus": {10**400}}}', "cpus: a whole number"),
        ('{"schema": "sweep-costs/1", "counters": {}, "name": [5]}', "name: a text"),
        ('{"schema": "sweep-costs/1", "counters": {}, "name": "\\ud800"}', "name: a text"),
        (
            '{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": 1, "source": 5}}}',
            r"counters\.ipis: source: a text",
        ),
        ("[" * 100_000, "not JSON"),
        ("9" * 100_000, "not JSON"),
    ],
)
def test_bad_cost_tables(tmp_path: Path, text: str, told: str) -> None:
    """An error about a cost table names the file and what is wrong with it."""
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=told) as error:
        cost_tables.load(tmp_path / "bad.json")
    assert str(error.value).startswith(str(tmp_path / "bad.json"))


MIB, KIB = 1 << 20, 1 << 10
COUNTED = [
    (Scenario(virt=4 * MIB, sparsity=0, zap=64 * KIB), "none", {"ptes_looked_at": 1024, "tables_absent": 0}),
    (Scenario(virt=4 * MIB, sparsity=0, zap=2 * MIB, zap_shift=MIB), "none", {"ptes_looked_at": 1024, "flushes": 2}),
    (Scenario(virt=2 * MIB, sparsity=0, zap=64 * KIB, cluster=MIB), "none", {"flushes": 32}),
    (Scenario(virt=2 * MIB, sparsity=0, zap=MIB, cluster=64 * KIB), "none", {"flushes": 2}),
    (Scenario(virt=2 * MIB, res=64 * KIB, zap=64 * KIB, cluster=64 * KIB), "none", {"flushes": 1}),
    (Scenario(virt=64 * KIB, sparsity=0), "none", {"ptes_looked_at": 16, "tables_absent": 0, "flushes": 1}),
    (Scenario(virt=64 * MIB, sparsity=1, zap=32 * MIB), "merged", {"ptes_looked_at": 0, "tables_absent": 32}),
    (Scenario(virt=64 * MIB, sparsity=0, zap=32 * MIB), "merged", {"calls_freeing": 2, "interrupts": 0}),
    (Scenario(virt=64 * MIB, sparsity=0, threads=8), "merged", {"flushes": 32, "interrupts": 32 * 3}),
    (Scenario(virt=64 * MIB, sparsity=1, threads=2), "merged", {"flushes": 0, "interrupts": 32}),
    (Scenario(virt=MIB, sparsity=0, rounds=3, advice="free"), "none", {"ptes_marked": 256, "ptes_marked_again": 512}),
    (Scenario(virt=MIB, sparsity=0, rounds=3, advice="free"), "munmap", {"ptes_marked": 0, "ptes_marked_again": 0}),
    (Scenario(virt=2 * MIB, sparsity=0, zap=32 * MIB, arch="arm64-16k"), "none", {"ptes_looked_at": 128}),
]


def rows_of(scenario: Scenario, policies: tuple[str, ...]) -> arrow_tables.Table:
    columns = columns_of([scenario])
    results = run_batch(columns, [BUILT_IN[name] for name in policies])
    return result_tables.outcome_table("r", ["p"], np.zeros(1, np.int64), columns, results, policies)


@pytest.mark.parametrize(("scenario", "policy", "counts"), COUNTED)
def test_what_follows_from_the_counters(scenario: Scenario, policy: str, counts: dict[str, int]) -> None:
    """Derived counts are equal to hand-computed ones, on a machine with four CPUs."""
    found = {}
    for name in counts:
        cost = cost_tables.Cost(name, 1.0, "", "", "", "", guess=False)
        (found[name],) = cost_ns(rows_of(scenario, (policy,)), cost_tables.CostTable("one", "", (cost,), cpus=4))
    assert found == counts


def test_a_count_per_table_is_not_free() -> None:
    """With small calls over many rounds, counting costs refcount more than freeing tables saves."""
    scenario = Scenario(virt=64 * MIB, sparsity=0.9, cluster=64 * KIB, zap=64 * KIB, rounds=3)
    none, refcount = cost_ns(rows_of(scenario, ("none", "refcount")), cost_tables.load_all()["published"])
    assert refcount > none


def test_a_bad_table_in_a_store_is_one_problem(tmp_path: Path) -> None:
    """A cost table that cannot be read is a problem, and queries use the others."""
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "bad.json").write_text("{")
    with Database(Store(tmp_path)) as database:
        assert "published" in {row["name"] for row in database.query("SELECT name FROM costs").to_pylist()}
        (problem,) = database.problems
    assert problem.startswith(f"{tmp_path}/costs/bad.json: not JSON (")
