"""Database: the views have the committed rows of all runs, each once, whatever happens to the parts."""

import os
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from sweep.common import schema
from sweep.common.errors import UserError
from sweep.query import conditions
from sweep.query.database import Database
from sweep.storage.local_storage import LocalStorage
from sweep.store.store import Store
from sweep.tables import parquet, result_tables
from tests.support.small_stores import (
    ROUNDS,
    commit,
    filled,
    opened,
    part_paths,
    point_id,
    results,
    rewrite_part,
    scenarios,
)

SQL_TYPES = {"int64": "BIGINT", "float64": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN"}


@pytest.mark.parametrize("view", schema.VIEWS)
def test_an_empty_store_has_all_views(tmp_path: Path, view: str) -> None:
    """In a store without runs every view has its declared columns, with their types."""
    with Database(Store(tmp_path / "nowhere")) as database:
        rows = database.query(f"DESCRIBE {view}").to_pylist()
        types = [(row["column_name"], row["column_type"]) for row in rows]
        count = database.query(f"SELECT count(*) AS n FROM {view}").to_pylist()[0]["n"]
    timestamp = "TIMESTAMP WITH TIME ZONE"
    assert types == [(c.name, SQL_TYPES.get(c.type, timestamp)) for c in schema.VIEWS[view]]
    assert (count > 0) == (view == "costs")


def test_committed_rows_are_in_the_views(tmp_path: Path) -> None:
    """The views have the rows of all parts."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 4)
        commit(writer, 4, 4)
    with Database(Store(tmp_path)) as database:
        got = database.query("SELECT policy, sum(ipis) AS ipis, count(*) AS n FROM outcomes GROUP BY policy")
        per_round = database.query("SELECT count(*) AS n, min(round) AS first FROM rounds").to_pylist()
    ipis = results(4).values[:, :, COLUMNS.index("ipis")].sum(axis=0) * 2
    expected = {policy: (int(ipis[i]), 8) for i, policy in enumerate(POLICIES)}
    assert {row["policy"]: (row["ipis"], row["n"]) for row in got.to_pylist()} == expected
    assert per_round == [{"n": 8 * len(POLICIES) * ROUNDS, "first": 1}]


def test_a_column_that_no_file_has_is_null(tmp_path: Path) -> None:
    """A file lacks columns that its run cannot have; each view has all its columns, in the declared order."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 4)
    (part,) = part_paths(tmp_path / writer.run_id, "outcomes")
    assert not {"install_ns", "trace"} & set(parquet.read_table(part, "").column_names)
    with Database(Store(tmp_path)) as database:
        told = database.query("SELECT DISTINCT install_ns, trace, pt_reclaim FROM outcomes").to_pylist()
        described = {view: database.query(f"DESCRIBE {view}").to_pylist() for view in schema.VIEWS}
    assert told == [{"install_ns": None, "trace": None, "pt_reclaim": None}]
    for view, columns in schema.VIEWS.items():
        assert [row["column_name"] for row in described[view]] == [column.name for column in columns]


def test_rounds_include_points_with_one_round(tmp_path: Path) -> None:
    """The view `rounds` has the engine's values for each round, also of points with one round, which are in no file."""
    scenarios = [
        Scenario(virt=64 << 20, sparsity=0.9, coverage=0.5, rounds=rounds, seed=rounds) for rounds in (1, 3, 1)
    ]
    columns, ids = columns_of(scenarios), [point_id(number) for number in range(3)]
    made = run_batch(columns)
    with opened(tmp_path) as writer:
        outcomes = result_tables.outcome_table(writer.run_id, ids, np.zeros(3, np.int64), columns, made)
        points = result_tables.point_table(writer.run_id, ids, np.zeros(3, np.int64), columns, status="ok")
        writer.commit(outcomes, result_tables.round_table(writer.run_id, ids, made), points)
    with Database(Store(tmp_path)) as database:
        told = database.query("SELECT * FROM rounds ORDER BY point_id, round").to_pylist()
    assert [(row["point_id"], row["round"]) for row in told[:: len(POLICIES)]] == [
        (ids[0], 1), (ids[1], 1), (ids[1], 2), (ids[1], 3), (ids[2], 1),
    ]  # fmt: skip
    place = {policy: number for number, policy in enumerate(POLICIES)}
    for at, row in enumerate(told):
        expected = made.rounds[at // len(POLICIES), place[row["policy"]]].tolist()
        assert [row[name] for name in ROUND_COLUMNS] == expected


def test_only_the_last_attempt_is_visible(tmp_path: Path) -> None:
    """`points` has one row for each point, its last attempt; `failures` has those that are not ok."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 3, "failed", error="it broke")
        commit(writer, 0, 1, "timeout", error="too long")
        commit(writer, 1, 1)
    with Database(Store(tmp_path)) as database:
        points = database.query("SELECT point_id, status, attempt FROM points ORDER BY ALL").to_pylist()
        failures = database.query("SELECT point_id, error FROM failures ORDER BY ALL").to_pylist()
    assert [(p["point_id"], p["status"], p["attempt"]) for p in points] == [
        (point_id(0), "timeout", 2),
        (point_id(1), "ok", 2),
        (point_id(2), "failed", 1),
    ]
    assert [(f["point_id"], f["error"]) for f in failures] == [(point_id(0), "too long"), (point_id(2), "it broke")]


def test_latest_and_one_run(tmp_path: Path) -> None:
    """`outcomes` has every run, `latest` the last launched of each grid; with `run` all views have only this one."""
    filled(tmp_path, 1, "first-00000001")
    filled(tmp_path, 2, "first-00000002")
    store = filled(tmp_path, 3, "second-00000003")

    def runs(view: str, run: str | None = None) -> list[str]:
        with Database(store, run=run) as database:
            return [
                row["run_id"] for row in database.query(f"SELECT DISTINCT run_id FROM {view} ORDER BY 1").to_pylist()
            ]

    assert runs("outcomes") == ["first-00000001", "first-00000002", "second-00000003"]
    assert runs("latest") == ["first-00000002", "second-00000003"]
    for view in ("outcomes", "latest", "rounds", "points", "runs"):
        assert runs(view, "first-00000001") == ["first-00000001"]


def test_reading_works_while_a_sweep_writes(tmp_path: Path) -> None:
    """A query sees the parts that are committed when it opens the store; half-written files do not disturb it."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2)
        folder = tmp_path / writer.run_id / "outcomes"
        (folder / ".part-000002.parquet.1.tmp").write_bytes(b"half")
        (folder / "part-000002.parquet").write_bytes(b"not yet committed")
        with Database(Store(tmp_path)) as database:
            assert database.query("SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 14}]
            status = database.query("SELECT status, ok FROM runs").to_pylist()
        assert status == [{"status": "running", "ok": 2}]


def test_derived_columns_of_different_grids_share_a_view(tmp_path: Path) -> None:
    """A column that only one grid derives is NULL for the points of other grids."""
    filled(tmp_path, 2, "first-00000001", derived={"pages": [1, 2]})
    store = filled(tmp_path, 2, "second-00000002", derived={"label": ["a", "b"], "pages": [0.5, None]})
    with Database(store) as database:
        rows = database.query("SELECT pages, label FROM points ORDER BY run_id, point_id").to_pylist()
    assert [(row["pages"], row["label"]) for row in rows] == [(1.0, None), (2.0, None), (0.5, "a"), (None, "b")]


def test_parts_of_an_older_version_lack_a_column(tmp_path: Path) -> None:
    """A column that older parts lack is NULL there; older and newer parts are read together."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 1)
        commit(writer, 1, 1)
    rewrite_part(tmp_path / writer.run_id, 1, "outcomes", lambda outcomes: outcomes.drop_columns(["force_breaks"]))
    with Database(Store(tmp_path)) as database:
        rows = database.query("SELECT count(*) AS n, count(force_breaks) AS breaks FROM outcomes").to_pylist()
    assert rows == [{"n": 14, "breaks": 7}]


@pytest.mark.parametrize("name", ["it's", "a b", "x[1]*?", 'q"uote', "ünï", "semi;colon"])
def test_odd_directory_names(tmp_path: Path, name: str) -> None:
    """The store's path may contain quotes, spaces and other special characters."""
    store = filled(tmp_path / name)
    (tmp_path / "x1ab").mkdir()
    with Database(store) as database:
        assert database.query("SELECT count(*) AS n FROM outcomes, points").to_pylist() == [{"n": 28 * 4}]


@pytest.mark.parametrize("table", schema.TABLES)
@pytest.mark.parametrize("damage", ["short", "noise", "gone"])
def test_a_damaged_part_is_named_and_left_out(tmp_path: Path, table: str, damage: str) -> None:
    """The rows of a damaged part are left out of every view, and a line names the file; all others are read."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 2)
        commit(writer, 2, 3)
    part = part_paths(tmp_path / writer.run_id, table)[0]
    data = part.read_bytes()
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(data[:200] if damage == "short" else data[:-300] + os.urandom(300))
    counts = "SELECT count(DISTINCT point_id) AS n FROM "
    with Database(Store(tmp_path)) as database:
        points = [database.query(counts + name).to_pylist()[0]["n"] for name in (table, *schema.TABLES)]
        problems = database.problems
    assert points == [3] * 4
    assert (damage == "gone" and table == "points") == (not problems)
    assert all(part.name in problem and "\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("table", "column", "sql"),
    [
        ("outcomes", "zap_calls", "SELECT sum(zap_calls) / 7 AS n FROM outcomes"),
        ("rounds", "vm_pte_kib_end", "SELECT sum(vm_pte_kib_end) > 0 AS n FROM rounds"),
        ("points", "seed", "SELECT count(*) + max(seed - seed) AS n FROM points"),
    ],
)
def test_a_part_with_a_column_of_another_type_is_left_out(tmp_path: Path, table: str, column: str, sql: str) -> None:
    """Whoever wrote it, with checksums that are right: it is named, and the others answer."""
    with opened(tmp_path) as writer:
        for number in range(2):
            commit(writer, number, 1)
    with Database(Store(filled(tmp_path / "alone", 1).root)) as database:
        expected = database.query(sql).to_pylist()

    def as_text(rows: pa.Table) -> pa.Table:
        return rows.set_column(rows.column_names.index(column), column, pa.array(["many"] * len(rows)))

    rewrite_part(tmp_path / writer.run_id, 2, table, as_text)
    with Database(Store(tmp_path)) as database:
        assert database.query(sql).to_pylist() == expected
        assert [f"column {column} is string, not int64" in problem for problem in database.problems] == [True]


def test_readers_see_each_row_once_while_parts_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that opened before a merge, and at any step of it, see every row once."""
    counted = "SELECT count(*) AS n, count(DISTINCT (point_id, policy)) AS distinct_n FROM outcomes"
    with opened(tmp_path) as writer, Database(Store(tmp_path)) as empty:
        assert empty.query(counted).to_pylist() == [{"n": 0, "distinct_n": 0}]
        for first in range(3):
            commit(writer, first, 1)
        early = [Database(Store(tmp_path)) for _ in range(14)]
        answers: list[dict[str, int]] = []
        real_put, real_delete = LocalStorage.put, LocalStorage.delete

        def look() -> None:
            with early.pop() as before, Database(Store(tmp_path)) as now:
                answers.extend(row for database in (before, now) for row in database.query(counted).to_pylist())

        def put(place: LocalStorage, name: str, data: bytes) -> None:
            real_put(place, name, data)
            look()

        def delete(place: LocalStorage, *names: str) -> None:
            for name in names:
                real_delete(place, name)
                look()

        monkeypatch.setattr(LocalStorage, "put", put)
        monkeypatch.setattr(LocalStorage, "delete", delete)
        writer.finish("ok", {})
    assert len(answers) == 2 * 13
    assert all(row == {"n": 21, "distinct_n": 21} for row in answers)
    for database in early:
        database.close()


def test_a_run_is_a_dataset_for_other_readers(tmp_path: Path) -> None:
    """Readers that take the columns from the first file find all: every file of a table has the same columns."""
    derived = conditions.evaluate(scenarios(7), {"big": "CASE WHEN virt > 150MiB THEN 'big' END"}, [])[0]["big"]
    with opened(tmp_path) as writer:
        for first, count, *how in ((0, 2), (2, 2), (4, 2, "failed"), (6, 1)):
            error, big = "it broke" if how else None, {"big": derived[first : first + count]}
            commit(writer, first, count, *how, error=error, derived=big)
    for name, rows in {"outcomes": 5 * len(POLICIES), "rounds": 5 * len(POLICIES) * ROUNDS, "points": 7}.items():
        parts = [str(path) for path in part_paths(tmp_path / writer.run_id, name)]
        table = pyarrow.dataset.dataset(parts).to_table()
        assert table.num_rows == rows
        assert len({tuple(pq.read_schema(part).names) for part in parts}) == 1
        assert duckdb.sql(f"SELECT count(*) FROM read_parquet({parts})").fetchall() == [(rows,)]
    assert table.column("error").to_pylist().count("it broke") == 2
    assert table.column("big").to_pylist() == [None] * 2 + ["big"] * 5
    assert table.column("res").to_pylist().count(None) == 3


def test_a_run_that_cannot_be_listed_is_one_problem(tmp_path: Path) -> None:
    """A file in the place of a table's folder: the other runs answer, and only a query of that run is refused."""
    filled(tmp_path, 2)
    store = filled(tmp_path, 3, name="second-0123abcd")
    folder = tmp_path / "first-0123abcd" / "outcomes"
    folder.rename(folder.with_name("elsewhere"))
    folder.touch()
    with Database(store) as database:
        assert database.query("SELECT DISTINCT run_id FROM outcomes").to_pylist() == [{"run_id": "second-0123abcd"}]
        (problem,) = database.problems
        assert "first-0123abcd/outcomes: Not a directory" in problem
    with pytest.raises(UserError, match="Not a directory"):
        Database(store, run="first")
