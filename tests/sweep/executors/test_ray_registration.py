"""Ray's workers that never register: an error that names the node and its log, instead of a launch that waits."""

import platform
import re
from pathlib import Path

import pytest

from sweep.common.errors import UserError
from sweep.executors import ray
from sweep.run.launch import LaunchOptions, launch
from tests.support import fake_engine
from tests.support.ray_clusters import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

HANGS = """
import sys, time
if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    print("no licence for this node", file=sys.stderr, flush=True)
    time.sleep(1000)
"""
"""A sitecustomize.py, such as a site may have, with which no worker of Ray gets beyond its start."""
SOON = "from sweep.executors import ray_driver as d; d.REGISTER_S = 6.0; d.main()"


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for PYTHONPATH. The minute is six seconds here."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGS)
    monkeypatch.setattr(ray, "DRIVER_CODE", SOON)
    monkeypatch.setattr(ray, "JOIN_S", 6.0)
    return tmp_path / "site"


def failed_launch(results: Path, address: str | None) -> str:
    """The error of a launch on Ray."""
    options = LaunchOptions(results, executor="ray", jobs=1, address=address, runner=fake_engine.RUNNER)
    with pytest.raises(UserError) as raised:
        launch(fake_engine.grid(seeds=[1, 2]), options, fake_engine.RecordingProgress())
    return str(raised.value)


def test_a_private_ray(hanging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the last line that a worker wrote, and the logs stay."""
    monkeypatch.setenv("PYTHONPATH", str(hanging))
    error = failed_launch(tmp_path / "results", None)
    found = re.fullmatch(
        r"the local Ray: Ray's workers have not registered in 6 s: no licence for this node; logs: (\S+)", error
    )
    assert found, error
    assert (Path(found[1]) / "raylet.out").exists()
    assert not list((tmp_path / "results").glob("*/run.json"))


def test_a_cluster(hanging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the node on which the task waits, and the log there."""
    cluster = Cluster(nodes=1, PYTHONPATH=str(hanging))
    try:
        for name, value in cluster.token.items():
            monkeypatch.setenv(name, value)
        error = failed_launch(tmp_path / "results", cluster.address)
    finally:
        cluster.stop()
    late = (
        rf"--address {cluster.address}: Ray's workers have not registered in 6 s on {platform.node()}; log there: (\S+)"
    )
    found = re.fullmatch(late, error)
    assert found, error
    assert Path(found[1]).is_relative_to(cluster.folder)
    assert found[1].endswith("/logs/raylet.err")
