"""scripts/_venv.sh with stand-ins for Python and uv: nothing is downloaded, and each call is recorded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPTS = sorted(
    path.name
    for path in (ROOT / "scripts").iterdir()
    if path.name == "_venv.sh" or (path.is_file() and path.read_bytes().startswith(b"#!/bin/sh\n"))
)
COMPILES = "python|-I|-m|sweep.cli|launch|first|--results|.venv/results"
ALL_TESTS = "python|-m|pytest|-n|2|--dist|loadfile|--no-loadscope-reorder"
TOOLS = ("sh", "cat", "cksum", "dirname", "readlink", "sed", "rm", "mkdir", "cp", "sleep")

# Appends a line to `calls` for each call. As python it answers the probe, takes the real lock, and makes a .venv whose
# python and uv are copies of itself. As uv it takes long enough for a second command to come meanwhile.
STAND_IN = """\
#!/bin/sh
name=${{0##*/}}
case "$*" in
*fcntl*) exec {python} "$@" ;;
*sys.version_info*) said= && echo "$0" ;;
*"-m venv"*) said="$name makes .venv"
    rm -rf .venv && mkdir -p .venv/bin .venv/lib/python3.11/site-packages && cp "$0" .venv/bin/python ;;
*"-r .venv/uv.lock") said="pip installs uv" && cp "$0" .venv/bin/uv ;;
*"-r requirements.lock") said="pip installs" ;;
"pip sync"*) said="uv installs" && sleep 0.2 ;;
*) said=$(IFS="|" && echo "$name|$*") ;;
esac
[ -z "$said" ] || echo "$said" >>'{calls}'
[ "$said" != "pip installs" ] || exit "${{PIP_EXITS_WITH-0}}"
"""
TOO_OLD = "#!/bin/sh\nexit 1\n"
FAILING_SHIM = "#!/bin/sh\necho 'no such version' >&2\nexit 127\n"
WITHOUT_VENV = "#!/bin/sh\nexit 2\n"
FAILING_UV = "#!/bin/sh\necho 'no network' >&2\nexit 2\n"


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Checkout:
    """A checkout in a folder with spaces; beside it bin/, which is the PATH, and the record of calls."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls = folder / "a check out", folder / "bin", folder / "calls"
        self.stand_in = STAND_IN.format(python=sys.executable, calls=self.calls)
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copy(ROOT / "requirements.lock", self.root)
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)

    def start(self, script: str, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        command = ["sh", str(self.root / "scripts" / script), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env={"PATH": str(self.bin)} | env, cwd="/", stdout=pipe, stderr=pipe, text=True
        )

    def run(self, script: str, *arguments: str, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(script, *arguments, **env)
        stdout, stderr = process.communicate()
        return process.returncode, stdout, stderr

    def recorded(self) -> list[str]:
        """The calls since the last look."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout: Checkout) -> Checkout:
    """A checkout whose .venv is installed."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    assert checkout.run("sweep")[0] == 0
    checkout.recorded()
    return checkout


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_posix_shell(script: str) -> None:
    """sh can parse each of them."""
    assert subprocess.run(["sh", "-n", str(ROOT / "scripts" / script)], check=False).returncode == 0


def test_python_alone_is_enough(checkout: Checkout) -> None:
    """Python makes .venv, pip installs the pinned uv, uv the rest, the engine is compiled, and the command runs."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    code, stdout, stderr = checkout.run("test", "-k", "a b")
    assert (code, stdout) == (0, "")
    assert stderr.startswith("ptsweep: installing requirements.lock into .venv")
    assert checkout.recorded() == [
        "python3 makes .venv",
        "pip installs uv",
        "uv installs",
        COMPILES,
        "python|-m|pytest|-k|a b",
    ]
    assert (checkout.root / ".venv/uv.lock").read_text().startswith("uv==")
    assert (checkout.root / ".venv/lib/python3.11/site-packages/ptsweep.pth").read_text() == "../../../..\n"


def test_a_uv_of_the_user_is_taken(checkout: Checkout) -> None:
    """With uv on PATH none is installed."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    write_program(checkout.bin / "uv", checkout.stand_in)
    assert checkout.run("test")[0] == 0
    assert checkout.recorded() == ["python3 makes .venv", "uv installs", COMPILES, ALL_TESTS]


def test_where_uv_fails_pip_installs(checkout: Checkout) -> None:
    """pip may know a mirror that uv does not."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    write_program(checkout.bin / "uv", FAILING_UV)
    assert checkout.run("test")[0] == 0
    assert checkout.recorded() == ["python3 makes .venv", "pip installs", COMPILES, ALL_TESTS]


def test_a_ready_venv_is_used_as_it_is(ready: Checkout) -> None:
    """No Python is needed on PATH, nothing is printed, and the arguments arrive whole."""
    (ready.bin / "python3").unlink()
    assert ready.run("sweep", "query", "a b") == (0, "", "")
    assert ready.recorded() == ["python|-I|-m|sweep.cli|query|a b"]


def test_fast_leaves_out_slow_tests_and_ray(ready: Checkout) -> None:
    """scripts/test --fast selects by marker; arguments after it go to pytest."""
    assert ready.run("test", "--fast", "-x")[0] == 0
    slow = "python|-m|pytest|-m|not slow and not cluster|-n|2|--dist|loadfile|--no-loadscope-reorder|-x"
    assert ready.recorded() == [slow]


def test_a_changed_lock_is_installed_into_the_same_venv(ready: Checkout) -> None:
    """One more line in requirements.lock: uv runs again, .venv is not made again."""
    with (ready.root / "requirements.lock").open("a") as lock:
        lock.write("# another\n")
    assert ready.run("test")[0] == 0
    assert ready.recorded() == ["uv installs", COMPILES, ALL_TESTS]


@pytest.mark.parametrize("lost", [".ready", "bin/python"])
def test_half_a_venv_is_made_again(ready: Checkout, lost: str) -> None:
    """A set-up that was killed left no .ready; a system upgrade may take the interpreter away."""
    (ready.root / ".venv" / lost).unlink()
    assert ready.run("test")[0] == 0
    assert ready.recorded()[0] == "python3 makes .venv"


def test_two_at_once_install_once(checkout: Checkout) -> None:
    """The second command waits for the first, and then runs."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    both = [checkout.start("test"), checkout.start("test")]
    assert [process.communicate() and process.returncode for process in both] == [0, 0]
    calls = checkout.recorded()
    assert (calls.count("uv installs"), calls.count(ALL_TESTS)) == (1, 2)


def test_a_failed_installation_is_4_and_leaves_nothing_ready(checkout: Checkout) -> None:
    """The installer's errors are shown, then one line; the command does not run, and the next one starts afresh."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    write_program(checkout.bin / "uv", FAILING_UV)
    code, stdout, stderr = checkout.run("test", PIP_EXITS_WITH="1")
    assert (code, stdout) == (4, "")
    assert stderr.splitlines()[1:] == [
        "no network",
        "ptsweep: could not install requirements.lock into .venv: the reason is above",
    ]
    assert checkout.recorded() == ["python3 makes .venv", "pip installs"]
    assert not (checkout.root / ".venv/.ready").exists()


@pytest.mark.parametrize("unfit", [TOO_OLD, FAILING_SHIM, WITHOUT_VENV], ids=["old", "shim", "no venv"])
def test_an_unfit_python_is_passed_over(checkout: Checkout, unfit: str) -> None:
    """python3 does not work, python3.12 does: it is python3.12 that makes .venv."""
    write_program(checkout.bin / "python3", unfit)
    write_program(checkout.bin / "python3.12", checkout.stand_in)
    assert checkout.run("test")[0] == 0
    assert checkout.recorded()[0] == "python3.12 makes .venv"


def test_no_python_is_one_line(checkout: Checkout) -> None:
    """The line says what is needed and how to name a Python."""
    code, stdout, stderr = checkout.run("sweep", "plan", "x.yaml")
    assert (code, stdout, stderr.count("\n")) == (4, "", 1)
    assert stderr.startswith("ptsweep: needs Python 3.11 to 3.14 and found none (tried python3 ")
    assert "PYTHON=/path/to/python" in stderr


def test_a_python_without_venv_is_one_line(checkout: Checkout) -> None:
    """Debian packs the venv module apart: the line names the package."""
    write_program(checkout.bin / "python3", WITHOUT_VENV)
    code, _, stderr = checkout.run("sweep")
    assert (code, stderr.count("\n")) == (4, 1)
    assert "apt install python3-venv" in stderr


def test_the_python_that_the_user_names_is_tried_alone(checkout: Checkout) -> None:
    """PYTHON may hold a path with spaces; one that does not fit is an error, whatever else is on PATH."""
    write_program(checkout.bin / "python3", checkout.stand_in)
    code, _, stderr = checkout.run("sweep", PYTHON="python0")
    assert (code, stderr.count("\n")) == (4, 1)
    assert "(tried python0)" in stderr
    write_program(checkout.root / "my python", checkout.stand_in)
    assert checkout.run("sweep", PYTHON=str(checkout.root / "my python"))[0] == 0
    assert checkout.recorded()[0] == "my python makes .venv"


def test_check_refuses_an_unknown_option(checkout: Checkout) -> None:
    """Bad usage is 2, before any work."""
    assert checkout.run("check", "--nonsense")[0] == 2


def test_a_failing_compilation_does_not_matter(checkout: Checkout) -> None:
    """It reads none of the command's input, leaves no results, and the command runs whatever it returns."""
    compiles = '*"-m sweep.cli launch first"*) cat >/dev/null; mkdir .venv/results; exit 1 ;;\n*) said=$(IFS'
    write_program(checkout.bin / "python3", checkout.stand_in.replace("*) said=$(IFS", compiles))
    code, _, _ = checkout.run("test")
    assert code == 0
    assert checkout.recorded()[-1] == ALL_TESTS
    assert not (checkout.root / ".venv/results").exists()


def test_name_as_typed(tmp_path: Path) -> None:
    """scripts/sweep passes on its name as it was called: only `sweep` where the PATH leads to it, else its path."""
    shutil.copy(ROOT / "scripts" / "sweep", tmp_path)
    (tmp_path / "_venv.sh").write_text('python="$here/python"\n')
    write_program(tmp_path / "python", '#!/bin/sh\necho "$PTSWEEP_CALLED_AS"\n')
    for path, command, name in (
        (f"{tmp_path}:{os.environ['PATH']}", "sweep", "sweep"),
        (os.environ["PATH"], "./sweep", "./sweep"),
        (os.environ["PATH"], f"{tmp_path}/sweep", f"{tmp_path}/sweep"),
    ):
        words = ["sh", "-c", command]
        printed = subprocess.run(
            words, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=True
        ).stdout
        assert printed == f"{name}\n"
