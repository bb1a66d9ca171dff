"""docs/python.md and docs/notebook.ipynb: their code runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import DOCS, blocks
from tests.paths import ROOT

PAGE = DOCS / "python.md"


@pytest.mark.slow
def test_blocks_of_the_page(tmp_path: Path) -> None:
    """Each block runs; the grid `first` is cut down to ten points."""
    *scripts, last = blocks(PAGE.read_text(), "python")
    assert len(scripts) == 2
    scripts[0] = scripts[0].replace(
        'launch("first")', 'launch("first", where="threads = 1 AND sparsity > 0.9", executor="inline")'
    )
    for script in (*scripts, last):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "saved.svg").read_text().startswith("<svg")
    figures = [line.split() for line in done.stdout.splitlines()]
    assert [(line[0], line[1], line[2]) for line in figures] == [
        ("65536", "none", "2048"),
        ("65536", "merged", "2048"),
        ("2097152", "none", "2048"),
        ("2097152", "merged", "8"),
    ]


@pytest.mark.slow
def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, in a folder of its own; the committed file has no outputs, the run one shows three pictures."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook: Any = nbformat.read(DOCS / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert sum("image/svg+xml" in data for data in shown) == 3
    assert "gives back" in code[3].outputs[0]["data"]["text/plain"]
    assert "TB may mean powers of 1000 or 1024" in code[-1].outputs[0]["text"]
