"""What a counter costs, and who says so."""

import json
from pathlib import Path

import pytest

from engine.outcome import WORK
from sweep import costtable
from sweep.errors import UserError
from sweep.sql import Database
from tests.sweep.stores import filled


def test_cost_is_the_counters_times_the_table(tmp_path: Path) -> None:
    """cost_ns is the same sum in SQL and by hand; another table needs no new run; what is unknown has no cost."""
    store = filled(tmp_path, 2)
    prices = {cost.counter: cost.ns for cost in costtable.load_all()["published"].costs}
    mine = {"schema": "sweep-costs/1", "name": "mine", "counters": {"ipis": {"ns": 2}}}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "here.json").write_text(json.dumps({**mine, "name": "here"}))
    with Database(store) as database:
        for row in database.query("SELECT * FROM outcomes").to_pylist():
            assert row["cost_ns"] == pytest.approx(sum(row[name] * ns for name, ns in prices.items()))
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
    """Every counter has a price with a source and a machine, or says which counter covers it."""
    tree = json.loads((costtable.SHIPPED / "published.json").read_text())
    assert sorted([*tree["counters"], *tree["unpriced"]]) == sorted([*WORK])
    for cost in costtable.load_all()["published"].costs:
        assert all((cost.covers, cost.source, cost.machine, cost.date)), cost.counter
        assert cost.guess == ("guess" in cost.source), cost.counter


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "not a cost table"),
        ('{"schema": "sweep-costs/1"}', "counters"),
        ('{"schema": "sweep-costs/1", "counters": {"ipi": {"ns": 1}}}', "did you mean 'ipis'"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": -1}}}', r"counters\.ipis\.ns"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": {"ns": true}}}', r"counters\.ipis\.ns"),
        ('{"schema": "sweep-costs/1", "counters": {"ipis": 3}}', r"counters\.ipis\.ns"),
    ],
)
def test_bad_cost_tables(tmp_path: Path, text: str, told: str) -> None:
    """A cost table that is wrong is named with what is wrong."""
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=told) as error:
        costtable.load(tmp_path / "bad.json")
    assert str(error.value).startswith(str(tmp_path / "bad.json"))
