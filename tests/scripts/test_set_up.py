"""The scripts' first steps, with stand-ins for every Python: no network, nothing installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPTS = ["sweep", "test", "check", "lock", "bench"]

SAYS_SO = '#!/bin/sh\necho ran: "$@"\n'
TOO_OLD = "#!/bin/sh\nexit 1\n"
FAILING_SHIM = "#!/bin/sh\necho 'no such version' >&2\nexit 127\n"
WITHOUT_VENV = "#!/bin/sh\nexit 2\n"


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder with spaces, and beside it bin/ with what the scripts need and no Python."""
    root = tmp_path / "a check out"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "engine").mkdir()
    shutil.copy(ROOT / "requirements.lock", root)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cat", "cksum", "dirname", "readlink"):
        found = shutil.which(tool)
        assert found
        (tmp_path / "bin" / tool).symlink_to(found)
    return root


def run(checkout: Path, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": str(checkout.parent / "bin")}
    command = ["sh", str(checkout / "scripts" / script), *arguments]
    return subprocess.run(command, env=path | env, cwd="/", capture_output=True, text=True, check=False)


def make_ready(checkout: Path) -> None:
    """A finished .venv whose python only says what it was called with."""
    executable(checkout / ".venv" / "bin" / "python", SAYS_SO)
    recipe = "cat requirements.lock scripts/_venv.sh scripts/_venv.py | cksum >.venv/.ready"
    subprocess.run(recipe, shell=True, cwd=checkout, check=True)


@pytest.mark.parametrize("script", [*SCRIPTS, "_venv.sh"])
def test_scripts_are_posix_shell(script: str) -> None:
    """Each parses, and asks for nothing but sh."""
    assert subprocess.run(["sh", "-n", str(ROOT / "scripts" / script)], check=False).returncode == 0


def test_a_ready_venv_is_used_as_it_is(checkout: Path) -> None:
    """No Python is needed on PATH, nothing is said, and the arguments arrive whole."""
    make_ready(checkout)
    done = run(checkout, "test", "-k", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran: -m pytest -k a b\n", "")


def test_a_changed_lock_is_installed_before_anything_runs(checkout: Path) -> None:
    """One more line in requirements.lock, and the set-up is called with the new stamp."""
    make_ready(checkout)
    executable(checkout.parent / "bin" / "python3", SAYS_SO)
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# another\n")
    first = run(checkout, "test", "-q").stdout.splitlines()[0]
    assert "scripts/_venv.py" in first


@pytest.mark.parametrize("unfit", [TOO_OLD, FAILING_SHIM, WITHOUT_VENV], ids=["old", "shim", "no venv"])
def test_an_unfit_python_is_passed_over(checkout: Path, unfit: str) -> None:
    """python3 does not work, python3.12 does: it is python3.12 that makes .venv."""
    executable(checkout.parent / "bin" / "python3", unfit)
    executable(checkout.parent / "bin" / "python3.12", '#!/bin/sh\necho 3.12 "$@"\n')
    assert run(checkout, "test").stdout.startswith("3.12 -I ")


def test_no_python_is_one_line(checkout: Path) -> None:
    """The line says what is needed and how to name a Python."""
    done = run(checkout, "sweep", "plan", "x.yaml")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("ptsweep: needs Python 3.11 or newer")
    assert done.stderr.count("\n") == 1


def test_a_python_without_venv_is_one_line(checkout: Path) -> None:
    """Debian packs the venv module apart: the line names the package."""
    executable(checkout.parent / "bin" / "python3", WITHOUT_VENV)
    done = run(checkout, "sweep")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "apt install python3-venv" in done.stderr


def test_the_python_that_the_user_names_wins(checkout: Path) -> None:
    """PYTHON is tried first and alone; one that does not fit is an error, not a hint."""
    executable(checkout.parent / "bin" / "python3", SAYS_SO)
    done = run(checkout, "sweep", PYTHON="python0")
    assert (done.returncode, done.stderr) == (4, "ptsweep: PYTHON=python0 is not a working Python 3.11 or newer\n")


def test_check_refuses_what_it_does_not_know(checkout: Path) -> None:
    """Bad usage is 2, before any work."""
    assert run(checkout, "check", "--fast").returncode == 2
