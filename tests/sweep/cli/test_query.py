"""The commands query, ls, show and rm."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.model.policy import POLICIES
from engine.model.results import Results
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import run_batch
from sweep.cli import output_formats
from sweep.cli.main import main
from sweep.cli.tables.value_text import readable
from sweep.common import schema
from sweep.executors.worker import concatenate
from sweep.query import named_queries
from sweep.store.store import Store
from sweep.tables import result_tables
from tests.support import process_55tib
from tests.support.small_stores import MIB, FakeGrid, commit, filled, opened, point_id, point_rows

NAMES = [query.name for query in named_queries.named_queries()]
Sweep = Callable[..., Any]


@pytest.fixture
def sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """Run a command on the store in tmp_path; returns its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--results", str(tmp_path)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Columns, Results]:
    """The published cases and some others, run by the engine."""
    gib = 1024 * MIB
    columns = columns_of(
        [
            Scenario(virt=50 * gib, sparsity=0.0),
            Scenario(virt=gib, sparsity=0.0, arch="arm64-4k"),
            Scenario(virt=gib, sparsity=0.99, cluster=MIB // 16, rounds=3, threads=4),
            Scenario(virt=gib, sparsity=0.9, zap=MIB // 16),
        ]
    )
    outcomes = concatenate([run_batch(columns), process_55tib.results(tmp_path_factory)])
    return {name: np.append(values, process_55tib.COLUMNS[name]) for name, values in columns.items()}, outcomes


def store(root: Path, columns: Columns, outcomes: Results) -> None:
    """Write a run of these points and of one that failed."""
    ids, repeat = [point_id(i) for i in range(len(columns["virt"]))], columns["seed"]
    with opened(root, "published-0123abcd") as writer:
        writer.commit(
            result_tables.outcome_table(writer.run_id, ids, repeat, columns, outcomes),
            result_tables.round_table(writer.run_id, ids, outcomes),
            result_tables.point_table(writer.run_id, ids, repeat, columns, node="a"),
        )
        writer.commit(None, None, point_rows(writer.run_id, ["f" * 20], status="failed", error="it broke"))
        writer.finish("failed", {})


def test_without_sql_it_lists_the_named_queries(sweep: Sweep) -> None:
    """query without an argument lists the named queries, each with one sentence of help."""
    code, out, _ = sweep("query", "--json")
    listed = json.loads(out)
    assert code == 0
    assert len(listed) >= 7
    assert [row["query"] for row in listed] == NAMES
    assert all(row["answers"].endswith(".") for row in listed)


@pytest.mark.parametrize("name", NAMES)
def test_every_named_query_runs_on_an_empty_store(sweep: Sweep, name: str) -> None:
    """On an empty store each named query gives a header and no rows, and says what it needs."""
    code, out, err = sweep("query", name, "--format", "csv")
    assert code == 0
    assert err.startswith(f"note: no row; {name} needs ")
    assert len(out.splitlines()) == 1


@pytest.mark.slow
def test_every_named_query_has_rows(sweep: Sweep, tmp_path: Path, published: tuple[Columns, Results]) -> None:
    """On points that the engine ran each named query gives rows, and the published figures agree."""
    store(tmp_path, *published)
    answers = {}
    for name in NAMES:
        code, out, err = sweep("query", name, "--json")
        answers[name] = json.loads(out)
        assert (code, bool(err)) == (0, name in ("by_trace", "kernels", "thp")), name  # of points that are not here
        assert bool(answers[name]) is not bool(err), name
    assert [row["policy"] for row in answers["savings"]] == list(POLICIES)
    saved = {row["policy"]: row["saved_percent"] for row in answers["savings"]}
    assert saved["none"] == 0
    assert saved["munmap"] == 100
    assert 97 < saved["merged"] < 100
    figures = [row["vm_pte_kib"] for row in answers["published"]]
    assert figures[:4] == [102_640, 240, 2_088, 40]
    assert round(figures[4] / 1024**2) == 110
    assert all(row["agrees"] for row in answers["published"])
    assert answers["failures"][0]["error"] == "it broke"
    by_zap = {row["zap_kib"]: row for row in answers["by_zap"]}
    assert by_zap[64]["merged"] == 0 < by_zap[64]["async"]


@pytest.mark.parametrize("thp", ["never", "always"])
def test_costs_say_that_they_leave_out_huge_pages(sweep: Sweep, tmp_path: Path, thp: str) -> None:
    """stderr says so for a query of costs if there are points with huge pages, and only then."""
    columns = columns_of([Scenario(virt=4 * MIB, sparsity=0.5, thp=thp)])
    store(tmp_path, columns, run_batch(columns))
    notes = [sweep("query", query)[2] for query in ("cost", "SELECT max(cost_ns) FROM latest", "SELECT 1 FROM latest")]
    note = "note: cost_ns leaves out faults and splits of huge pages (thp: always): no price in cost table published\n"
    assert notes == ([note, note, ""] if thp == "always" else [""] * 3)


@pytest.mark.slow
def test_runs_without_none_are_named(sweep: Sweep, tmp_path: Path) -> None:
    """stderr names the runs without policy none that a query which compares with it leaves out."""
    filled(tmp_path, name="lacks-0123abcd", policies=["merged"])
    filled(tmp_path, name="has-0123abcd")
    silent = {"failures", "gather", "growth", "kernels", "measured", "published", "thp", "threads"}
    for name in NAMES:
        code, out, err = sweep("query", name, "--format", "csv")
        assert code == 0
        note = f"note: lacks-0123abcd has no policy none, which {name} compares with; add it to the grid's policies\n"
        empty = (
            "" if len(out.splitlines()) > 1 else f"note: no row; {name} needs {named_queries.named_query(name).needs}\n"
        )
        assert err == ("" if name in silent else note) + empty
        if name not in silent | {"savings", "cost"}:
            assert "lacks" not in out
    assert sweep("query", "by_zap", "--run", "has")[2] == ""
    assert sweep("query", "SELECT * FROM latest WHERE policy = 'none'")[2] == ""


@pytest.mark.slow
def test_peak_and_end(sweep: Sweep, tmp_path: Path, published: tuple[Columns, Results]) -> None:
    """by_sparsity has rows for the end and, after several rounds, for the peak; growth is at the peak."""
    store(tmp_path, *published)
    rows = json.loads(sweep("query", "by_sparsity", "--json")[1])
    assert {(row["cluster_kib"], row["moment"]) for row in rows} == {
        (4, "end"), (64, "end"), (64, "peak"), (2048, "end"), (2048, "peak"),
    }  # fmt: skip
    of = {(row["cluster_kib"], row["moment"]): row for row in rows}
    assert of[2048, "end"]["merged"] > 99 > of[2048, "peak"]["merged"] > 98
    assert of[2048, "peak"]["possible"] is None
    grown = json.loads(sweep("query", "growth", "--json")[1])
    last = next(row for row in grown if row["round"] == 500)
    assert round(last["none"] / 1024) == 110
    assert 1 < last["merged"] / 1024 < 2


def test_alignment(sweep: Sweep, tmp_path: Path) -> None:
    """by_shift: under the whole-slot rule a call of one slot's size frees no table if it crosses a slot's border."""
    columns = columns_of([Scenario(virt=64 * MIB, sparsity=0.5, zap_shift=shift) for shift in (0, 4096)])
    store(tmp_path, columns, run_batch(columns))
    rows = json.loads(sweep("query", "by_shift", "--json")[1])
    assert [(row["zap_kib"], row["shift_kib"]) for row in rows] == [(2048, 0), (2048, 4)]
    assert rows[0]["merged"] > 90 > 0 == rows[1]["merged"] < rows[1]["refcount"]


def test_formats_hold_the_same_rows(sweep: Sweep, tmp_path: Path) -> None:
    """csv, json, Markdown, Parquet and the table hold the same rows."""
    filled(tmp_path, 2)
    sql = "SELECT policy, ipis, sparsity, res, kernel_release FROM outcomes ORDER BY point_id, policy"
    rows = json.loads(sweep("query", sql, "--format", "json")[1])
    assert len(rows) == 14
    read = list(csv.DictReader(io.StringIO(sweep("query", sql, "--format", "csv")[1])))
    assert [row["policy"] for row in read] == [row["policy"] for row in rows]
    assert [int(row["ipis"]) for row in read] == [row["ipis"] for row in rows]
    assert {row["kernel_release"] for row in read} == {""}
    for name in ("rows.parquet", "rows.json", "rows.csv", "rows.md"):
        assert sweep("query", sql, "-o", str(tmp_path / name))[:2] == (0, "")
    assert pq.ParquetFile(tmp_path / "rows.parquet").read().to_pylist() == rows
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert (
        (tmp_path / "rows.md")
        .read_text()
        .startswith("| policy | ipis | sparsity | res | kernel_release |\n| --- | ---: |")
    )
    table = sweep("query", sql)[1].splitlines()
    assert len(table) == 16
    assert table[2].split()[0] == "async"


def test_sql_comes_from_anywhere(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQL as text, from a file and from stdin gives the same rows; --sql prints that of a named query."""
    filled(tmp_path)
    (tmp_path / "mine.sql").write_text("SELECT count(*) AS n FROM outcomes")
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT count(*) AS n FROM outcomes"))
    for source in ("SELECT count(*) AS n FROM outcomes", str(tmp_path / "mine.sql"), "-"):
        assert json.loads(sweep("query", source, "--json")[1]) == [{"n": 28}]
    assert sweep("query", "savings", "--sql")[1] == named_queries.named_query("savings").sql
    code, _, err = sweep("query", "saving")
    assert code == 2
    assert "did you mean 'savings'" in err
    assert sweep("query", "nowhere.sql")[0] == 2


def test_columns_are_listed(sweep: Sweep) -> None:
    """--columns lists the columns of every view with type, unit and meaning."""
    listed = json.loads(sweep("query", "--columns", "--json")[1])
    assert {(row["view"], row["column"]) for row in listed} == {
        (v, c.name) for v, cs in schema.VIEWS.items() for c in cs
    }
    assert "KiB" in sweep("query", "--columns")[1]


def test_long_tables_are_cut(sweep: Sweep, tmp_path: Path) -> None:
    """A table has at most --rows rows, and stderr gives the number of the others; csv has all rows."""
    filled(tmp_path)
    code, out, err = sweep("query", "FROM outcomes SELECT policy", "--rows", "5")
    assert (code, len(out.splitlines())) == (0, 7)
    assert "23 more of 28 rows" in err
    assert len(sweep("query", "FROM outcomes SELECT policy", "--rows", "5", "--format", "csv")[1].splitlines()) == 29


def test_no_rows(sweep: Sweep, tmp_path: Path) -> None:
    """A query without rows says so on stderr, with the run; a picture of one is refused with the same words."""
    filled(tmp_path, name="first-0123abcd")
    why = "no row for first-0123abcd; thp needs a run with huge pages (thp: always), such as that of sweep launch thp"
    assert sweep("query", "thp", "--run", "last") == (0, sweep("query", "thp")[1], f"note: {why}\n")
    assert sweep("query", "SELECT zap FROM latest WHERE zap = 0")[2] == "note: no row\n"
    assert sweep("plot", "--query", "thp") == (2, "", f"sweep: nothing to draw: {why}\n")


def test_a_missing_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that read a store which --results names, and which is not there, end with 2 and say where they looked.

    The default store is made by the first launch; until then `ls` lists nothing.
    """
    monkeypatch.chdir(tmp_path)
    for words in (["ls"], ["query", "savings"], ["show"], ["plot"], ["report"], ["watch"], ["rm", "last", "-y"]):
        assert main([*words, "--results", "nowhere"]) == 2
        assert f"{tmp_path}/nowhere" in capsys.readouterr().err
    assert main(["ls"]) == 0
    assert capsys.readouterr().err.startswith(f"no store yet at {tmp_path}/results (--results DIR names another); ")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_line_and_two(sweep: Sweep, tmp_path: Path) -> None:
    """Bad input gives exit code 2, one line on stderr and nothing on stdout."""
    filled(tmp_path)
    (tmp_path / "latin1.sql").write_bytes(b"SELECT 'caf\xe9'")
    for words in (
        ("query", "SELECT nosuch FROM outcomes"),
        ("query", "DROP VIEW outcomes"),
        ("query", "SELECT 1", "--run", "nosuch"),
        ("query", "SELECT 1", "--run", ""),
        ("query", str(tmp_path / "latin1.sql")),
        ("query", "SELECT 1", "--cost", "nosuch"),
        ("query", "SELECT 1", "-o", str(tmp_path / "no" / "where.csv")),
        ("query", "--format", "parquet"),
        ("show", "nosuch"),
        ("rm", "nosuch", "--yes"),
        ("rm", "first"),
    ):
        code, out, err = sweep(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), words


def test_a_broken_run_is_named_and_left_out(sweep: Sweep, tmp_path: Path) -> None:
    """ls and query use the runs that can be read, and name the one that cannot."""
    filled(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    for words in (("query", "SELECT count(*) FROM runs"), ("ls",)):
        code, out, err = sweep(*words)
        assert code == 0
        assert "broken/run.json: not JSON" in err
        assert "broken" not in out


def test_control_characters_in_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in a path are spelled out in warnings."""
    odd = tmp_path / "a\x1b[31mb"
    filled(odd)
    (odd / "broken").mkdir()
    (odd / "broken" / "run.json").write_text("{")
    for words in (("query", "SELECT count(*) FROM runs"), ("ls",)):
        assert main([*words, "--results", str(odd)]) == 0
        err = capsys.readouterr().err
        assert f"{tmp_path}/a\\u001b[31mb/broken/run.json: not JSON" in err
        assert "\x1b" not in err


def test_ls_and_show(sweep: Sweep, tmp_path: Path) -> None:
    """ls lists runs with their counts; show has a run's provenance, its failures and its grid's text."""
    assert sweep("ls")[2].startswith(f"no run in {tmp_path} (--results DIR names another)")
    with opened(tmp_path) as writer:
        commit(writer, 0, 3)
        commit(writer, 3, 2, "failed", error="it broke")
        writer.finish("failed", {})
    listed = json.loads(sweep("ls", "--json")[1])
    assert [(row["run_id"], row["status"], row["ok"], row["failed"]) for row in listed] == [
        ("first-0123abcd", "failed", 3, 2)
    ]
    assert "first-0123abcd  failed   3       2" in sweep("ls")[1]
    shown = json.loads(sweep("show", "first", "--json")[1])
    assert shown["failures"] == [
        {
            "run_id": "first-0123abcd",
            "status": "failed",
            "error_class": None,
            "error": "it broke",
            "points": 2,
            "attempts": 1,
            "example": point_id(3),
        }
    ]
    assert shown["files"] == 3  # merged at the end
    assert "2 points: it broke" in sweep("show")[1]
    assert sweep("show", "last", "--grid")[1] == "name: first\n"


def test_show_grid_with_overrides(sweep: Sweep, tmp_path: Path) -> None:
    """show --grid prints the text of the grid file and, as a comment, the -S options of the launch."""
    grid = FakeGrid(overrides=("fixed.virt=4GiB", "about=two\nlines"))
    with Store(tmp_path).open_run(grid, "first-0123abcd", False, {"version": "0"}) as writer:
        writer.finish("ok", {})
    set_ = "-S fixed.virt=4GiB -S 'about=two lines'"
    assert sweep("show", "last", "--grid")[1] == f"name: first\n# launched with {set_}\n"
    assert f"\nwith       {set_}\n" in sweep("show")[1]


def test_rm_asks(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rm asks on a terminal, needs --yes elsewhere, and refuses a run that is being written."""
    filled(tmp_path)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert sweep("rm", "first")[0] == 2
    assert len(list(tmp_path.iterdir())) == 1
    with opened(tmp_path):
        assert "is being written" in sweep("rm", "first", "--yes")[2]
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, _ = sweep("rm", "first", "--json")
    assert (code, json.loads(out)) == (0, {"deleted": ["first-0123abcd"]})
    assert list(tmp_path.iterdir()) == []


def test_readable_values() -> None:
    """Tables mark thousands, show NULL as `-`, and spell out control characters; names of columns are made unique."""
    shown = [readable(value) for value in (102640, 0.25, 1234567.891, None, True, "a\x1b[31m\nb", float("nan"))]
    assert shown == ["102,640", "0.25", "1,234,568", "-", "yes", "a\\u001b[31m b", "-"]
    out = io.StringIO()
    assert output_formats.write_rows(["a|b", "n"], [["x|y", 1], [None, None]], "md", out) == 0
    assert out.getvalue() == "| a\\|b | n |\n| --- | ---: |\n| x\\|y | 1 |\n| - | - |\n"
    twice, lines = io.StringIO(), io.StringIO()
    output_formats.write_rows(["a", "a", "a_1"], [[1, 2, 3]], "json", twice)
    assert json.loads(twice.getvalue()) == [{"a": 1, "a_2": 2, "a_1": 3}]
    output_formats.write_rows(["x\ny"], [[1]], "table", lines)
    assert lines.getvalue() == "x y\n---\n  1\n"
    empty = io.StringIO()
    output_formats.write_rows(["a"], [], "json", empty)
    assert json.loads(empty.getvalue()) == []
