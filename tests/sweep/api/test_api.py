"""import sweep: the same rows and the same errors as the commands."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import sweep
from engine.model.policy import POLICIES
from sweep.api.rows import Rows
from sweep.cli.main import main
from sweep.grid.loader import parse_grid
from sweep.grid.point_id import run_name
from tests.support.launched_store import ZAPS

GRID: dict[str, Any] = {
    "name": "small",
    "about": "What comes back?",
    "fixed": {"virt": "64MiB", "sparsity": 0.99},
    "axes": {"zap": ["64KiB", "2MiB"], "cluster": {"pow2": {"from": "4KiB", "to": "16KiB"}}},
    "exclude": [{"zap": "64KiB", "cluster": ["16KiB"]}],
    "repeats": 2,
}
YAML = """
schema: sweep/1
name: small
about: What comes back?
fixed: {virt: 64MiB, sparsity: 0.99}
axes: {zap: [64KiB, 2MiB], cluster: {pow2: {from: 4KiB, to: 16KiB}}}
exclude: [{zap: 64KiB, cluster: [16KiB]}]
repeats: 2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sweep.Run:
    return sweep.launch(GRID, results=tmp_path_factory.mktemp("store"), executor="inline")


def test_a_dict_is_the_grid_of_its_file(run: sweep.Run, tmp_path: Path) -> None:
    """A grid as a dict has the run id of the same grid in YAML."""
    assert run.id == run_name(parse_grid(YAML, "small.yaml"))
    assert (run.status, run.about, run.info.ok) == ("ok", "What comes back?", 10)
    assert repr(run) == f"<run {run.id}: ok, 10 points>"


def test_launch_resumes(tmp_path: Path) -> None:
    """A file, a Path or a dict; the second launch of a grid continues its run, `fresh` starts another."""
    path = tmp_path / "small.yaml"
    path.write_text(YAML)
    first = sweep.launch(str(path), results=tmp_path / "s", where="zap = 65536", executor="inline")
    assert first.info.ok == 4
    again = sweep.launch(GRID, results=str(tmp_path / "s"), executor="inline")
    assert (again.id, again.info.ok) == (first.id, 10)
    with pytest.warns(UserWarning, match="the rule drops nothing"):
        other = sweep.launch(path, results=tmp_path / "s", set=["axes.zap=[2MiB]"], executor="inline")
    fresh = sweep.launch(path, results=tmp_path / "s", fresh=True, executor="inline")
    assert [found.id for found in sweep.runs(results=tmp_path / "s")] == [first.id, other.id, fresh.id]
    assert sweep.Run(results=tmp_path / "s").id == fresh.id


def test_rows(run: sweep.Run) -> None:
    """Outcomes with cost_ns as dicts, Arrow, pandas, polars, and through the Arrow interface."""
    rows = run.outcomes()
    assert len(rows) == 10 * len(POLICIES)
    assert isinstance(rows.arrow(), pa.Table)
    assert isinstance(rows.df(), pd.DataFrame)
    assert isinstance(rows.pl(), pl.DataFrame)
    assert pl.DataFrame(rows).shape == pa.table(rows).shape == rows.df().shape
    assert [row["policy"] for row in rows][: len(POLICIES)] == list(POLICIES)
    assert all(row["cost_ns"] > 0 for row in rows)
    assert len(run.points()) == 10
    assert len(run.rounds()) == len(rows)


def test_sql_is_that_of_the_command(run: sweep.Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, a named query and the command give the same rows."""
    rows = run.sql("by_zap")
    assert main(["query", "by_zap", "--run", run.id, "--json", "--results", str(run.info.path).rpartition("/")[0]]) == 0
    import json

    assert json.loads(capsys.readouterr().out) == rows.to_pylist()
    assert run.sql("SELECT count(*) AS n FROM latest").to_pylist() == [{"n": 70}]


@pytest.mark.slow
def test_answer_and_picture(run: sweep.Run, tmp_path: Path) -> None:
    """The sentence names the designs; a picture shows itself as SVG and can be saved."""
    assert "merged" in run.answer
    picture = run.plot(x="zap", y="saved_percent", title="Saved")
    assert picture._repr_mimebundle_()["image/svg+xml"].startswith("<svg")
    assert picture.save(tmp_path / "a.svg").read_text().startswith("<svg")
    assert "Saved" in (tmp_path / "a.svg").read_text()
    assert picture.sql.startswith("SELECT")
    assert run.plot(y=["vm_pte_kib_peak", "vm_pte_kib_end"], x="zap").spec["data"]["values"]
    assert run.plot(query="by_zap").chart.is_by_policy
    assert run.answer in run.report(tmp_path / "a.html").read_text()


def test_evaluate(run: sweep.Run) -> None:
    """The outcomes of a point are those that a launch stores; lists make the cross product."""
    stored = [row for row in run.outcomes() if (row["zap"], row["cluster"], row["repeat"]) == (2 << 20, 4096, 0)]
    rows = sweep.evaluate(virt="64MiB", sparsity=0.99, zap="2MiB").to_pylist()
    assert [{name: row[name] for name in rows[0]} for row in stored] == rows
    many = sweep.evaluate(virt="64MiB", sparsity=[0.9, 0.99], zap=["64KiB", "2MiB"], policies=["none", "merged"])
    assert [(row["sparsity"], row["zap"], row["policy"]) for row in many][1::2] == [
        (0.9, 65536, "merged"),
        (0.9, 2097152, "merged"),
        (0.99, 65536, "merged"),
        (0.99, 2097152, "merged"),
    ]
    assert len(sweep.evaluate(virt="64MiB", sparsity=np.float64(0.5), threads=np.int64(2))) == len(POLICIES)
    assert len(sweep.evaluate(virt="64MiB", sparsity=0.00001)) == len(POLICIES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep.evaluate(virt="1TB", sparsity=0.9), "grid: fixed.virt: '1TB': TB may mean powers of 1000 or"),
        (lambda: sweep.evaluate(virt=1 << 30, sparsity=0.9), "'1073741824' has no unit; write 1073741824B or 1GiB"),
        (lambda: sweep.evaluate(virt="1GiB", sparsty=0.9), "unknown key 'sparsty'; did you mean 'sparsity'?"),
        (lambda: sweep.evaluate(virt="1GiB", sparsity=[0.1] * 20_001), "evaluate: 20,001 points; at most 10,000"),
        (lambda: sweep.evaluate(virt="1GiB", sparsity=True), "True is no value of a grid"),
        (lambda: sweep.evaluate(virt="1GiB", sparsity=0.9, policies=["mergd"]), "did you mean 'merged'?"),
        (lambda: sweep.evaluate(virt="1GiB", sparsity=0.9, cost="nothing"), "nothing"),
        (lambda: sweep.evaluate(), "virt is required"),
        (lambda: sweep.evaluate(virt="1GiB", sparsity=object()), "is no value of a grid"),
        (lambda: sweep.launch("frist"), "frist: no such file; did you mean 'first'?"),
        (lambda: sweep.launch(3), "grid: a int; give a path, the name of a shipped grid, or a dict"),  # type: ignore[arg-type]
        (lambda: sweep.launch(GRID, engine="kernle"), "engine: unknown engine 'kernle'; did you mean 'kernel'?"),
        (lambda: sweep.launch(GRID, executor="rya"), "unknown executor 'rya'"),
        (lambda: sweep.launch({**GRID, "axes": {"zap": {"pow3": 1}}}), "grid: axes.zap"),
        (lambda: sweep.Run("nothing"), "nothing"),
    ],
)
def test_errors(call: Callable[[], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, as the commands print it, and nothing written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sweep.UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_a_run(run: sweep.Run, tmp_path: Path) -> None:
    for call, message in (
        (lambda: run.sql("SELEC 1"), "SQL: "),
        (lambda: run.sql("savigns"), "did you mean 'savings'?"),
        (lambda: run.plot(x="zpa"), "did you mean 'zap'?"),
        (lambda: run.plot().save(tmp_path / "a.gif"), "unknown ending '.gif'"),
    ):
        with pytest.raises(sweep.UserError) as caught:
            call()
        assert message in str(caught.value)


def test_a_failed_point_is_no_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run says that points failed, and has the others."""
    import engine.run

    real = engine.run.run_batch

    def fails(columns: Any, *policies: Any, **choices: Any) -> Any:
        if (columns["zap"] == 65536).any():
            raise RuntimeError("not today")
        return real(columns, *policies, **choices)

    monkeypatch.setattr("engine.run.run_batch", fails)
    monkeypatch.setattr("sweep.executors.worker._runners", {})
    broken = sweep.launch(GRID, results=tmp_path, executor="inline")
    assert (broken.status, broken.info.ok, broken.info.failed) == ("failed", 6, 4)
    assert {row["error"] for row in broken.points() if row["status"] != "ok"} == {"RuntimeError: not today"}


def test_html_of_rows_is_escaped() -> None:
    """A value cannot become markup in a notebook; long results say how much is shown."""
    html = Rows(pa.table({"<b>": ["<script>alert(1)</script>"] * 30}))._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "30 rows, 20 shown" in html


def test_import_is_cheap() -> None:
    """`import sweep` imports no package from outside, and names what it has."""
    code = "import sys, sweep; print(sorted({'numpy', 'pyarrow', 'duckdb', 'numba'} & set(sys.modules)), dir(sweep))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert all(repr(name) in done.stdout for name in sweep.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        sweep.lunch  # type: ignore[attr-defined]  # noqa: B018


def test_grids_of_tests_are_dicts_too() -> None:
    """ZAPS, a YAML text, is not taken for a dict or a path that exists."""
    with pytest.raises(sweep.UserError, match="no such file"):
        sweep.launch(ZAPS)
