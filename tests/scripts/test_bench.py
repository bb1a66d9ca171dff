"""scripts/bench: every section runs and reports its figures in the declared form. No test asserts a speed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from _bench import show
from _bench.__main__ import SECTIONS
from _bench.bench import child
from _bench.figure import Figure, Reach, in_turn, number
from _bench.growth import exponent
from _bench.peers import VENV, is_ready

TEXT = {"section", "figure", "unit", "date"}
OPTIONAL_TEXT = {"yardstick", "reach", "note", "commit"}
NUMBERS = {"median", "least", "most", "others_cpus", "load"}
OPTIONAL_NUMBERS = {"cpu_s", "wall_s", "yardstick_median", "ratio"}
LISTS = {"values", "yardstick_values"}
NEEDS_A_KERNEL, NEEDS_PEERS = ("kernel", "record", "guests"), "peers"


def run_bench(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
    command = [sys.executable, "-m", "_bench", *words]
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON report of `scripts/bench --quick` on all sections but peers."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    done = run_bench(*(name for name in SECTIONS if name != NEEDS_PEERS), "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(file.read_text())
    return report


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != NEEDS_PEERS])
@pytest.mark.slow
def test_a_section_reports_its_figures(report: dict[str, Any], section: str) -> None:
    """Each figure has every declared field, of its type; a quick one is not compared with its bound."""
    rows = [row for row in report["figures"] if row["section"] == section]
    if not rows and section in NEEDS_A_KERNEL:
        pytest.skip("nothing can run on this machine's kernel: Linux on x86-64 or arm64, with /proc and ptrace")
    assert rows
    for row in rows:
        check(row)


@pytest.mark.skipif(not is_ready(), reason="needs the peers, which `scripts/bench peers` installs")
@pytest.mark.parametrize("peer", ["joblib", "hydra"])  # the others start Ray: a minute each on a slow machine
@pytest.mark.slow
def test_a_peer_runs_every_point(tmp_path: Path, peer: str) -> None:
    """A peer writes one row per point."""
    child("peer", peer, 3, 1, tmp_path, python=str(VENV / "bin" / "python"))
    if peer == "joblib":
        seeds = duckdb.execute("SELECT seed FROM read_parquet($1)", [str(tmp_path / "*.parquet")]).fetchall()
    else:
        seeds = [(json.loads(path.read_text())["seed"],) for path in tmp_path.rglob("row.json")]
    assert sorted(seeds) == [(0,), (1,), (2,)]


def check(row: dict[str, Any]) -> None:
    assert set(row) == TEXT | OPTIONAL_TEXT | NUMBERS | OPTIONAL_NUMBERS | LISTS | {"met"}
    assert all(isinstance(row[name], str) for name in TEXT)
    assert all(isinstance(row[name], str | None) for name in OPTIONAL_TEXT)
    assert all(isinstance(row[name], int | float) for name in NUMBERS)
    assert all(isinstance(row[name], int | float | None) for name in OPTIONAL_NUMBERS)
    assert row["least"] <= row["median"] <= row["most"]
    assert len(row["values"]) >= 1
    assert len(row["yardstick_values"]) == (len(row["values"]) if row["yardstick"] else 0)
    assert row["met"] is None


def test_unknown_section() -> None:
    """An unknown section exits with 2 and lists the known ones."""
    done = run_bench("engin")
    assert done.returncode == 2
    assert "unknown section 'engin'; known: engine, " in done.stderr


def test_a_ratio_is_taken_pair_by_pair() -> None:
    """The ratio is the median of value over yardstick, repetition by repetition."""
    both = {"section": "s", "name": "n", "unit": "s"}
    figure = Figure(values=(1.0, 10.0, 3.0), beside=(1.0, 9.0, 2.0), reach=Reach(at_most=1.25), **both)  # type: ignore[arg-type]
    assert figure.judged == pytest.approx(10 / 9)
    assert figure.met


@pytest.mark.parametrize(
    ("reach", "met"), [(Reach(at_least=4, of="value"), True), (Reach(at_most=4, of="value"), False)]
)
def test_reach_compares_in_its_direction(reach: Reach, met: bool) -> None:
    """at_least and at_most bound the value from below and from above."""
    assert Figure(section="s", name="n", unit="s", values=(5.0,), reach=reach).met is met


def test_work_and_yardstick_alternate() -> None:
    """Both run equally often, and at least five times."""
    seen: list[str] = []
    run = in_turn(lambda: seen.append("work"), lambda: seen.append("yard"))
    assert seen[:4] == ["work", "yard", "work", "yard"]
    assert len(run.samples) == len(run.beside) >= 5


def test_exponent_ignores_the_constant_cost() -> None:
    """The fit finds 1 for linear and 2 for quadratic growth, with a constant cost per call added."""
    sizes = [2.0**n for n in range(30, 46, 2)]
    assert exponent(sizes, [2e-4 + 3e-15 * size for size in sizes]) == pytest.approx(1, abs=1e-3)
    assert exponent(sizes, [2e-4 + 3e-28 * size**2 for size in sizes]) == pytest.approx(2, abs=1e-2)


def test_page_has_every_section() -> None:
    """docs/speed.md has a table of each section, with today's columns, as --page writes it."""
    text = (ROOT / "docs" / "speed.md").read_text()
    assert show.update_page(text, {"figures": []}, list(SECTIONS)) == text
    for section in SECTIONS:
        assert re.search(rf"\n### {section}\n\n`scripts/bench {section}`, [^\n]+\n\n\| figure \|", text), section
    assert text.count(f"| {' | '.join(show.COLUMNS)} |\n") == len(SECTIONS)


@pytest.mark.slow
def test_page_replaces_only_what_was_measured(report: dict[str, Any]) -> None:
    """--page writes the tables of the sections in the report and leaves those of the others as they are."""
    text = (ROOT / "docs" / "speed.md").read_text()
    small = report | {"figures": [row for row in report["figures"] if row["section"] == "small"]}
    page = show.update_page(text, small, list(SECTIONS))
    before, after = (re.split(r"\n### ", version) for version in (text, page))
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [table.partition("\n")[0] for table in changed] == ["small"]
    assert all(number(row["median"]) in changed[0] for row in small["figures"])


def test_the_peers_are_locked() -> None:
    """Each line of requirements-bench.lock is a pin with hashes, and every peer is pinned."""
    text = (ROOT / "requirements-bench.lock").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert all("==" in line and "--hash=sha256:" in line for line in lines)
    assert {"joblib", "hydra-core", "ray"} <= {line.partition("==")[0].partition("[")[0] for line in lines}


def test_numbers_have_three_digits() -> None:
    """Numbers are rounded to three digits, or to whole numbers with commas from 1,000 on."""
    assert [number(value) for value in (None, 0.012345, 12.345, 1234567.8)] == ["", "0.0123", "12.3", "1,234,568"]
