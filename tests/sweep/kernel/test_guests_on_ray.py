"""Kernels in guests as Ray tasks: a private Ray, a cluster of which one node has no QEMU, and what dies meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweep.cli.main import main
from sweep.kernel_images.kernel_cache import cache_folder
from sweep.query.database import Database
from sweep.store.store import Store
from tests.paths import ROOT
from tests.support.guest_kernels import RELEASES, need_kernels
from tests.support.ray_clusters import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.cluster]

GRID = """schema: sweep/1
name: guests
policies: [none, merged]
kernels: ["6.12", "7.3"]
fixed: {sparsity: 0.9, virt: 30MiB}
axes: {zap: [64KiB, 2MiB, 3MiB], threads: [1, 2]}
"""
ALL_PLACES = ["--engine", "kernel", "-q"]
PATIENCE_S = 240.0


class OneWithoutQemu(Cluster):
    """A head on which QEMU cannot be found, so that it boots no guest, and a node like this machine."""

    def prefix(self, number: int) -> list[str]:
        return [] if number else ["env", f"PATH={without_qemu(self.folder / 'bin')}"]


def without_qemu(folder: Path) -> Path:
    """Fill a folder with links to all programs of PATH but QEMU."""
    folder.mkdir(exist_ok=True)
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            link = folder / program.name
            if not (program.name.startswith("qemu") or link.is_symlink()):
                link.symlink_to(program)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    need_kernels()
    cluster = OneWithoutQemu(nodes=2, PYTHONPATH=str(ROOT), XDG_CACHE_HOME="")
    yield cluster
    cluster.stop()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_kernels()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guests.yaml").write_text(GRID)
    return tmp_path


def start_sweep(folder: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """A launch in a process of its own, with this user's kernels."""
    command = [sys.executable, "-P", "-m", "sweep.cli", "launch", "guests.yaml", *ALL_PLACES, *words]
    env = os.environ | environment | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache_folder().parent)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def rows(sql: str, results: str = "results") -> list[dict[str, Any]]:
    with Database(Store(Path(results))) as database:
        return list(database.query(sql).to_pylist())


def guests_of(process: int) -> list[psutil.Process]:
    """The running QEMUs below a process."""
    try:
        below = psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [one for one in below if one.is_running() and one.name().startswith("qemu")]


def wait_for_guests(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    end = time.monotonic() + PATIENCE_S
    while not (found := guests_of(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_a_private_ray_gives_the_rows_of_one_process(folder: Path) -> None:
    """A worker that is killed costs no point."""
    launch = start_sweep(folder, "--executor", "ray", "-j", "2")
    guest = wait_for_guests(launch)[0]
    (worker,) = [one for one in guest.parents() if "ray::" in one.name() or "python" in one.name()][:1]
    worker.kill()
    _, stderr = launch.communicate(timeout=PATIENCE_S)
    assert (launch.returncode, stderr) == (0, ""), stderr
    assert main(["launch", "guests.yaml", *ALL_PLACES, "--results", "local"]) == 0
    columns = "* EXCLUDE (run_id, install_ns, zap_ns, cost_ns)"
    order = "FROM outcomes ORDER BY point_id, policy, kernel_release"
    assert rows(f"SELECT {columns} {order}") == rows(f"SELECT {columns} {order}", "local")
    assert [row["n"] for row in rows("SELECT count(*) AS n FROM points WHERE status = 'ok'")] == [6]


def test_a_node_without_qemu_runs_nothing(cluster: Cluster, folder: Path) -> None:
    """All points run on the other node. The run is that of this machine: the same kernels, the same identity."""
    launch = start_sweep(folder, "--address", cluster.address, "--kernel", "7.3", **cluster.environment)
    _, stderr = launch.communicate(timeout=PATIENCE_S)
    assert launch.returncode == 0, stderr
    assert [row["nodes"] for row in rows("SELECT count(DISTINCT node) AS nodes FROM points")] == [1]
    assert [row["n"] for row in rows("SELECT count(*) AS n FROM outcomes WHERE kernel_release LIKE '7.3%'")] == [6]
    assert main(["launch", "guests.yaml", *ALL_PLACES, "--kernel", "7.3"]) == 0
    assert [row["n"] for row in rows("SELECT count(DISTINCT run_id) AS n FROM points")] == [1]


def test_no_node_can_boot_a_kernel(folder: Path) -> None:
    """It is one line that names the node and what it lacks, before there is a run."""
    launch = start_sweep(folder, "--executor", "ray", PATH=str(without_qemu(folder / "bin")))
    stdout, stderr = launch.communicate(timeout=PATIENCE_S)
    assert (launch.returncode, stdout, stderr.count("\n")) == (2, "", 1), stderr
    assert "sweep: kernel 6.12" in stderr
    assert "no node can boot it: " in stderr
    assert "qemu-system" in stderr
    assert not (folder / "results").exists()


def test_no_guest_survives_a_killed_launch(folder: Path) -> None:
    """kill -9 of the launch ends its Ray's workers, and these their guests."""
    launch = start_sweep(folder, "--executor", "ray", "--kernel", RELEASES[1])
    guests = wait_for_guests(launch)
    launch.kill()
    launch.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(guests, timeout=30)
    assert alive == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--executor", "ray", "--kernel", "running"],
            "--executor ray: runs kernels in guests, on any node; name them",
        ),
        (["--address", "127.0.0.1:1", "--inside"], "--address 127.0.0.1:1: --inside counts inside the kernel of this"),
    ],
)
def test_options_that_exclude_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["launch", "guests.yaml", *ALL_PLACES, *words]) == 2
    assert message in capsys.readouterr().err
