"""Chaos trials: a launch is disturbed at a random moment, then repeated; its rows must be those of an undisturbed one.

`scripts/chaos N` runs many trials and prints a table; test_chaos.py runs a few. Commits are five times a second here,
so that many of them are hit.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.query.database import Database
from sweep.store.store import open_store
from tests.paths import ROOT
from tests.support.ray_clusters import Cluster

PATIENCE_S = 300.0
GRID = """schema: sweep/1
name: chaos
policies: [none, refcount, merged, munmap]
fixed: {virt: 64GiB, zap: 64KiB, rounds: 2}
axes: {sparsity: [0.99, 0.999], cluster: [4KiB, 64KiB], threads: [1, 8]}
repeats: %d
derive: {resident_pages: "virt * (1 - sparsity) / 4096"}
"""
PATCHES = "from sweep.run import result_buffer as b; b.COMMIT_S = 0.2; b.PART_POINTS = 12"
"""Frequent commits, and parts so small that workers make the files of the larger tasks, the driver all others."""
DRIVER = f"{PATCHES}; from sweep.cli.__main__ import run; run()"
COMPARED_SQL = {
    "outcomes": "SELECT * EXCLUDE (run_id) FROM outcomes ORDER BY point_id, policy",
    "rounds": "SELECT * EXCLUDE (run_id) FROM rounds ORDER BY point_id, policy, round",
    "points": "SELECT * EXCLUDE (run_id, attempt, node, cpu_ns, finished_at) FROM points ORDER BY point_id",
}


class BrokenPromise(AssertionError):  # noqa: N818 - a finding, not an error of the program
    """A launch did not do what it promises."""


@dataclass
class Reference:
    """The grid of all trials, rows and duration of an undisturbed launch, and a Ray cluster, started when used."""

    folder: Path
    repeats: int = 40
    rows: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    timed: "Trial" = field(init=False)
    _cluster: Cluster | None = None

    def __post_init__(self) -> None:
        self.grid.write_text(GRID % self.repeats)
        undisturbed = Trial(self, "undisturbed", random.Random(0))
        assert undisturbed.wait(undisturbed.start()) == 0  # may have to compile the engine
        self.rows = rows(undisturbed.results)
        self.timed = Trial(self, "timed", random.Random(0))
        began = time.monotonic()
        assert self.timed.wait(self.timed.start()) == 0
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
    """One launch, in a folder of its own, that is disturbed and launched again."""

    reference: Reference
    name: str
    rng: random.Random
    launch_options: tuple[str, ...] = ("--executor", "processes", "-j", "2")
    command_prefix: tuple[str, ...] = ()
    """Words before the launch's command, such as nsenter and its options."""
    patches: str = ""
    """Python that every command of the trial runs first."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.folder = self.reference.folder / self.name
        (self.folder / "tmp").mkdir(parents=True)
        self.results = self.folder / "results"
        self.seconds = self.seconds or self.reference.seconds
        self.stderr: list[str] = []

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        """Start a launch in a process group of its own."""
        return self.command("launch", str(self.reference.grid), *self.launch_options, **environment)

    def command(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command on the trial's store, in a process group of its own."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        code = f"{self.patches}\n{DRIVER}"
        return subprocess.Popen(
            [*self.command_prefix, sys.executable, "-c", code, *words, "--results", str(self.folder / "results")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean | {"TMPDIR": str(self.folder / "tmp")} | environment,
            start_new_session=True,
        )

    def wait(self, process: "subprocess.Popen[str]", *codes: int) -> int:
        """Wait for the end. Returns the exit code, which must be one of `codes`. A traceback is a broken promise."""
        _, stderr = process.communicate(timeout=PATIENCE_S)
        self.stderr.append(stderr)
        if codes and process.returncode not in codes:
            raise BrokenPromise(f"exit code {process.returncode}, not {codes}: {stderr}")
        if "Traceback" in stderr and process.returncode != -signal.SIGINT:
            raise BrokenPromise(stderr)
        return process.returncode

    def wait_random(self, process: "subprocess.Popen[str]") -> None:
        """Wait for a random time, up to a little longer than an undisturbed launch takes, or until the process ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(0, 1.1 * self.seconds))

    def wait_until(self, process: "subprocess.Popen[str]", condition: Callable[[], object]) -> None:
        """Wait until the condition holds or the process ends."""
        while process.poll() is None and not condition():
            time.sleep(0.002)

    def parts(self) -> list[Path]:
        return sorted(self.results.glob("*/*/*.parquet"))


def rows(results: Path) -> dict[str, Any]:
    """The rows of a store, as an Arrow table for each table, without columns that differ from launch to launch."""
    with Database(open_store(str(results))) as database:
        return {table: database.query(sql) for table, sql in COMPARED_SQL.items()}


@dataclass(frozen=True)
class Verdict:
    """Result of a trial: lost and doubled rows, seconds until the second launch ended, and any other fault."""

    disturbance: str
    lost: int
    doubled: int
    seconds: float
    broken: str = ""


Disturbance = Callable[[Trial], "contextlib.AbstractContextManager[dict[str, str]]"]
"""Disturbs a launch; yields environment variables for the next launch; afterwards undoes what it changed."""


def run_trial(reference: Reference, name: str, disturb: Disturbance, number: int, seed: int) -> Verdict:
    """Disturb a launch, launch again, and judge the rows."""
    trial = Trial(reference, f"{number}-{name.replace(' ', '-')}", random.Random(f"{seed} {name} {number}"))
    began = time.monotonic()
    try:
        with disturb(trial) as environment:
            began = time.monotonic()
            trial.wait(trial.start(**environment), 0)
            seconds = time.monotonic() - began
            return judge(reference, trial, name, seconds)
    except (BrokenPromise, AssertionError, subprocess.TimeoutExpired) as error:
        return Verdict(name, 0, 0, time.monotonic() - began, f"{trial.folder}: {error}")


def judge(reference: Reference, trial: Trial, name: str = "", seconds: float = 0.0) -> Verdict:
    """Compare a trial's rows with the reference's, and look for files left behind."""
    actual, lost, doubled, broken = rows(trial.results), 0, 0, []
    for table, expected in reference.rows.items():
        keys = [key for key in ("point_id", "policy", "round") if key in expected.column_names]
        distinct = actual[table].group_by(keys).aggregate([]).num_rows
        lost += max(0, expected.num_rows - distinct)
        doubled += actual[table].num_rows - distinct
        broken += [] if actual[table].equals(expected) else [f"{table} differ from the undisturbed run's"]
    broken += [f"left behind: {path}" for path in trial.folder.rglob("*") if _is_left_behind(path)]
    return Verdict(name, lost, doubled, seconds, "; ".join(broken))


def _is_left_behind(path: Path) -> bool:
    """Whether it is a temporary file or folder of the store or of an executor."""
    return path.name.endswith(".tmp") or path.name.startswith((".new-", ".removed-")) or path.parent.name == "tmp"
