"""docs/cluster.md: its configurations, as they stand there, before whatever of their readers can be had here."""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from moto import mock_aws

from sweep.cli.main import main
from sweep.query.database import Database
from sweep.store.store import Store
from tests.paths import ROOT
from tests.support.ray_clusters import STORE_BYTES, free_port

PAGE = (ROOT / "docs" / "cluster.md").read_text()
PATIENCE_S = 180.0
KUBERAY = {
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"entrypoint", "runtimeEnvYAML", "shutdownAfterJobFinishes", "rayClusterSpec"},
    "rayClusterSpec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "authOptions": {"mode"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
"""Fields of ray.io/v1 that a job like this may want, from KubeRay's API reference (ray-project.github.io/kuberay)."""


def blocks(heading: str, language: str) -> list[str]:
    """The code of a section, without the fences."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def launches() -> list[str]:
    """Every launch that the page's blocks run, from `launch` to the end of its line."""
    code = "".join(re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [found[1] for found in re.finditer(r"(?:sweep\.cli|scripts/sweep) (launch .*)", code)]


@pytest.mark.parametrize("number", range(4))
def test_the_pages_launches_are_right(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options and grid of each command are there: a dry run of it is fine."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(launches()[number].replace("s3://bucket/prefix", str(tmp_path)).replace("$head", "head"))
    if "--results" not in words:  # what the reader has launched here already is not the page's
        words += ["--results", str(tmp_path)]
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
    assert f"would run on Ray at {words[words.index('--address') + 1]}" in capsys.readouterr().err


def test_there_are_no_other_launches() -> None:
    """That of two nodes on one machine, KubeRay's, Slurm's and the job's."""
    assert len(launches()) == 4


def test_no_usage_statistics() -> None:
    """Every block that starts a node of Ray, or an image or a shell for it, turns Ray's usage statistics off."""
    code = [*re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL), *re.findall(r"`([^`\n]*ray up [^`\n]*)`", PAGE)]
    starting = [block for block in code if re.search(r"ray (start|up|job submit)|FROM rayproject", block)]
    assert len(starting) == 5
    assert all("RAY_USAGE_STATS_ENABLED=0" in block for block in starting)


@pytest.mark.slow
def test_ray_up_takes_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray adds what AWS says of the machines (here moto) and finds nothing wrong; the head takes no points."""
    from ray.autoscaler._private.providers import _get_node_provider_cls
    from ray.autoscaler._private.util import prepare_config, validate_config

    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    rented, owned = (yaml.safe_load(block) for block in blocks("ray up", "yaml"))
    config = prepare_config(rented)
    with mock_aws():
        config = _get_node_provider_cls(config["provider"]).fillout_available_node_types_resources(config)
    validate_config(config)
    kinds = config["available_node_types"]
    assert {kind: kinds[kind]["resources"]["CPU"] for kind in kinds} == {"head": 0, "worker": 64}
    config = prepare_config(owned)
    validate_config(config)
    assert config["max_workers"] == len(owned["provider"]["worker_ips"])


def test_kuberay_knows_every_field() -> None:
    """The RayJob has only fields of KubeRay's reference; both groups run one image; what Ray starts with is text."""
    (text,) = blocks("KubeRay", "yaml")
    job = yaml.safe_load(text)
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    parts = {"RayJob": job, "spec": job["spec"], "rayClusterSpec": cluster, "authOptions": cluster["authOptions"]}
    for name, part in (parts | {"headGroupSpec": head, "workerGroupSpecs": workers}).items():
        assert set(part) <= KUBERAY[name], name
    assert (job["apiVersion"], job["kind"], cluster["authOptions"]) == ("ray.io/v1", "RayJob", {"mode": "token"})
    containers = [group["template"]["spec"]["containers"][0] for group in (head, workers)]
    assert len({container["image"] for container in containers}) == 1
    params: dict[str, Any] = head["rayStartParams"] | workers["rayStartParams"]
    assert all(isinstance(value, str) for value in params.values())
    assert list(yaml.safe_load(job["spec"]["runtimeEnvYAML"])) == ["working_dir"]


RAY = """#!{python}
import sys
from ray.scripts.scripts import main
more = ["--object-store-memory={store_bytes}", "--disable-usage-stats"]
head = ["--num-cpus=0", "--temp-dir={folder}/r", "--include-dashboard=false"]
sys.argv += more + (head if "--head" in sys.argv else ["--num-cpus=1"])
main()
"""
RAY_COMMAND = """#!{python}
import sys
from ray.scripts.scripts import main
if "start" in sys.argv:
    sys.argv.append("--object-store-memory={store_bytes}")
if "--head" in sys.argv:
    sys.argv.append("--temp-dir={folder}/r")
main()
"""
SRUN = """#!{python}
import os, pathlib, sys
first = next(i for i, word in enumerate(sys.argv) if i and not word.startswith("-"))
pathlib.Path("{folder}/srun").write_text(" ".join(sys.argv[1:first]))
os.execvp(sys.argv[first], sys.argv[first:])
"""
SWEEP = """#!{python}
import pathlib, sys
from sweep.run.launch import LaunchOptions, launch
from tests.support import fake_engine
assert sys.argv[1:-1] == ["launch", "grids/first.yaml", "--address"]
options = LaunchOptions(pathlib.Path("results"), address=sys.argv[-1], runner=fake_engine.RUNNER)
launch(fake_engine.grid([1, 2]), options, fake_engine.RecordingProgress())
sys.exit(5)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A home for one node's job; what runs with it is killed at the end, as Slurm does."""
    made = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # short: Ray puts sockets there
    yield made
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") == str(made):
                process.kill()
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.cluster
def test_two_nodes_on_one_machine(folder: Path) -> None:
    """The page's five commands, in a home of their own: two nodes of one CPU each, and the launch's points are ok."""
    (script,) = blocks("Two nodes on one machine", "sh")
    assert len(script.splitlines()) == 5
    fill = {"python": sys.executable, "store_bytes": STORE_BYTES, "folder": folder}
    for name, text in {".venv/bin/ray": RAY_COMMAND, "scripts/sweep": SWEEP}.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text.format(**fill))
        path.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = folder / "said"
    with said.open("w") as log:
        done = subprocess.run(
            ["sh", "-c", script.replace("6379", str(free_port()))],
            cwd=folder,
            env=environment | {"HOME": str(folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 5, said.read_text()
    with Database(Store(folder / "results")) as database:
        assert database.query("SELECT status FROM points").to_pylist() == [{"status": "ok"}] * 2
    raylets = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet" and _has_home(p, folder)]
    assert len(raylets) == 2


def _has_home(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("HOME") == str(folder)
    return False


@pytest.mark.slow
@pytest.mark.cluster
def test_slurms_script(folder: Path) -> None:
    """Two nodes here, a stand-in for srun: points run on the node that joins; the launch's exit code is the job's."""
    (script,) = blocks("Slurm", "sh")
    fill = {"python": sys.executable, "store_bytes": STORE_BYTES, "folder": folder}
    for name, text in {".venv/bin/ray": RAY, "scripts/sweep": SWEEP, "bin/srun": SRUN}.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text.format(**fill))
        path.chmod(0o755)
    (folder / "job.sh").write_text(script.replace("6379", str(free_port())))
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(folder), "PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment |= {"SLURMD_NODENAME": "127.0.0.1", "SLURM_NNODES": "2", "RAY_USAGE_STATS_ENABLED": "0"}
    said = folder / "said"
    with said.open("w") as log:
        done = subprocess.run(
            ["sh", "-u", "job.sh"], cwd=folder, env=environment, stdout=log, stderr=log, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 5, said.read_text()
    assert (folder / "srun").read_text() == "--nodes=1 --ntasks=1 --exclude=127.0.0.1 --cpu-bind=none"
    with Database(Store(folder / "results")) as database:
        assert database.query("SELECT status FROM points").to_pylist() == [{"status": "ok"}] * 2
