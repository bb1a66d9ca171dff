"""Questions to the store: right, sealed off, and answered in a line when they are wrong."""

import os
import signal
import threading
import time
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
from sweep.query import conditions, sealed_connection
from sweep.query.database import Database
from sweep.store import arrow_tables
from sweep.store.storage import Directory
from sweep.store.store import Store
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

TRESPASSES = [
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM read_text('{part}/../../../../secret.csv')",
    "SELECT * FROM read_text('{run}/run.json')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_csv('file://{secret}')",
    "SELECT * FROM 'http://127.0.0.1:1/x.csv'",
    "SELECT * FROM read_duckdb('{folder}/x.db')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{target}''')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{secret}'')'))",
    "SELECT getenv('HOME')",
    "SELECT * FROM hidden",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = '{target}')",
    "SELECT * FROM enable_profiling('json')",
    "COPY (SELECT 1) TO '{target}'",
    "COPY (SELECT 1) TO '{part}'",
    "COPY (PIVOT runs ON engine) TO '{target}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{part}'",
    "CREATE TABLE t AS PIVOT runs ON engine",
    "ATTACH '{target}' AS other",
    "EXPORT DATABASE '{target}'",
    "IMPORT DATABASE '{folder}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE SECRET s (TYPE s3)",
    "SET enable_external_access = true",
    "SET memory_limit = '1TB'",
    "RESET lock_configuration",
    "PRAGMA threads = 1",
    "CALL pragma_version()",
    "CREATE TABLE t (a INT)",
    "CREATE OR REPLACE VIEW runs AS SELECT 1",
    "DROP VIEW runs",
    "INSERT INTO runs VALUES (1)",
    "DELETE FROM runs",
    "UPDATE runs SET engine = 'x'",
    "WITH x AS (INSERT INTO runs VALUES (1) RETURNING *) SELECT * FROM x",
    "BEGIN",
    "CHECKPOINT",
    "PREPARE p AS SELECT 1",
    "SELECT 1; COPY (SELECT 1) TO '{target}'",
    "",
    "-- nothing",
]


@pytest.mark.parametrize("view", schema.VIEWS)
def test_an_empty_store_has_all_views(tmp_path: Path, view: str) -> None:
    """Every declared column is there with its type before anything was run."""
    with Database(Store(tmp_path / "nowhere")) as database:
        rows = database.query(f"DESCRIBE {view}").to_pylist()
        types = [(row["column_name"], row["column_type"]) for row in rows]
        count = database.query(f"SELECT count(*) AS n FROM {view}").to_pylist()[0]["n"]
    timestamp = "TIMESTAMP WITH TIME ZONE"
    assert types == [(c.name, SQL_TYPES.get(c.type, timestamp)) for c in schema.VIEWS[view]]
    assert (count > 0) == (view == "costs")


def test_rows_come_back(tmp_path: Path) -> None:
    """What was committed is what is asked, in whatever number of parts."""
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
    """A file lacks what its run cannot have; each view has all of its columns, in their order."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 4)
    (part,) = part_paths(tmp_path / writer.run_id, "outcomes")
    assert not {"install_ns", "trace"} & set(arrow_tables.read_part(part, "").column_names)
    with Database(Store(tmp_path)) as database:
        told = database.query("SELECT DISTINCT install_ns, trace, pt_reclaim FROM outcomes").to_pylist()
        described = {view: database.query(f"DESCRIBE {view}").to_pylist() for view in schema.VIEWS}
    assert told == [{"install_ns": None, "trace": None, "pt_reclaim": None}]
    for view, columns in schema.VIEWS.items():
        assert [row["column_name"] for row in described[view]] == [column.name for column in columns]


def test_the_view_of_rounds_has_those_of_points_with_one_too(tmp_path: Path) -> None:
    """Whatever lies in which file: it is what the engine says of each round."""
    scenarios = [
        Scenario(virt=64 << 20, sparsity=0.9, coverage=0.5, rounds=rounds, seed=rounds) for rounds in (1, 3, 1)
    ]
    columns, ids = columns_of(scenarios), [point_id(number) for number in range(3)]
    made = run_batch(columns)
    with opened(tmp_path) as writer:
        outcomes = arrow_tables.outcome_table(writer.run_id, ids, np.zeros(3, np.int64), columns, made)
        points = arrow_tables.point_table(writer.run_id, ids, np.zeros(3, np.int64), columns, status="ok")
        writer.commit(outcomes, arrow_tables.round_table(writer.run_id, ids, made), points)
    with Database(Store(tmp_path)) as database:
        told = database.query("SELECT * FROM rounds ORDER BY point_id, round").to_pylist()
    assert [(row["point_id"], row["round"]) for row in told[:: len(POLICIES)]] == [
        (ids[0], 1), (ids[1], 1), (ids[1], 2), (ids[1], 3), (ids[2], 1),
    ]  # fmt: skip
    place = {policy: number for number, policy in enumerate(POLICIES)}
    for at, row in enumerate(told):
        expected = made.rounds[at // len(POLICIES), place[row["policy"]]].tolist()
        assert [row[name] for name in ROUND_COLUMNS] == expected


def test_only_the_last_attempt_shows(tmp_path: Path) -> None:
    """A point is one row of points, whatever it took; failures are those that are still not ok."""
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
    """outcomes has every run, latest the last launched of each grid, --run just one."""
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
    """A query sees what is committed when it opens the store, and nothing half-written breaks it."""
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
    """A column that only one grid derives is NULL for the points of others."""
    filled(tmp_path, 2, "first-00000001", derived={"pages": [1, 2]})
    store = filled(tmp_path, 2, "second-00000002", derived={"label": ["a", "b"], "pages": [0.5, None]})
    with Database(store) as database:
        rows = database.query("SELECT pages, label FROM points ORDER BY run_id, point_id").to_pylist()
    assert [(row["pages"], row["label"]) for row in rows] == [(1.0, None), (2.0, None), (0.5, "a"), (None, "b")]


def test_parts_of_an_older_version_lack_a_column(tmp_path: Path) -> None:
    """A column that came later is NULL in older parts, and they stay readable beside newer ones."""
    with opened(tmp_path) as writer:
        commit(writer, 0, 1)
        commit(writer, 1, 1)
    rewrite_part(tmp_path / writer.run_id, 1, "outcomes", lambda outcomes: outcomes.drop_columns(["force_breaks"]))
    with Database(Store(tmp_path)) as database:
        rows = database.query("SELECT count(*) AS n, count(force_breaks) AS breaks FROM outcomes").to_pylist()
    assert rows == [{"n": 14, "breaks": 7}]


@pytest.mark.parametrize("name", ["it's", "a b", "x[1]*?", 'q"uote', "ünï", "semi;colon"])
def test_odd_directory_names(tmp_path: Path, name: str) -> None:
    """The store may lie anywhere."""
    store = filled(tmp_path / name)
    (tmp_path / "x1ab").mkdir()
    with Database(store) as database:
        assert database.query("SELECT count(*) AS n FROM outcomes, points").to_pylist() == [{"n": 28 * 4}]


@pytest.mark.parametrize("text", TRESPASSES)
def test_the_store_is_sealed(tmp_path: Path, text: str) -> None:
    """Nothing outside of the committed parts is read, nothing at all is written or set."""
    store = filled(tmp_path / "store")
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nsesame\n")
    hidden = filled(tmp_path / "hidden")
    part = part_paths(store.runs()[0].path, "outcomes")[0]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {"secret": secret, "folder": tmp_path, "part": part, "run": part.parent.parent, "target": tmp_path / "out"}
    with Database(store) as database, pytest.raises(UserError) as told:
        database.query(text.format(**names))
    assert "\n" not in str(told.value)
    assert "sesame" not in str(told.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert hidden


def test_a_query_has_a_time_limit(tmp_path: Path) -> None:
    """A query without end is stopped, in a line, and the connection can be asked again."""
    with Database(Store(tmp_path)) as database:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"longer than 0\.2 s"):
            database.query("SELECT sum(a * b) FROM range(10000000) x(a), range(1000000) y(b)", 0.2)
        assert time.monotonic() - began < 5
        assert database.query("SELECT 1 AS one", 60).to_pylist() == [{"one": 1}]


def test_ctrl_c_ends_a_query(tmp_path: Path) -> None:
    """An interrupt is an interrupt, also within DuckDB."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with Database(Store(tmp_path)) as database, pytest.raises(KeyboardInterrupt):
        database.query("SELECT sum(a * b) FROM range(10000000) x(a), range(1000000) y(b)", 20)
    timer.join()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELECT nosuch FROM outcomes", 'Referenced column "nosuch" not found'),
        ("SELECT 1 FROM outcome", "unknown view 'outcome'; did you mean 'outcomes'"),
        ("SELECT (1", r"\(line 1, column 9\)"),
        ("SELECT 1\nFROM runs\nWHERE engine = = 1", r"\(line 3, column 16\)"),
        ("SELECT order FROM outcomes", 'must be quoted: "order"'),
        ("SELECT policy::INT FROM outcomes", "Could not convert string 'none'"),
        ("PIVOT outcomes ON policy", r"IN \('none', 'merged'\)"),
        ("SELECT 1; SELECT 2", "2 statements; one SELECT is allowed"),
        ("COPY runs TO 'x'", "COPY is not allowed"),
        ("SELECT ?", "SQL: "),
    ],
)
def test_errors_are_one_line(tmp_path: Path, text: str, told: str) -> None:
    """What is wrong, where, and which names there are."""
    with Database(filled(tmp_path)) as database, pytest.raises(UserError, match=told) as error:
        database.query(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 350


@pytest.mark.parametrize("table", schema.TABLES)
@pytest.mark.parametrize("damage", ["short", "noise", "gone"])
def test_a_damaged_part_is_named_and_left_out(tmp_path: Path, table: str, damage: str) -> None:
    """Its rows of every table are left out with a line that names the file; all others are there."""
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


def test_python_is_out_of_reach(tmp_path: Path) -> None:
    """A variable of this program is no table."""
    hidden = pq.ParquetFile(part_paths(filled(tmp_path).runs()[0].path, "points")[0]).read()
    with Database(Store(tmp_path)) as database, pytest.raises(UserError, match="unknown view 'hidden'"):
        database.query("SELECT * FROM hidden")
    assert hidden.num_rows


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that needs too much memory ends with a line, not with the machine; it spills nothing to disk."""
    monkeypatch.setattr(sealed_connection, "memory_limit_mib", lambda: 64)
    monkeypatch.chdir(tmp_path)
    with Database(Store(tmp_path)) as database, pytest.raises(UserError, match="more memory"):
        database.query("SELECT a FROM range(30000000) x(a) ORDER BY hash(a)")
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_readers_see_each_row_once_while_parts_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two steps of a merge, for who looks then and for who looked before it began."""
    counted = "SELECT count(*) AS n, count(DISTINCT (point_id, policy)) AS distinct_n FROM outcomes"
    with opened(tmp_path) as writer, Database(Store(tmp_path)) as empty:
        assert empty.query(counted).to_pylist() == [{"n": 0, "distinct_n": 0}]
        for first in range(3):
            commit(writer, first, 1)
        early = [Database(Store(tmp_path)) for _ in range(14)]
        seen: list[dict[str, int]] = []
        real_put, real_delete = Directory.put, Directory.delete

        def look() -> None:
            with early.pop() as before, Database(Store(tmp_path)) as now:
                seen.extend(row for database in (before, now) for row in database.query(counted).to_pylist())

        def put(place: Directory, name: str, data: bytes) -> None:
            real_put(place, name, data)
            look()

        def delete(place: Directory, *names: str) -> None:
            for name in names:
                real_delete(place, name)
                look()

        monkeypatch.setattr(Directory, "put", put)
        monkeypatch.setattr(Directory, "delete", delete)
        writer.finish("ok", {})
    assert len(seen) == 2 * 13
    assert all(row == {"n": 21, "distinct_n": 21} for row in seen)
    for database in early:
        database.close()


def test_a_run_is_a_dataset_for_anybody(tmp_path: Path) -> None:
    """Plain readers take the columns of the first file: every file of a table has them all, whatever its rows hold."""
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
