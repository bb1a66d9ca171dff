"""Chaos: a launch is disturbed at a random moment and launched again; then it must hold what an undisturbed one holds.

`scripts/chaos N` runs many of these and prints a table; test_chaos.py runs a few. Commits come every fifth of a second
here, so that there are more moments at which one can be cut in two.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from sweep.sql import Database
from sweep.store import open_store
from tests.sweep.clusters import Cluster

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
GRID = """schema: sweep/1
name: chaos
policies: [none, refcount, merged, munmap]
fixed: {virt: 64GiB, zap: 64KiB, rounds: 2}
axes: {sparsity: [0.99, 0.999], cluster: [4KiB, 64KiB], threads: [1, 8]}
repeats: %d
derive: {resident_pages: "virt * (1 - sparsity) / 4096"}
"""
DRIVER = "import sys; from sweep import ledger; ledger.COMMIT_S = 0.2; from sweep.cli import main; sys.exit(main())"
QUESTIONS = {
    "outcomes": "SELECT * EXCLUDE (run_id) FROM outcomes ORDER BY point_id, policy",
    "rounds": "SELECT * EXCLUDE (run_id) FROM rounds ORDER BY point_id, policy, round",
    "points": "SELECT * EXCLUDE (run_id, attempt, node, cpu_ns, finished_at) FROM points ORDER BY point_id",
}
ENDED_BY_SIGINT = (0, 3, -signal.SIGINT)  # finished before; as promised; before our first line


class Broken(AssertionError):  # noqa: N818 - what a trial found
    """A promise that was not kept."""


@dataclass
class Bench:
    """What all trials share: the grid, an undisturbed run's rows and seconds, and a cluster once one is asked for."""

    folder: Path
    repeats: int = 40
    rows: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    timed: "Trial" = field(init=False)
    _cluster: Cluster | None = None

    def __post_init__(self) -> None:
        self.grid.write_text(GRID % self.repeats)
        quiet = Trial(self, "undisturbed", random.Random(0))
        assert quiet.ends(quiet.begin()) == 0  # compiles, if that is still to be done
        self.rows = rows(quiet.results)
        self.timed = Trial(self, "timed", random.Random(0))
        began = time.monotonic()
        assert self.timed.ends(self.timed.begin()) == 0
        self.seconds = time.monotonic() - began

    @property
    def grid(self) -> Path:
        return self.folder / "chaos.yaml"

    @property
    def cluster(self) -> Cluster:
        self._cluster = self._cluster or Cluster(nodes=3)
        return self._cluster

    def kill_cluster(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None


@dataclass
class Trial:
    bench: Bench
    name: str
    chance: random.Random
    where: tuple[str, ...] = ("--executor", "processes", "-j", "2")
    inside: tuple[str, ...] = ()
    """A command before the launch's, such as nsenter."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.folder = self.bench.folder / self.name
        (self.folder / "tmp").mkdir(parents=True)
        self.results = self.folder / "results"
        self.seconds = self.seconds or self.bench.seconds
        self.said: list[str] = []

    def begin(self, **environment: str) -> "subprocess.Popen[str]":
        launch = ["launch", str(self.bench.grid), "--results", str(self.folder / "results"), *self.where]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.Popen(
            [*self.inside, sys.executable, "-c", DRIVER, *launch],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean | {"TMPDIR": str(self.folder / "tmp")} | environment,
            start_new_session=True,
        )

    def ends(self, process: "subprocess.Popen[str]", *codes: int) -> int:
        """The exit code, which must be one of these; and no traceback."""
        _, said = process.communicate(timeout=PATIENCE_S)
        self.said.append(said)
        if codes and process.returncode not in codes:
            raise Broken(f"exit code {process.returncode}, not {codes}: {said}")
        if "Traceback" in said and process.returncode != -signal.SIGINT:
            raise Broken(said)
        return process.returncode

    def moment(self, process: "subprocess.Popen[str]") -> None:
        """Wait for one of a launch's moments, from its first to a little after its last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.uniform(0, 1.1 * self.seconds))

    def parts(self) -> list[Path]:
        return sorted(self.results.glob("*/*/*.parquet"))


def rows(results: Path) -> dict[str, Any]:
    with Database(open_store(str(results))) as database:
        return {table: database.query(sql) for table, sql in QUESTIONS.items()}


@dataclass(frozen=True)
class Verdict:
    kind: str
    lost: int
    doubled: int
    seconds: float
    broken: str = ""


def trial(bench: Bench, kind: str, number: int, seed: int) -> Verdict:
    """Disturb a launch, launch again, look."""
    made = Trial(bench, f"{number}-{kind.replace(' ', '-')}", random.Random(f"{seed} {kind} {number}"))
    began = time.monotonic()
    try:
        with KINDS[kind](made) as environment:
            began = time.monotonic()
            made.ends(made.begin(**environment), 0)
            seconds = time.monotonic() - began
            return judged(bench, made, kind, seconds)
    except (Broken, AssertionError, subprocess.TimeoutExpired) as error:
        return Verdict(kind, 0, 0, time.monotonic() - began, f"{made.folder}: {error}")


def judged(bench: Bench, made: Trial, kind: str = "", seconds: float = 0.0) -> Verdict:
    """Rows that are missing, rows that are there twice; and, as words, a difference or a file left behind."""
    found, lost, doubled, broken = rows(made.results), 0, 0, []
    for table, wanted in bench.rows.items():
        keys = [name for name in ("point_id", "policy", "round") if name in wanted.column_names]
        have = found[table].group_by(keys).aggregate([]).num_rows
        lost += max(0, wanted.num_rows - have)
        doubled += found[table].num_rows - have
        broken += [] if found[table].equals(wanted) else [f"{table} differ from the undisturbed run's"]
    broken += [f"left behind: {path}" for path in made.folder.rglob("*") if _is_left(path)]
    return Verdict(kind, lost, doubled, seconds, "; ".join(broken))


def _is_left(path: Path) -> bool:
    """A temporary file or folder, of the store or of the executor."""
    return path.name.endswith(".tmp") or path.name.startswith((".new-", ".removed-")) or path.parent.name == "tmp"


Disturbing = Callable[[Trial], "contextlib.AbstractContextManager[dict[str, str]]"]
"""Disturbs; what it yields is the environment of the launch that follows; then puts back what it changed."""


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
