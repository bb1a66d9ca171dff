"""The command inspect: what it prints and writes, and the processes that it refuses."""

import json
import os
import sys
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.grid.loader import load_grid
from tests.support.mapper import BASE, HALF_EMPTY, mapper

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """inspect prints all tables as JSON, one as CSV, and writes a grid that loads."""
    path = tmp_path / "like.yaml"
    with mapper(HALF_EMPTY) as process:
        assert main(["inspect", str(process.pid), "--json", "--grid", str(path)]) == 0
        parts = json.loads(capsys.readouterr().out)
        assert list(parts) == ["summary", "policy", "vma", "thp", "runs"]
        assert main(["inspect", str(process.pid), "--by", "slot", "--format", "csv"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "slot,entries,none"
        assert f"{BASE:#x},1,511" in lines
    assert load_grid(path).raw_points == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which process? give a PID or several, --all, or --cgroup NAME"),
        (("--all", "7"), "inspect: give PIDs, --all or --cgroup NAME, only one of the three"),
        (("--all", "--by", "vma"), "--by and --grid are for one process"),
        (("--cgroup", "../etc"), "--cgroup ../etc: no cgroup"),
        (("--cgroup", "no.slice"), "--cgroup no.slice: no cgroup /sys/fs/cgroup/no.slice"),
        (("1", "4194304"), "process"),
    ],
)
def test_which_processes(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What names no process, or names them in two ways, is one line and exit code 2."""
    assert main(["inspect", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["4194304"], "no process 4194304: it does not exist, or it ended"),
        (["2"], "process 2 "),
        (["0"], "invalid value for 'PID'"),
        (["SELF", "--zap", "3MiB"], "--zap 3MiB: a call is whole pages of 4KiB, and above 2MiB whole slots"),
        (["SELF", "--zap", "64"], "--zap: '64' has no unit"),
    ],
)
def test_processes_that_cannot_be_inspected(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """Missing and unreadable processes and bad options give exit code 2 and one line."""
    code = main(["inspect", *(str(os.getpid()) if word == "SELF" else word for word in words)])
    err = capsys.readouterr().err
    if words == ["2"] and code == 0:
        pytest.skip("process 2 is a program here, in a container")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
