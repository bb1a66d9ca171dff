"""The commands plan and why."""

import csv
import json
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.grid.shipped_grids import shipped_grids

GRID = """\
schema: sweep/1
name: tiny
fixed: {virt: 4MiB, sparsity: 0.5}
axes:
  zap: [64KiB, 2MiB]
exclude: [{threads: 8}]
derive: {pages: zap / 4096}
repeats: 2
seed: 3
"""
NO_FILE = "sweep: no.yaml: no such file; grids that ship: " + ", ".join(shipped_grids()) + "\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.yaml").write_text(GRID)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_account(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """plan prints the account on stdout and warnings on stderr, and writes nothing."""
    code, out, err = run(capsys, "plan", "g.yaml")
    assert (code, err) == (0, "warning: g.yaml:6:11: exclude[0]: the rule drops nothing: threads=8\n")
    assert out.splitlines()[:6] == [
        "tiny                 points",
        "-------------------  ------",
        "raw                       4",
        "excluded: threads=8       0",
        "duplicates                0",
        "done                      0",
    ]
    assert [path.name for path in here.iterdir()] == ["g.yaml"]


def test_account_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """plan --json has the account with units in the names of its keys."""
    facts = json.loads(run(capsys, "plan", "g.yaml", "-S", "repeats=1", "--where", "zap > 64KiB", "--json")[1])
    assert (facts["raw"], facts["where_dropped"], facts["todo"], facts["done"]) == (2, 1, 1, 0)
    assert facts["excluded"] == [{"rule": "threads=8", "because": None, "dropped": 0}]
    assert {"estimate_ns", "peak_bytes", "run_name", "warnings"} <= set(facts)


def test_points(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """plan --points lists the same points as a table with units, and as csv and json with bytes."""
    rows = list(csv.DictReader(run(capsys, "plan", "g.yaml", "--points", "--format", "csv")[1].splitlines()))
    assert [(row["zap"], row["seed"], row["repeat"], row["pages"], row["res"]) for row in rows] == [
        ("65536", "3", "0", "16.0", ""), ("65536", "4", "1", "16.0", ""),
        ("2097152", "3", "0", "512.0", ""), ("2097152", "4", "1", "512.0", ""),
    ]  # fmt: skip
    listed = json.loads(run(capsys, "plan", "g.yaml", "--points", "--json")[1])
    assert [row["point_id"] for row in listed] == [row["point_id"] for row in rows]
    table = run(capsys, "plan", "g.yaml", "--points")[1].splitlines()
    assert table[0].split() == ["point_id", "repeat", "zap", "seed", "pages"]
    assert table[2].split() == [rows[0]["point_id"], "0", "64KiB", "3", "16"]


def test_why_in_a_grid_and_in_the_store(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """why shows what is hashed, which line gave each value, and the runs that have the point."""
    points = json.loads(run(capsys, "plan", "g.yaml", "--points", "--json")[1])
    wanted = points[1]["point_id"]
    code, out, _ = run(capsys, "why", wanted, "g.yaml")
    assert code == 0
    assert out.startswith(f"{wanted} is blake2b, 10 bytes, of the JSON in ASCII:\n{{")
    assert "zap           64KiB         g.yaml:5:9: axes.zap[0]\n" in out
    assert "seed          4             g.yaml:9:7: seed + repeat 1\n" in out
    assert out.endswith("in no run yet\n")
    assert run(capsys, "launch", "g.yaml", "--executor", "inline", "-q")[0] == 0
    facts = json.loads(run(capsys, "why", wanted[:12], "--json")[1])
    assert (facts["point_id"], facts["agrees"], facts["grid"]) == (wanted, True, None)
    assert [(run["status"], run["repeat"]) for run in facts["runs"]] == [("ok", 1)]
    assert "done in tiny-" in run(capsys, "plan", "g.yaml")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("why", "xyz"), "sweep: 'xyz' is not a point id: up to 20 of 0-9, a-f (sweep plan GRID --points)\n"),
        (("why", "0123456789"), "sweep: no point '0123456789' in results; to look in a grid: sweep why POINT GRID\n"),
        (("why", "0123456789", "g.yaml"), "sweep: no point '0123456789' in results and g.yaml\n"),
        (("plan", "no.yaml"), NO_FILE),
        (
            ("plan", "g.yaml", "-S", "fixed.virt=4GB"),
            "sweep: -S fixed.virt: '4GB': GB may mean powers of 1000 or 1024;",
        ),
        (("plan", "g.yaml", "--where", "zapp > 1"), "sweep: --where: unknown column 'zapp'; did you mean 'zap'?"),
    ],
)
def test_bad_input_is_one_line_and_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """Bad input gives exit code 2 and one line on stderr."""
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
