"""CONTRIBUTING's recipes for a column and a policy, followed in a copy of the repository."""

import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

GRID = """
schema: sweep/1
name: recipes
policies: [merged, munmap, eager]
fixed: {virt: 1GiB, sparsity: 0.99, coverage: 0.5, zap: 2MiB}
axes: {seed: [1, 2]}
"""
EAGER = 'Policy("eager", when="visit", proof="scan", rule="a table is read after each whole piece", source="a test"),'
QUERY = "select policy, pmd_lock_uses, pmd_trylocks, pmd_locks, pte_tables_freed from outcomes order by policy, seed"


def edit(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert text.count(old) == 1, (file, old)
    (root / file).write_text(text.replace(old, new))


@pytest.mark.slow
def test_a_column_and_a_policy_take_a_line_each(tmp_path: Path) -> None:
    """Two lines declare a column, one counts it, one adds a policy: both are in the results and can be queried."""
    copy = tmp_path / "copy"
    for package in ("engine", "sweep", "grids"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(copy, "engine/model/results.py", '    "pmd_locks",\n', '    "pmd_locks",\n    "pmd_lock_uses",\n')
    edit(
        copy,
        "sweep/common/schema.py",
        '    "pmd_locks": ',
        '    "pmd_lock_uses": ("count", "by a rule"),\n    "pmd_locks": ',
    )
    edit(
        copy,
        "engine/reclaim/rules.py",
        "    if rule.tries:\n",
        "    counters.pmd_lock_uses += times\n    if rule.tries:\n",
    )
    edit(copy, "engine/model/policy.py", "\nALL = (\n", f"\nALL = (\n    {EAGER}\n")
    (tmp_path / "recipes.yaml").write_text(GRID)
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | {"PYTHONPATH": str(copy)}

    def sweep(*arguments: str) -> str:
        command = [sys.executable, "-m", "sweep", *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sweep("launch", "recipes.yaml", "--executor", "inline")
    rows = list(csv.DictReader(io.StringIO(sweep("query", QUERY, "--format", "csv"))))
    assert [row["policy"] for row in rows] == ["eager"] * 2 + ["merged"] * 2 + ["munmap"] * 2
    for row in rows:
        freed = int(row["pte_tables_freed"])
        trylocks = freed if row["policy"] == "merged" else 0
        assert freed > 0
        assert (int(row["pmd_lock_uses"]), int(row["pmd_trylocks"])) == (trylocks, trylocks)
        assert int(row["pmd_locks"]) == (freed if row["policy"] == "eager" else 0)
