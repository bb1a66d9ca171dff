"""Sealed connections: nothing but the committed parts can be read, limits hold, errors are one line."""

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sweep.common.errors import UserError
from sweep.query import sealed_connection
from sweep.query.database import Database
from sweep.store.store import Store
from tests.support.small_stores import filled, part_paths

FORBIDDEN = [
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


@pytest.mark.parametrize("text", FORBIDDEN)
def test_a_store_is_sealed_off(tmp_path: Path, text: str) -> None:
    """Forbidden SQL reads nothing but the committed parts, writes no file and changes no setting."""
    store = filled(tmp_path / "store")
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nsesame\n")
    hidden = filled(tmp_path / "hidden")
    part = part_paths(store.runs()[0].path, "outcomes")[0]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {"secret": secret, "folder": tmp_path, "part": part, "run": part.parent.parent, "target": tmp_path / "out"}
    with Database(store) as database, pytest.raises(UserError) as error:
        database.query(text.format(**names))
    assert "\n" not in str(error.value)
    assert "sesame" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert hidden


def test_python_variables_are_no_tables(tmp_path: Path) -> None:
    """A query cannot read a variable of this program."""
    hidden = pq.ParquetFile(part_paths(filled(tmp_path).runs()[0].path, "points")[0]).read()
    with Database(Store(tmp_path)) as database, pytest.raises(UserError, match="unknown view 'hidden'"):
        database.query("SELECT * FROM hidden")
    assert hidden.num_rows


def test_a_query_has_a_time_limit(tmp_path: Path) -> None:
    """A query that takes too long is stopped with one line, and the connection is usable again."""
    with Database(Store(tmp_path)) as database:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"longer than 0\.2 s"):
            database.query("SELECT sum(a * b) FROM range(10000000) x(a), range(1000000) y(b)", 0.2)
        assert time.monotonic() - began < 5
        assert database.query("SELECT 1 AS one", 60).to_pylist() == [{"one": 1}]


def test_ctrl_c_ends_a_query(tmp_path: Path) -> None:
    """SIGINT raises KeyboardInterrupt also while DuckDB computes."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with Database(Store(tmp_path)) as database, pytest.raises(KeyboardInterrupt):
        database.query("SELECT sum(a * b) FROM range(10000000) x(a), range(1000000) y(b)", 20)
    timer.join()


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that needs too much memory ends with one line, and spills nothing to disk."""
    monkeypatch.setattr(sealed_connection, "memory_limit_mib", lambda *_: 64)
    monkeypatch.chdir(tmp_path)
    with Database(Store(tmp_path)) as database, pytest.raises(UserError, match="more memory"):
        database.query("SELECT a FROM range(30000000) x(a) ORDER BY hash(a)")
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT nosuch FROM outcomes", 'Referenced column "nosuch" not found'),
        ("SELECT 1 FROM outcome", "unknown view 'outcome'; did you mean 'outcomes'"),
        ("SELECT (1", r"\(line 1, column 9\)"),
        ("SELECT 1\nFROM runs\nWHERE engine = = 1", r"\(line 3, column 16\)"),
        ("SELECT order FROM outcomes", 'order is a keyword of SQL; a column of this name is "order"'),
        ("SELECT policy, like FROM outcomes", 'a column of this name is "like"'),
        ("SELECT zap like FROM outcomes", 'a column of this name is "like"'),
        ("SELECT 1 FROM outcomes WHERE when = 'zap'", 'a column of this name is "when"'),
        ("SELECT policy::INT FROM outcomes", "Could not convert string 'none'"),
        ("PIVOT outcomes ON policy", r"IN \('none', 'merged'\)"),
        ("SELECT 1; SELECT 2", "2 statements; one SELECT is allowed"),
        ("COPY runs TO 'x'", "COPY is not allowed"),
        ("SELECT ?", "SQL: "),
    ],
)
def test_errors_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    """The line says what is wrong, where, and which names exist."""
    with Database(filled(tmp_path)) as database, pytest.raises(UserError, match=message) as error:
        database.query(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 350
