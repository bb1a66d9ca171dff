"""Launches on a cluster of three nodes with --address, also where nodes lack ptsweep or have another version."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sweep.query.database import Database
from sweep.store.store import Store
from tests.paths import ROOT
from tests.support import fake_engine
from tests.support.planted_modules import PlantedModules
from tests.support.ray_clusters import Cluster, Hosts, why_no_hosts

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

PATIENCE_S = 300.0
GRID = """schema: sweep/1
name: spread
fixed: {virt: 256GiB, sparsity: 0.99, zap: 64KiB}
axes: {threads: [1, 8]}
repeats: 150
"""
DRIVER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from sweep.run import batching
from sweep.run.launch import LaunchOptions, launch
from tests.support import fake_engine
asked = json.loads(sys.argv[1])
batching.TASK_POINTS = asked.pop("task_points")
options = LaunchOptions(Path(asked.pop("results")), executor="ray", runner=fake_engine.RUNNER, **asked["options"])
print(json.dumps(asdict(launch(fake_engine.grid(**asked["grid"]), options, fake_engine.RecordingProgress()))))
"""


@pytest.fixture(scope="module")
def wait_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which waiting points write the process id of their raylet."""
    return tmp_path_factory.mktemp("waiting")


@pytest.fixture(scope="module")
def cluster(wait_folder: Path) -> Iterator[Cluster]:
    """Three nodes with one CPU and the smallest object store each. Their workers can import the tests."""
    cluster = Cluster(nodes=3, PYTHONPATH=str(ROOT), SWEEP_TEST_WAIT=str(wait_folder))
    yield cluster
    cluster.stop()


def sweep(
    cluster: Cluster, *words: str, prefix: tuple[str, ...] = (), cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run the command with the cluster's token."""
    command = [*prefix, sys.executable, "-P", "-m", "sweep.cli", *words]
    environment = cluster.environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def drive(
    cluster: Cluster | None,
    results: Path,
    seeds: list[int],
    task_points: int = 8192,
    rounds: int = 1,
    prefix: tuple[str, ...] = (),
    **options: Any,
) -> dict[str, Any]:
    """Launch fake points in another process, as Ray keeps one token per process. Returns the LaunchSummary."""
    given = {"address": cluster.address} if cluster else {"jobs": 1}
    asked = {
        "results": str(results),
        "grid": {"seeds": seeds, "rounds": rounds},
        "task_points": task_points,
        "options": given | options,
    }
    environment = cluster.environment if cluster else dict(os.environ)
    environment |= {name: value for name, value in os.environ.items() if name.startswith("RAY_memory")}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", DRIVER, json.dumps(asked)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def rows(results: Path, sql: str) -> list[dict[str, Any]]:
    with Database(Store(results)) as database:
        found: list[dict[str, Any]] = database.query(sql).to_pylist()
    return found


def write_grid(tmp_path: Path) -> str:
    path = tmp_path / "spread.yaml"
    path.write_text(GRID)
    return str(path)


def test_a_cluster_gives_the_rows_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    """Points run on all nodes, which their rows name, and outcomes equal those of one process bit for bit.

    No worker imports from the driver's current folder, which Ray would put on its path.
    """
    grid, planted = write_grid(tmp_path), PlantedModules(tmp_path)
    words = ("launch", grid, "--address", cluster.address, "--results", str(tmp_path / "there"))
    there = sweep(cluster, *words, cwd=planted.folder)
    assert planted.imported() == []
    here = sweep(cluster, "launch", grid, "--executor", "inline", "--results", str(tmp_path / "here"))
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    outcomes = "SELECT * EXCLUDE (run_id) FROM outcomes ORDER BY point_id, policy"
    assert rows(tmp_path / "there", outcomes) == rows(tmp_path / "here", outcomes)
    nodes = rows(tmp_path / "there", "SELECT node, count(*) AS points FROM points GROUP BY ALL")
    assert len(nodes) == 3
    assert sum(row["points"] for row in nodes) == 300


def test_failures_say_which_node(cluster: Cluster, tmp_path: Path) -> None:
    """Also those of a point that kills its worker and of one that is stuck."""
    bad = [fake_engine.RAISES, fake_engine.DIES, fake_engine.HANGS]
    summary = drive(cluster, tmp_path, [1, 2, 3, *bad], timeout_s=6.0)
    assert summary["points"] == {"ok": 3, "failed": 1, "lost": 1, "timeout": 1}
    failures = {row["seed"]: row for row in rows(tmp_path, "SELECT * FROM failures")}
    assert sorted(failures) == sorted(bad)
    known = {row["node"] for row in rows(tmp_path, "SELECT node FROM points WHERE status = 'ok'")}
    assert all(row["node"].partition("/")[0] in {name.partition("/")[0] for name in known} for row in failures.values())
    assert all(len(row["node"].partition("/")[2]) == 8 for row in failures.values())


def test_answers_larger_than_the_object_stores(cluster: Cluster, tmp_path: Path) -> None:
    """Six answers of 30 MB are in flight at a time, with object stores of 75 MiB per node: all arrive."""
    summary = drive(cluster, tmp_path, list(range(100, 112)), rounds=130_000, task_points=1)
    assert summary["points"] == {"ok": 12}
    assert rows(tmp_path, "SELECT count(*) AS n FROM rounds") == [{"n": 12 * 7 * 130_000}]


def test_a_node_that_dies_costs_no_point(cluster: Cluster, wait_folder: Path, tmp_path: Path) -> None:
    """If a raylet is killed while its worker runs a batch, the batch runs again on another node as its next attempt."""
    cluster.add(3)
    seeds = [1, 2, *range(fake_engine.WAITS, fake_engine.WAITS + 4)]
    with ThreadPoolExecutor(1) as pool:
        summary = pool.submit(drive, cluster, tmp_path, seeds, task_points=1)
        end = time.monotonic() + PATIENCE_S
        raylets = [node.named("raylet")[0] for node in cluster.nodes]
        while not (busy := [r for r in raylets[1:] if (wait_folder / str(r.pid)).exists()]):
            assert time.monotonic() < end
            time.sleep(0.05)
        workers = busy[0].children()
        busy[0].kill()
        assert not psutil.wait_procs(workers, timeout=PATIENCE_S)[1]  # they notice that their node is gone
        (wait_folder / "go").touch()
        assert summary.result()["points"] == {"ok": len(seeds)}
    assert rows(tmp_path, "SELECT max(attempt) AS last FROM points") == [{"last": 2}]
    for node in [node for node in cluster.nodes if not node.named("raylet")]:
        node.kill()
        cluster.nodes.remove(node)


def test_a_point_killed_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that Ray kills for lack of memory (here: always) gives a row that says so after three attempts."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.0")
    summary = drive(None, tmp_path, [fake_engine.HANGS])
    assert summary["points"] == {"lost": 1}
    (row,) = rows(tmp_path, "SELECT * FROM failures")
    assert (row["status"], row["attempt"], row["error_class"]) == ("lost", 3, "OutOfMemory")
    assert "memory" in row["last_lines"]
    assert row["node"]


@pytest.fixture(scope="module")
def python_without_ptsweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all packages of this one but ours."""
    venv = tmp_path_factory.mktemp("python_without_ptsweep")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    for entry in Path(np.__file__).parents[1].iterdir():
        if "ptsweep" not in entry.name and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    python = venv / "bin" / "python"
    imports = [str(python), "-c", "import engine"]
    assert b"No module named 'engine'" in subprocess.run(imports, cwd=venv, capture_output=True, check=False).stderr
    return python


@pytest.fixture(scope="module")
def cluster_without_ptsweep(python_without_ptsweep: Path) -> Iterator[Cluster]:
    """A cluster of one node that has numpy, numba and Ray, and not ptsweep."""
    cluster = Cluster(nodes=1, python=str(python_without_ptsweep))
    yield cluster
    cluster.stop()


def test_nodes_without_ptsweep_get_the_code(cluster_without_ptsweep: Cluster, tmp_path: Path) -> None:
    """The packages engine and sweep are sent with the launch."""
    words = [
        write_grid(tmp_path),
        "--address",
        cluster_without_ptsweep.address,
        "-S",
        "repeats=2",
        "--results",
        str(tmp_path / "r"),
    ]
    done = sweep(cluster_without_ptsweep, "launch", *words)
    assert done.returncode == 0, done.stderr
    assert "points: 4 ok" in done.stdout


def test_another_version_on_a_node_is_refused(
    cluster_without_ptsweep: Cluster, python_without_ptsweep: Path, tmp_path: Path
) -> None:
    """If a node imports another version, one line names host and folder; the exit code is 2, and no run is left."""
    stale = tmp_path / "stale"
    shutil.copytree(ROOT / "engine", stale / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    with (stale / "engine" / "model" / "scenario.py").open("a") as file:
        file.write("# another version\n")
    (packages,) = python_without_ptsweep.parents[1].glob("lib/python*/site-packages")
    first = packages / "stale.pth"
    first.write_text(f"import sys; sys.path.insert(0, {str(stale)!r}); import engine\n")
    try:
        words = [write_grid(tmp_path), "--address", cluster_without_ptsweep.address, "--results", str(tmp_path / "r")]
        done = sweep(cluster_without_ptsweep, "launch", *words)
    finally:
        first.unlink()
    assert done.returncode == 2, done.stderr
    message = done.stderr.splitlines()[-1]
    assert "another ptsweep on Ray's workers" in message
    assert f"loads {stale / 'engine'}, which is not this version's" in message
    assert Store(tmp_path / "r").runs() == []


def test_three_hosts_each_with_its_own_address(tmp_path: Path) -> None:
    """A driver on one host runs points on all. On a host without a Ray node a launch is refused with one line."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    hosts = Hosts(3, PYTHONPATH=str(ROOT))
    try:
        seeds = [*range(100, 160), *range(fake_engine.SLEEPS, fake_engine.SLEEPS + 1)]
        summary = drive(hosts, tmp_path / "r", seeds, task_points=1, prefix=tuple(hosts.prefix(1)))
        words = ["launch", write_grid(tmp_path), "--address", hosts.address, "--results", str(tmp_path / "none")]
        refused = sweep(hosts, *words, prefix=tuple(hosts.prefix(3)))
    finally:
        hosts.stop()
    assert summary["points"] == {"ok": len(seeds)}
    nodes = {row["node"].partition("/")[0] for row in rows(tmp_path / "r", "SELECT DISTINCT node FROM points")}
    assert len(nodes) >= 2
    assert nodes <= {"host0", "host1", "host2"}
    assert refused.returncode == 2
    assert "no Ray node runs on this machine" in refused.stderr
