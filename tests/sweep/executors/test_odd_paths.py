"""A checkout whose path has blanks, quotes, umlauts and a dollar sign works for every executor."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow

ODD_NAME = "ein 'Büro' mit \"Platz\" & $HOME"
DRIVER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from sweep.run.launch import LaunchOptions, launch
from tests.support import fake_engine
options = LaunchOptions(Path("results"), executor=sys.argv[1], jobs=1, runner=fake_engine.RUNNER)
print(json.dumps(asdict(launch(fake_engine.grid(seeds=[1, 2]), options, fake_engine.RecordingProgress()))))
"""


@pytest.fixture(scope="module")
def odd_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a checkout at an odd path: a venv beside our packages, with all packages of this one."""
    checkout = tmp_path_factory.mktemp("odd") / ODD_NAME
    for name in ("engine", "sweep", "tests/support"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "paths.py"):
        shutil.copy(ROOT / "tests" / name, checkout / "tests" / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(checkout / ".venv")], check=True)
    (packages,) = (checkout / ".venv").glob("lib/python*/site-packages")
    for entry in Path(np.__file__).parents[1].iterdir():
        if "ptsweep" not in entry.name and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return checkout / ".venv" / "bin" / "python"


@pytest.mark.parametrize("executor", ["inline", "processes", pytest.param("ray", marks=pytest.mark.cluster)])
def test_a_launch_from_an_odd_path(odd_python: Path, executor: str) -> None:
    """Its workers start and load the checkout's packages."""
    checkout = odd_python.parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(odd_python), "-c", DRIVER, executor],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"] == {"ok": 2}
    shutil.rmtree(checkout / "results")
