"""Clusters: three nodes as processes, driven through --address; workers without the project and with another one."""

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
print(json.dumps(asdict(launch(fake_engine.grid(**asked["grid"]), options, fake_engine.Told()))))
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where points say that they wait, and for what."""
    return tmp_path_factory.mktemp("waiting")


@pytest.fixture(scope="module")
def cluster(waiting: Path) -> Iterator[Cluster]:
    """Three nodes of one CPU and the smallest object store, whose workers can import the tests."""
    made = Cluster(nodes=3, PYTHONPATH=str(ROOT), SWEEP_TEST_WAIT=str(waiting))
    yield made
    made.stop()


def sweep(
    cluster: Cluster, *words: str, prefix: tuple[str, ...] = (), cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """The command, with the cluster's token."""
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
    """A launch of fake points in a process of its own: Ray keeps one token a process."""
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


def written(tmp_path: Path) -> str:
    path = tmp_path / "spread.yaml"
    path.write_text(GRID)
    return str(path)


def test_a_cluster_gives_the_rows_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    """Points go to all nodes, their rows say which, and they are the same, bit for bit, as without Ray.

    No worker imports from the driver's current folder, which Ray would put on their path.
    """
    grid, planted = written(tmp_path), PlantedModules(tmp_path)
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
    """Of a point that kills its worker, and of one that is stuck, too."""
    bad = [fake_engine.RAISES, fake_engine.DIES, fake_engine.HANGS]
    summary = drive(cluster, tmp_path, [1, 2, 3, *bad], timeout_s=6.0)
    assert summary["points"] == {"ok": 3, "failed": 1, "lost": 1, "timeout": 1}
    told = {row["seed"]: row for row in rows(tmp_path, "SELECT * FROM failures")}
    assert sorted(told) == sorted(bad)
    known = {row["node"] for row in rows(tmp_path, "SELECT node FROM points WHERE status = 'ok'")}
    assert all(row["node"].partition("/")[0] in {name.partition("/")[0] for name in known} for row in told.values())
    assert all(len(row["node"].partition("/")[2]) == 8 for row in told.values())


def test_answers_larger_than_the_object_stores(cluster: Cluster, tmp_path: Path) -> None:
    """Six answers of 30 MB each are on the way at a time, into object stores of 75 MiB a node: all arrive."""
    summary = drive(cluster, tmp_path, list(range(100, 112)), rounds=130_000, task_points=1)
    assert summary["points"] == {"ok": 12}
    assert rows(tmp_path, "SELECT count(*) AS n FROM rounds") == [{"n": 12 * 7 * 130_000}]


def test_a_node_that_dies_costs_no_point(cluster: Cluster, waiting: Path, tmp_path: Path) -> None:
    """kill -9 of a node's raylet while its worker works: the batch runs again on another, as its next attempt."""
    cluster.add(3)
    seeds = [1, 2, *range(fake_engine.WAITS, fake_engine.WAITS + 4)]
    with ThreadPoolExecutor(1) as pool:
        summary = pool.submit(drive, cluster, tmp_path, seeds, task_points=1)
        end = time.monotonic() + PATIENCE_S
        raylets = [node.named("raylet")[0] for node in cluster.nodes]
        while not (busy := [r for r in raylets[1:] if (waiting / str(r.pid)).exists()]):
            assert time.monotonic() < end
            time.sleep(0.05)
        workers = busy[0].children()
        busy[0].kill()
        assert not psutil.wait_procs(workers, timeout=PATIENCE_S)[1]  # they notice that their node is gone
        (waiting / "go").touch()
        assert summary.result()["points"] == {"ok": len(seeds)}
    assert rows(tmp_path, "SELECT max(attempt) AS last FROM points") == [{"last": 2}]
    for node in [node for node in cluster.nodes if not node.named("raylet")]:
        node.kill()
        cluster.nodes.remove(node)


def test_a_point_killed_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray kills where memory runs short (here: always); the row says so, and it is not tried for ever."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.0")
    summary = drive(None, tmp_path, [fake_engine.HANGS])
    assert summary["points"] == {"lost": 1}
    (row,) = rows(tmp_path, "SELECT * FROM failures")
    assert (row["status"], row["attempt"], row["error_class"]) == ("lost", 3, "OutOfMemory")
    assert "memory" in row["last_lines"]
    assert row["node"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with every package of this one but ours."""
    home = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (there,) = home.glob("lib/python*/site-packages")
    here = Path(np.__file__).parents[1]
    for entry in here.iterdir():
        if "ptsweep" not in entry.name and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
    python = home / "bin" / "python"
    hidden = [str(python), "-c", "import engine"]
    assert b"No module named 'engine'" in subprocess.run(hidden, cwd=home, capture_output=True, check=False).stderr
    return python


@pytest.fixture(scope="module")
def strangers(bare: Path) -> Iterator[Cluster]:
    """A node that has numpy, numba and Ray, and nothing of ours."""
    made = Cluster(nodes=1, python=str(bare))
    yield made
    made.stop()


def test_code_reaches_nodes_that_have_none_of_it(strangers: Cluster, tmp_path: Path) -> None:
    """Engine and sweep travel with the launch."""
    words = [written(tmp_path), "--address", strangers.address, "-S", "repeats=2", "--results", str(tmp_path / "r")]
    done = sweep(strangers, "launch", *words)
    assert done.returncode == 0, done.stderr
    assert "points   4 ok" in done.stdout


def test_another_version_on_a_node_is_refused(strangers: Cluster, bare: Path, tmp_path: Path) -> None:
    """Where it comes first all the same, one line says which host loads which code; exit code 2, and no run is left."""
    stale = tmp_path / "stale"
    shutil.copytree(ROOT / "engine", stale / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    with (stale / "engine" / "model" / "scenario.py").open("a") as file:
        file.write("# another version\n")
    (packages,) = bare.parents[1].glob("lib/python*/site-packages")
    first = packages / "stale.pth"
    first.write_text(f"import sys; sys.path.insert(0, {str(stale)!r}); import engine\n")
    try:
        words = [written(tmp_path), "--address", strangers.address, "--results", str(tmp_path / "r")]
        done = sweep(strangers, "launch", *words)
    finally:
        first.unlink()
    assert done.returncode == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert "another ptsweep on Ray's workers" in told
    assert f"loads {stale / 'engine'}, which is not this version's" in told
    assert Store(tmp_path / "r").runs() == []


def test_three_hosts_each_with_its_own_address(tmp_path: Path) -> None:
    """The driver on one, points on all; from a machine beside them that is no node a launch is refused in a line."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    made = Hosts(3, PYTHONPATH=str(ROOT))
    try:
        seeds = [*range(100, 160), *range(fake_engine.SLEEPS, fake_engine.SLEEPS + 1)]
        summary = drive(made, tmp_path / "r", seeds, task_points=1, prefix=tuple(made.prefix(1)))
        words = ["launch", written(tmp_path), "--address", made.address, "--results", str(tmp_path / "none")]
        refused = sweep(made, *words, prefix=tuple(made.prefix(3)))
    finally:
        made.stop()
    assert summary["points"] == {"ok": len(seeds)}
    nodes = {row["node"].partition("/")[0] for row in rows(tmp_path / "r", "SELECT DISTINCT node FROM points")}
    assert len(nodes) >= 2
    assert nodes <= {"host0", "host1", "host2"}
    assert refused.returncode == 2
    assert "no Ray node runs on this machine" in refused.stderr
