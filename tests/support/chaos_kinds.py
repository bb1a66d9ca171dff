"""What can happen to a launch, kind by kind: each disturbs one at a random moment, and says how the next may begin."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil

from tests.paths import ROOT
from tests.support.chaos import Broken, Disturbing, Trial

ENDED_BY_SIGINT = (0, 3, -signal.SIGINT)  # finished before; as promised; before our first line


@contextlib.contextmanager
def _driver(made: Trial) -> Iterator[dict[str, str]]:
    process = made.begin()
    made.moment(process)
    process.kill()
    made.ends(process, -signal.SIGKILL, 0)
    yield {}


@contextlib.contextmanager
def _worker(made: Trial) -> Iterator[dict[str, str]]:
    process = made.begin()
    made.moment(process)
    with contextlib.suppress(psutil.Error, IndexError):
        made.chance.choice(psutil.Process(process.pid).children()).kill()
    made.ends(process, 0)
    yield {}


@contextlib.contextmanager
def _twice(made: Trial) -> Iterator[dict[str, str]]:
    first = made.begin()
    made.moment(first) if made.chance.random() < 0.5 else None
    second = made.begin()
    codes = [made.ends(first, 0, 2), made.ends(second, 0, 2)]
    if 0 not in codes:
        raise Broken(f"of two launches none ran: {made.said}")
    yield {}


@contextlib.contextmanager
def _ctrl_c(made: Trial, times: int = 1) -> Iterator[dict[str, str]]:
    process = made.begin()
    made.moment(process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(made.chance.uniform(0, 0.05))
    made.ends(process, *ENDED_BY_SIGINT)
    yield {}


def _ctrl_c_twice(made: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    return _ctrl_c(made, 2)


@contextlib.contextmanager
def tmpfs(made: Trial, size_kib: int) -> Iterator[Callable[[str], None]]:
    """The results on a file system of their own, in a mount namespace; yields what remounts it."""
    made.results.mkdir()
    mount = f'mount -t tmpfs -o size={size_kib}k none "$1" && echo up && exec sleep infinity'
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", "--mount", *user, "sh", "-c", mount, "sh", str(made.results)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != "up\n":
                raise Broken("no tmpfs can be mounted here")
            enter = (
                "nsenter",
                "--target",
                str(holder.pid),
                "--mount",
                *(("--user", "--preserve-credentials") if user else ()),
            )
            made.inside = (*enter, f"--wdns={ROOT}")
            inside, made.results = made.results, Path(f"/proc/{holder.pid}/root{made.results}")
            yield lambda options: _run(*enter, "mount", "-o", f"remount,{options}", str(inside))
        finally:
            holder.kill()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def can_mount() -> bool:
    """Whether mount namespaces and tmpfs are to be had."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", "--mount", *user, "sh", "-c", "mount -t tmpfs none /mnt && nsenter --version"]
    with contextlib.suppress(OSError):
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    return False


@contextlib.contextmanager
def _disk_full(made: Trial) -> Iterator[dict[str, str]]:
    with tmpfs(made, made.chance.randrange(32, 600)) as remount:
        code = made.ends(made.begin(), 0, 2)
        if code == 2 and "space" not in made.said[-1]:
            raise Broken(made.said[-1])
        remount("size=64m")
        yield {}


@contextlib.contextmanager
def _read_only(made: Trial) -> Iterator[dict[str, str]]:
    with tmpfs(made, 65536) as remount:
        process = made.begin()
        made.moment(process)
        for _ in range(100):
            with contextlib.suppress(subprocess.CalledProcessError):  # busy while a file is open for writing
                remount("ro")
                break
            time.sleep(0.01)
        code = made.ends(process, 0, 2)
        if code == 2 and "ead-only" not in made.said[-1]:
            raise Broken(made.said[-1])
        remount("rw")
        yield {}


@contextlib.contextmanager
def _damaged(made: Trial, damage: Callable[[Trial, Path], None]) -> Iterator[dict[str, str]]:
    with _driver(made):
        parts = made.parts()
        if parts:
            damage(made, made.chance.choice(parts))
        yield {}


def _truncated(made: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    return _damaged(made, lambda made, part: os.truncate(part, made.chance.randrange(part.stat().st_size)))


def _noise(made: Trial) -> "contextlib.AbstractContextManager[dict[str, str]]":
    def damage(made: Trial, part: Path) -> None:
        size = part.stat().st_size
        start = made.chance.randrange(size)
        with part.open("r+b") as file:
            file.seek(start)
            file.write(made.chance.randbytes(made.chance.randint(1, size - start)))

    return _damaged(made, damage)


@contextlib.contextmanager
def _clock(made: Trial) -> Iterator[dict[str, str]]:
    """All that was written so far is from the future."""
    with _driver(made):
        ahead = timedelta(seconds=made.chance.randrange(1, 400 * 86400))
        for document in made.results.glob("*/run.json"):
            facts = json.loads(document.read_text())
            for holder, key in [(facts, "created"), (facts, "updated"), *((one, "at") for one in facts["launches"])]:
                holder[key] = (datetime.fromisoformat(holder[key]) + ahead).isoformat()
            document.write_text(json.dumps(facts))
        for path in made.results.rglob("*"):
            os.utime(path, (path.stat().st_mtime + ahead.total_seconds(),) * 2)
        yield {}


def _on_ray(made: Trial, victim: str) -> "subprocess.Popen[str]":
    """A launch on a private Ray, one of whose processes is killed."""
    made.where, made.seconds = ("--executor", "ray", "-j", "2"), 8 + made.bench.seconds
    process = made.begin()
    made.moment(process)
    with contextlib.suppress(psutil.Error, IndexError):
        family = psutil.Process(process.pid).children(recursive=True)
        made.chance.choice([one for one in family if one.name() == victim]).kill()
    return process


@contextlib.contextmanager
def _ray_driver(made: Trial) -> Iterator[dict[str, str]]:
    process = _on_ray(made, "nobody")
    process.kill()
    made.ends(process, 0, -signal.SIGKILL)
    yield {}


@contextlib.contextmanager
def _ray_worker(made: Trial) -> Iterator[dict[str, str]]:
    made.ends(_on_ray(made, "ray::run"), 0)
    yield {}


@contextlib.contextmanager
def _ray_raylet(made: Trial) -> Iterator[dict[str, str]]:
    made.ends(_on_ray(made, "raylet"), 0, 2)
    yield {}


def _on_cluster(made: Trial) -> "tuple[subprocess.Popen[str], dict[str, str]]":
    cluster = made.bench.cluster
    made.where, made.seconds = ("--address", cluster.address), 3 + made.bench.seconds
    process = made.begin(**cluster.token)
    made.moment(process)
    return process, cluster.token


@contextlib.contextmanager
def _cluster_driver(made: Trial) -> Iterator[dict[str, str]]:
    process, token = _on_cluster(made)
    process.kill()
    made.ends(process, 0, -signal.SIGKILL)
    yield token


@contextlib.contextmanager
def _cluster_worker(made: Trial) -> Iterator[dict[str, str]]:
    process, token = _on_cluster(made)
    workers = [one for node in made.bench.cluster.nodes for one in node.named("ray::run")]
    for one in workers[:1]:
        one.kill()
    made.ends(process, 0)
    yield token


@contextlib.contextmanager
def _cluster_node(made: Trial) -> Iterator[dict[str, str]]:
    process, token = _on_cluster(made)
    node = made.bench.cluster.nodes.pop()
    for raylet in node.named("raylet"):
        raylet.kill()
    made.ends(process, 0)
    node.kill()
    made.bench.cluster.add(9)
    yield token


@contextlib.contextmanager
def _cluster_whole(made: Trial) -> Iterator[dict[str, str]]:
    process, _ = _on_cluster(made)
    made.bench.kill_cluster()
    code = made.ends(process, 0, 2)
    if code == 2 and "cluster" not in made.said[-1]:
        raise Broken(made.said[-1])
    made.where = ("--address", made.bench.cluster.address)
    yield made.bench.cluster.token


KINDS: dict[str, Disturbing] = {
    "kill -9 the driver": _driver,
    "kill -9 a worker": _worker,
    "launched twice at once": _twice,
    "Ctrl-C once": _ctrl_c,
    "Ctrl-C twice": _ctrl_c_twice,
    "the disk is full": _disk_full,
    "the store is read-only": _read_only,
    "a part truncated": _truncated,
    "noise in a part": _noise,
    "the clock set back": _clock,
    "Ray: kill -9 the driver": _ray_driver,
    "Ray: kill -9 a worker": _ray_worker,
    "Ray: kill -9 the raylet": _ray_raylet,
    "cluster: kill -9 the driver": _cluster_driver,
    "cluster: kill -9 a worker": _cluster_worker,
    "cluster: kill -9 a node's raylet": _cluster_node,
    "cluster: kill -9 all of it": _cluster_whole,
}
LIGHT = [kind for kind in KINDS if ":" not in kind]
MOUNTS = ("the disk is full", "the store is read-only")


def order(trials: int) -> list[str]:
    """Which kinds, so many: nine light ones, then one of Ray's, which take a minute each."""
    light, heavy = itertools.cycle(LIGHT), itertools.cycle([kind for kind in KINDS if kind not in LIGHT])
    return [next(heavy) if number % 8 == 7 else next(light) for number in range(trials)]
