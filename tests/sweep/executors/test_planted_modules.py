"""Modules in the current folder are imported by no process that a command starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import DATA
from tests.support.live_kernel import why_not
from tests.support.planted_modules import PlantedModules

pytestmark = pytest.mark.slow

SCRIPT = "import sys\nfrom sweep.cli.__main__ import run\nsys.exit(run())\n"
"""The console script as pip writes it."""
GRID = """schema: sweep/1
name: tiny
about: does it run?
policies: [none, merged]
fixed: {sparsity: 0.5, zap: 2MiB}
axes: {virt: [2MiB, 4MiB]}
"""


@pytest.fixture
def planted(tmp_path: Path) -> PlantedModules:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sweep").write_text(SCRIPT)
    planted = PlantedModules(tmp_path)
    (planted.folder / "tiny.yaml").write_text(GRID)
    return planted


def sweep(planted: PlantedModules, *words: str, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the console script in the folder of planted modules.

    isolated: with -I, as scripts/sweep does, and an empty entry in PYTHONPATH, which stands for the current folder
    """
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *(["-I"] if isolated else []), str(planted.folder.parent / "bin" / "sweep"), *words]
    environment = clean | ({"PYTHONPATH": ":"} if isolated else {})
    return subprocess.run(
        command, cwd=planted.folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_planted_module_leaves_a_mark(planted: PlantedModules) -> None:
    """Without options Python imports from the current folder."""
    subprocess.run([sys.executable, "-c", "import json"], cwd=planted.folder, check=True)
    assert planted.imported() == ["json"]


@pytest.mark.parametrize("isolated", [False, True], ids=["script", "isolated"])
@pytest.mark.parametrize("executor", ["inline", "processes", pytest.param("ray", marks=pytest.mark.cluster)])
def test_a_launch_imports_nothing_from_the_current_folder(
    planted: PlantedModules, executor: str, isolated: bool
) -> None:
    """In the driver and in the workers of every executor."""
    done = sweep(planted, "launch", "tiny.yaml", "--executor", executor, "-j", "1", isolated=isolated)
    assert (done.returncode, planted.imported()) == (0, []), done.stderr


@pytest.mark.live
@pytest.mark.parametrize(
    "words",
    [
        ("validate", "tiny.yaml"),
        ("replay", "--engine", "kernel", str(DATA / "kernel" / "basic-0000.csv")),
        ("calibrate", "--repeats", "3"),
    ],
    ids=["validate", "replay", "calibrate"],
)
def test_the_kernel_engine_imports_nothing_from_the_current_folder(
    planted: PlantedModules, words: tuple[str, ...]
) -> None:
    """The server that forks the children, and the child that replays a trace."""
    if why_not():
        pytest.skip(f"no live kernel: {why_not()}")
    done = sweep(planted, *words)
    assert (done.returncode, planted.imported()) == (0, []), done.stderr
