"""Launches on failing disks: one line, exit code 2, no committed row lost."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.common import atomic_write
from sweep.store.store import Store
from tests.paths import ROOT
from tests.support import fake_engine
from tests.support.small_stores import commit, opened, part_paths

GRID = "schema: sweep/1\nname: small\nfixed: {virt: 2MiB, sparsity: 0.5}\naxes: {seed: [1, 2, 3, 4]}\n"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A program that launches a grid and commits after each point."""
    path = tmp_path / "small.yaml"
    path.write_text(GRID)
    monkeypatch.setattr("sweep.executors.base.MODEL_RUNNER", fake_engine.RUNNER)
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    monkeypatch.setattr("sweep.run.result_buffer.COMMIT_S", 0.0)
    return ["launch", str(path), "--executor", "inline", "--results", str(tmp_path / "results")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("writes", range(12))
def test_a_disk_that_fails_in_the_middle(
    launch: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    number: int,
) -> None:
    """A disk that is full after any number of writes gives exit code 2 and one line; the next launch runs the rest."""
    real, left = atomic_write.sync, [writes]

    def failing(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_write, "sync", failing)
        assert main([*launch, "-q"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"{tmp_path / 'results'}/" in err
    assert f": {os.strerror(number)}; " in err
    before = {run.run_id: run.ok for run in Store(tmp_path / "results").runs()}
    assert main([*launch, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["done_before"] == sum(before.values())
    assert summary["points"].get("ok", 0) == 4 - summary["done_before"]
    (run,) = Store(tmp_path / "results").runs()
    assert (run.status, run.ok, run.failed, run.todo) == ("ok", 4, 0, 0)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


AS_NOBODY = """
import os, sys
from pathlib import Path
from sweep.common.errors import UserError
from tests.support.small_stores import opened
os.chdir(sys.argv[1])
if os.geteuid() == 0:  # whom no permission binds
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
try:
    opened(Path("results"), sys.argv[2])
except UserError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("what", ["store", "part", "folder"])
def test_permissions_that_are_missing(tmp_path: Path, what: str) -> None:
    """Missing permissions are one line with a remedy, and are not treated as damage."""
    root = tmp_path / "results"
    with opened(root) as writer:
        commit(writer, 0, 3)
    part = part_paths(root / writer.run_id, "points")[0]
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o777)
    shut = {"store": root, "part": part, "folder": part.parent}[what]
    shut.chmod(0o555 if what == "store" else 0o000)
    name = "second-0123abcd" if what == "store" else writer.run_id
    command = [sys.executable, "-c", AS_NOBODY, str(tmp_path), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    shut.chmod(0o777)
    assert done.stdout.startswith("UserError results"), done.stderr
    assert ": Permission denied; change its permissions" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (root / writer.run_id / "damaged").exists()
    with opened(root) as again:
        assert again.problems == []


def test_a_store_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A query of a missing store is an error and creates nothing, except for the shipped cost tables."""
    there = ["--results", str(tmp_path / "nowhere")]
    assert main(["query", "SELECT * FROM outcomes", *there]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{tmp_path / 'nowhere'}: no store there" in err
    assert main(["query", "SELECT count(*) > 0 AS some FROM costs", *there]) == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_part_is_said_by_each_command(
    launch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """query leaves a damaged part out and names it; launch sets it aside and runs its points again."""
    assert main([*launch, "-q"]) == 0
    (run,) = Store(tmp_path / "results").runs()
    part = part_paths(run.path, "outcomes")[0]
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    capsys.readouterr()
    asked = ["query", "SELECT count(*) AS n FROM outcomes", "--format", "csv", "--results", str(tmp_path / "results")]
    assert main(asked) == 0
    out, err = capsys.readouterr()
    assert out == "n\n0\n"
    assert f"warning: left out: {part}: " in err
    assert main([*launch, "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"warning: {part}: is not what was written; set aside in " in err
    assert json.loads(out)["points"] == {"ok": 4}
    assert main(asked) == 0
    assert capsys.readouterr() == ("n\n28\n", "")
