"""Values of every type of DuckDB are right in every output format, and answers of any size are streamed."""

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from sweep.cli.main import main
from tests.paths import ROOT

Sweep = Callable[..., tuple[int, str, str]]
SQL = "SELECT * FROM test_all_types()"
LEAST_AND_GREATEST = {
    "bool": (False, True),
    "bigint": (-(2**63), 2**63 - 1),
    "ubigint": (0, 2**64 - 1),
    "hugeint": (-(2**127), 2**127 - 1),
    "uhugeint": (0, 2**128 - 1),
    "date": ("5877642-06-25 (BC)", "5881580-07-10"),
    "time": ("00:00:00", "24:00:00"),
    "time_tz": ("00:00:00+15:59:59", "24:00:00-15:59:59"),
    "timestamp": ("290309-12-22 (BC) 00:00:00", "294247-01-10 04:00:54.775806"),
    "timestamp_ns": ("1677-09-22T00:00:00", "2262-04-11T23:47:16.854775806"),
    "timestamp_tz": ("290309-12-22 (BC) 00:00:00+00:00", "294247-01-10 04:00:54.775806+00:00"),
    "double": (-sys.float_info.max, sys.float_info.max),
    "dec_4_1": (-999.9, 999.9),
    "dec38_10": ("-9999999999999999999999999999.9999999999", "9999999999999999999999999999.9999999999"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "interval": ("00:00:00", "83 years 3 months 999 days 00:16:39.999999"),
    "blob": (b"thisisalongblob\0withnullbytes".hex(), b"\0\0\0a".hex()),
    "bit": ("0010001001011100010101011010111", "10101"),
    "small_enum": ("DUCK_DUCK_ENUM", "GOOSE"),
    "int_array": ([], [42, 999, None, None, -42]),
    "double_array": ([], [42.0, None, None, None, None, -42.0]),
    "date_array": ([], ["1970-01-01", "infinity", "-infinity", None, "2022-05-12"]),
    "struct": ({"a": None, "b": None}, {"a": 42, "b": "🦆🦆🦆🦆🦆🦆"}),
    "map": ({}, {"key1": "🦆🦆🦆🦆🦆🦆", "key2": "goose"}),
    "union": ({"name": "Frank"}, {"age": 5}),
    "fixed_int_array": ([None, 2, 3], [4, 5, 6]),
    "tuple": ([None, None], [42, "🦆🦆🦆🦆🦆🦆"]),
}


@pytest.fixture
def sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sweep:
    (tmp_path / "store").mkdir()

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--results", str(tmp_path / "store")])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_json_has_every_type(sweep: Sweep) -> None:
    """Numbers as numbers, whole ones of any length; the rest as text; nested values as such; NULL as null."""
    code, out, err = sweep("query", SQL, "--json")
    assert (code, err) == (0, "")
    least, greatest, nulls = json.loads(out)
    assert {name: (least[name], greatest[name]) for name in LEAST_AND_GREATEST} == LEAST_AND_GREATEST
    assert set(nulls.values()) == {None}
    assert len(least) == 59


def test_csv_has_every_type(sweep: Sweep) -> None:
    """The same values as JSON has, as text; nested ones as JSON."""
    rows = list(csv.DictReader(io.StringIO(sweep("query", SQL, "--format", "csv")[1])))
    assert len(rows) == 3
    for name, values in LEAST_AND_GREATEST.items():
        for row, value in zip(rows, values, strict=False):
            assert _same(row[name], value), name
    assert set(rows[2].values()) == {""}


def _same(cell: str, value: Any) -> bool:
    if isinstance(value, list | dict):
        parsed = json.loads(cell, parse_constant=lambda _: None)
        return bool(parsed == value)
    if isinstance(value, bool):
        return cell == str(value).lower()
    return float(cell) == value if isinstance(value, float) else cell == str(value)


def test_parquet_has_every_type(sweep: Sweep, tmp_path: Path) -> None:
    """What Parquet has not is text."""
    assert sweep("query", SQL, "-o", str(tmp_path / "all.parquet"))[0] == 0
    for name, (least, greatest) in LEAST_AND_GREATEST.items():
        found = pq.read_table(tmp_path / "all.parquet", columns=[name]).column(0).to_pylist()
        for value, expected in zip(found, (least, greatest, None), strict=True):
            assert _plain(value, expected) == expected, name


def _plain(value: Any, expected: Any) -> Any:
    """A value of a Parquet file in the types of LEAST_AND_GREATEST."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(expected, list | dict) and isinstance(value, str):
        return json.loads(value)
    if isinstance(expected, dict):
        return dict(value)
    if isinstance(expected, list):
        return [None if isinstance(item, float) and abs(item) != 42 else item for item in value]
    is_number = isinstance(expected, int | float) and not isinstance(expected, bool)
    if is_number and isinstance(value, str):
        return int(value)
    if isinstance(expected, str):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    return float(value) if isinstance(expected, float) else value


@pytest.mark.parametrize("form", ["table", "md"])
def test_tables_have_every_type(sweep: Sweep, form: str) -> None:
    """As text for people."""
    code, out, err = sweep("query", SQL, "--format", form)
    assert (code, err) == (0, "")
    for text in ("340,282,366,920,938,463,463,374,607,431,768,211,455", "24:00:00", "83 years 3 months 999 days"):
        assert text in out
    assert "5881580-07-10" in out


def test_whole_sums_are_integers_in_parquet(sweep: Sweep, tmp_path: Path) -> None:
    """DuckDB's sums have 128 bits, which few readers of Parquet know."""
    sql = "SELECT sum(i) AS s, 1.50::DECIMAL(9, 2) AS d, TIMESTAMPTZ '2026-11-29 12:00:00+00' AS t FROM range(5) r(i)"
    assert sweep("query", sql, "-o", str(tmp_path / "sum.parquet"))[0] == 0
    table = pq.read_table(tmp_path / "sum.parquet")
    assert [str(field.type) for field in table.schema] == ["int64", "decimal128(9, 2)", "timestamp[us, tz=UTC]"]
    assert json.loads(sweep("query", sql, "--json")[1]) == [{"s": 10, "d": 1.5, "t": "2026-11-29T12:00:00+00:00"}]


def test_csv_is_quoted_where_it_must_be(sweep: Sweep) -> None:
    """Names that repeat, quotes, commas, line ends and a lone empty cell survive; the order of rows does, too."""
    values = "(1, 'a,b', 'say \"x\"'), (2, e'two\\nlines', ''), (3, NULL, 'z')"
    sql = f"SELECT i AS a, b, c AS a FROM (VALUES {values}) v(i, b, c) ORDER BY i DESC"
    rows = list(csv.reader(io.StringIO(sweep("query", sql, "--format", "csv")[1])))
    assert rows == [["a", "b", "a"], ["3", "", "z"], ["2", "two\nlines", ""], ["1", "a,b", 'say "x"']]
    assert sweep("query", "SELECT '' AS x -- a comment", "--format", "csv")[1] == 'x\n""\n'


def test_an_output_file_is_replaced_only_if_all_is_written(sweep: Sweep, tmp_path: Path) -> None:
    """A query that fails late leaves the former file."""
    target = tmp_path / "rows.csv"
    target.write_text("before\n")
    sql = "SELECT CASE WHEN i < 400000 THEN i ELSE error('late') END AS i FROM range(400001) r(i)"
    code, _, err = sweep("query", sql, "-o", str(target))
    assert (code, err.count("\n")) == (2, 1)
    assert target.read_text() == "before\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "json", "md", "table", "parquet"])
def test_the_time_limit_holds_for_printing_too(tmp_path: Path, form: str) -> None:
    """A long answer ends with one line at the limit, in little memory."""
    words = ["query", "SELECT i, i::VARCHAR AS a FROM range(1000000000) r(i)", "--timeout", "2", "--rows", "0"]
    command = [sys.executable, "-m", "sweep.cli", *words, "--format", form, "--results", str(tmp_path)]
    began, peak_bytes = time.monotonic(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, watched.memory_info().rss)
            time.sleep(0.05)
        assert process.stderr is not None
        err = process.stderr.read()
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert "took longer than 2 s" in err
    assert time.monotonic() - began < 60
    assert peak_bytes < 700 << 20
