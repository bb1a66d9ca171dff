"""The disturbances of chaos trials: each is a context manager that disturbs a launch at a random moment."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import psutil

from tests.paths import ROOT
from tests.support.chaos import BrokenPromise, Disturbance, Trial

RAY_END_S = 30.0
ENDED_BY_SIGINT = (0, 3, -signal.SIGINT)  # finished before it; interrupted; before our handler was installed


@contextlib.contextmanager
def _driver(trial: Trial) -> Iterator[dict[str, str]]:
    process = trial.start()
    trial.wait_random(process)
    process.kill()
    trial.wait(process, -signal.SIGKILL, 0)
    yield {}


@contextlib.contextmanager
def _driver_after_commits(trial: Trial) -> Iterator[dict[str, str]]:
    process, parts = trial.start(), trial.rng.randint(1, 12)
    trial.wait_until(process, lambda: len(trial.parts()) >= parts)
    process.kill()
    trial.wait(process, -signal.SIGKILL, 0)
    yield {}


@contextlib.contextmanager
def _driver_while_merging(trial: Trial) -> Iterator[dict[str, str]]:
    process, wait_s = trial.start(), trial.rng.uniform(0, 0.05)
    trial.wait_until(process, lambda: any(path.name.count("-") > 1 for path in trial.parts()))
    time.sleep(wait_s)
    process.kill()
    trial.wait(process, -signal.SIGKILL, 0)
    yield {}


@contextlib.contextmanager
def _rm(trial: Trial) -> Iterator[dict[str, str]]:
    trial.wait(trial.start(), 0)
    before = len(trial.parts())
    process = trial.command("rm", "last", "--yes")
    trial.wait_until(process, lambda: len(trial.parts()) < before)
    time.sleep(trial.rng.uniform(0, 0.01))
    process.kill()
    trial.wait(process, -signal.SIGKILL, 0)
    yield {}


@contextlib.contextmanager
def _worker(trial: Trial) -> Iterator[dict[str, str]]:
    process = trial.start()
    trial.wait_random(process)
    with contextlib.suppress(psutil.Error, IndexError):
        trial.rng.choice(psutil.Process(process.pid).children()).kill()
    trial.wait(process, 0)
    yield {}


@contextlib.contextmanager
def _twice(trial: Trial) -> Iterator[dict[str, str]]:
    first = trial.start()
    trial.wait_random(first) if trial.rng.random() < 0.5 else None
    second = trial.start()
    codes = [trial.wait(first, 0, 2), trial.wait(second, 0, 2)]
    if 0 not in codes:
        raise BrokenPromise(f"neither of two launches ran: {trial.stderr}")
    yield {}


@contextlib.contextmanager
def _ctrl_c(trial: Trial, times: int = 1) -> Iterator[dict[str, str]]:
    process = trial.start()
    trial.wait_random(process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(trial.rng.uniform(0, 0.05))
    trial.wait(process, *ENDED_BY_SIGINT)
    yield {}


def _ctrl_c_twice(trial: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    return _ctrl_c(trial, 2)


@contextlib.contextmanager
def tmpfs(trial: Trial, size_kib: int) -> Iterator[Callable[[str], None]]:
    """Mounts a tmpfs for the results in a mount namespace; yields a function that remounts it with other options."""
    trial.results.mkdir()
    mount = f'mount -t tmpfs -o size={size_kib}k none "$1" && echo up && exec sleep infinity'
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", "--mount", *user, "sh", "-c", mount, "sh", str(trial.results)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != "up\n":
                raise BrokenPromise("no tmpfs can be mounted here")
            enter = (
                "nsenter",
                "--target",
                str(holder.pid),
                "--mount",
                *(("--user", "--preserve-credentials") if user else ()),
            )
            trial.command_prefix = (*enter, f"--wdns={ROOT}")
            inside, trial.results = trial.results, Path(f"/proc/{holder.pid}/root{trial.results}")
            yield lambda options: _run(*enter, "mount", "-o", f"remount,{options}", str(inside))
        finally:
            holder.kill()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def can_mount() -> bool:
    """Whether a tmpfs can be mounted in a mount namespace here."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", "--mount", *user, "sh", "-c", "mount -t tmpfs none /mnt && nsenter --version"]
    with contextlib.suppress(OSError):
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    return False


@contextlib.contextmanager
def _disk_full(trial: Trial) -> Iterator[dict[str, str]]:
    with tmpfs(trial, trial.rng.randrange(32, 600)) as remount:
        code = trial.wait(trial.start(), 0, 2)
        if code == 2 and "space" not in trial.stderr[-1]:
            raise BrokenPromise(trial.stderr[-1])
        remount("size=64m")
        yield {}


@contextlib.contextmanager
def _read_only(trial: Trial) -> Iterator[dict[str, str]]:
    with tmpfs(trial, 65536) as remount:
        process = trial.start()
        trial.wait_random(process)
        for _ in range(100):
            with contextlib.suppress(subprocess.CalledProcessError):  # busy while a file is open for writing
                remount("ro")
                break
            time.sleep(0.01)
        code = trial.wait(process, 0, 2)
        if code == 2 and "ead-only" not in trial.stderr[-1]:
            raise BrokenPromise(trial.stderr[-1])
        remount("rw")
        yield {}


@contextlib.contextmanager
def _damaged(trial: Trial, damage: Callable[[Trial, Path], None]) -> Iterator[dict[str, str]]:
    with _driver(trial):
        parts = trial.parts()
        if parts:
            damage(trial, trial.rng.choice(parts))
        yield {}


def _truncated(trial: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    return _damaged(trial, lambda trial, part: os.truncate(part, trial.rng.randrange(part.stat().st_size)))


def _noise(trial: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    def damage(trial: Trial, part: Path) -> None:
        size = part.stat().st_size
        start = trial.rng.randrange(size)
        with part.open("r+b") as file:
            file.seek(start)
            file.write(trial.rng.randbytes(trial.rng.randint(1, size - start)))

    return _damaged(trial, damage)


@contextlib.contextmanager
def _clock(trial: Trial) -> Iterator[dict[str, str]]:
    """Moves all times written so far, in run.json and of files, into the future."""
    with _driver(trial):
        ahead = timedelta(seconds=trial.rng.randrange(1, 400 * 86400))
        for document in trial.results.glob("*/run.json"):
            facts = json.loads(document.read_text())
            for holder, key in [(facts, "created"), (facts, "updated"), *((one, "at") for one in facts["launches"])]:
                holder[key] = (datetime.fromisoformat(holder[key]) + ahead).isoformat()
            document.write_text(json.dumps(facts))
        for path in trial.results.rglob("*"):
            os.utime(path, (path.stat().st_mtime + ahead.total_seconds(),) * 2)
        yield {}


JUMPS = """
import datetime, random, time
clock, dice = time.time, random.Random({seed})
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return super().now(zone) + datetime.timedelta(seconds=dice.choice([-4e7, -4e3, -40, 0, 40, 4e3, 4e7]))
time.time = lambda: clock() + dice.choice([-4e7, -4e3, -40, 0, 40, 4e3, 4e7])
from sweep.tables import result_tables
from sweep.store import run_writer, store
result_tables.datetime = run_writer.datetime = store.datetime = Jumping
"""
"""Each look at the clock of this process finds it set to another time, up to 463 days off."""


@contextlib.contextmanager
def _clock_jumps(trial: Trial) -> Iterator[dict[str, str]]:
    trial.patches = JUMPS.format(seed=trial.rng.randrange(1000))
    with _driver(trial):
        yield {}


@contextlib.contextmanager
def _out_of_memory(trial: Trial) -> Iterator[dict[str, str]]:
    """Limits what the workers may map to what they have. Their points fail; the next launch runs those again."""
    process = trial.start()
    trial.wait_random(process)
    for worker in _workers(process.pid):
        with contextlib.suppress(psutil.Error):
            worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + trial.rng.randrange(1 << 24),) * 2)
    trial.wait(process, 0, 1, 2, 4)
    trial.launch_options += ("--rerun", "failed")
    yield {}


def _workers(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children()
    return []


def _on_ray(trial: Trial, victim: str) -> "subprocess.Popen[str]":
    """A launch on a private Ray; kills one of its processes that has this name."""
    trial.launch_options, trial.seconds = ("--executor", "ray", "-j", "2"), 8 + trial.reference.seconds
    process = trial.start()
    trial.wait_random(process)
    with contextlib.suppress(psutil.Error, IndexError):
        family = psutil.Process(process.pid).children(recursive=True)
        trial.rng.choice([one for one in family if one.name() == victim]).kill()
    return process


@contextlib.contextmanager
def _ray_driver(trial: Trial) -> Iterator[dict[str, str]]:
    process = _on_ray(trial, "nobody")
    process.kill()
    trial.wait(process, 0, -signal.SIGKILL)
    yield {}


@contextlib.contextmanager
def _ray_worker(trial: Trial) -> Iterator[dict[str, str]]:
    trial.wait(_on_ray(trial, "ray::run"), 0)
    yield {}


def _ray_part(trial: Trial, victim: str) -> "contextlib.AbstractContextManager[dict[str, str]]":
    return _ray_dies(trial, lambda: _on_ray(trial, victim), 0, 2)


def _ray_sigterm(trial: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    def start() -> "subprocess.Popen[str]":
        process = _on_ray(trial, "nobody")
        process.terminate()
        return process

    return _ray_dies(trial, start, 0, 3, -signal.SIGTERM)  # the last: before our handler was installed


@contextlib.contextmanager
def _ray_dies(trial: Trial, start: "Callable[[], subprocess.Popen[str]]", *codes: int) -> Iterator[dict[str, str]]:
    """The launch ends with one of the codes, within RAY_END_S unless it finishes, and with lines of ours only."""
    process = start()
    began = time.monotonic()
    code = trial.wait(process, *codes)
    if code and time.monotonic() - began > RAY_END_S:
        raise BrokenPromise(f"the launch ended after {time.monotonic() - began:.0f} s")
    if code > 0 and not all(line.startswith("sweep: ") for line in trial.stderr[-1].splitlines()):
        raise BrokenPromise(trial.stderr[-1])
    yield {}


def _on_cluster(trial: Trial) -> "tuple[subprocess.Popen[str], dict[str, str]]":
    cluster = trial.reference.cluster
    trial.launch_options, trial.seconds = ("--address", cluster.address), 3 + trial.reference.seconds
    process = trial.start(**cluster.token)
    trial.wait_random(process)
    return process, cluster.token


@contextlib.contextmanager
def _cluster_driver(trial: Trial) -> Iterator[dict[str, str]]:
    process, token = _on_cluster(trial)
    process.kill()
    trial.wait(process, 0, -signal.SIGKILL)
    yield token


@contextlib.contextmanager
def _cluster_worker(trial: Trial) -> Iterator[dict[str, str]]:
    process, token = _on_cluster(trial)
    workers = [one for node in trial.reference.cluster.nodes for one in node.named("ray::run")]
    for one in workers[:1]:
        one.kill()
    trial.wait(process, 0)
    yield token


@contextlib.contextmanager
def _cluster_node(trial: Trial) -> Iterator[dict[str, str]]:
    process, token = _on_cluster(trial)
    node = trial.reference.cluster.nodes.pop()
    for raylet in node.named("raylet"):
        raylet.kill()
    trial.wait(process, 0)
    node.kill()
    trial.reference.cluster.add(9)
    yield token


@contextlib.contextmanager
def _cluster_whole(trial: Trial) -> Iterator[dict[str, str]]:
    process, _ = _on_cluster(trial)
    trial.reference.kill_cluster()
    code = trial.wait(process, 0, 2)
    if code == 2 and "cluster" not in trial.stderr[-1]:
        raise BrokenPromise(trial.stderr[-1])
    trial.launch_options = ("--address", trial.reference.cluster.address)
    yield trial.reference.cluster.token


DISTURBANCES: dict[str, Disturbance] = {
    "kill -9 the driver": _driver,
    "kill -9 the driver, rows committed": _driver_after_commits,
    "kill -9 the driver, merging parts": _driver_while_merging,
    "kill -9 of rm": _rm,
    "kill -9 a worker": _worker,
    "launched twice at once": _twice,
    "Ctrl-C once": _ctrl_c,
    "Ctrl-C twice": _ctrl_c_twice,
    "the disk is full": _disk_full,
    "the store is read-only": _read_only,
    "a part truncated": _truncated,
    "noise in a part": _noise,
    "the clock set back": _clock,
    "the clock jumps": _clock_jumps,
    "workers out of memory": _out_of_memory,
    "Ray: kill -9 the driver": _ray_driver,
    "Ray: kill -9 a worker": _ray_worker,
    "Ray: kill -9 the raylet": partial(_ray_part, victim="raylet"),
    "Ray: kill -9 the gcs": partial(_ray_part, victim="gcs_server"),
    "Ray: kill -9 an agent": partial(_ray_part, victim="ray::DashboardAgent"),
    "Ray: SIGTERM": _ray_sigterm,
    "cluster: kill -9 the driver": _cluster_driver,
    "cluster: kill -9 a worker": _cluster_worker,
    "cluster: kill -9 a node's raylet": _cluster_node,
    "cluster: kill -9 all of it": _cluster_whole,
}
LIGHT = [name for name in DISTURBANCES if ":" not in name]
NEED_MOUNT = ("the disk is full", "the store is read-only")


def schedule(trials: int) -> list[str]:
    """Names of disturbances for so many trials: seven light ones, then one with Ray, which takes a minute."""
    light, heavy = itertools.cycle(LIGHT), itertools.cycle([name for name in DISTURBANCES if name not in LIGHT])
    return [next(heavy) if number % 8 == 7 else next(light) for number in range(trials)]
