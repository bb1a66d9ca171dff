"""Chaos: a launch is disturbed at a random moment and launched again; then it must hold what an undisturbed one holds.

`scripts/chaos N` runs many of these and prints a table; test_chaos.py runs a few. Commits come every fifth of a second
here, so that there are more moments at which one can be cut in two.
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
"""Commits so often that a launch has many; files made by workers for the larger tasks, by the driver for the others."""
DRIVER = f"import sys; {PATCHES}; from sweep.cli.main import main; sys.exit(main())"
QUESTIONS = {
    "outcomes": "SELECT * EXCLUDE (run_id) FROM outcomes ORDER BY point_id, policy",
    "rounds": "SELECT * EXCLUDE (run_id) FROM rounds ORDER BY point_id, policy, round",
    "points": "SELECT * EXCLUDE (run_id, attempt, node, cpu_ns, finished_at) FROM points ORDER BY point_id",
}


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


Disturbing = Callable[[Trial], "contextlib.AbstractContextManager[dict[str, str]]"]
"""Disturbs; what it yields is the environment of the launch that follows; then puts back what it changed."""


def trial(bench: Bench, kind: str, disturb: Disturbing, number: int, seed: int) -> Verdict:
    """Disturb a launch, launch again, look."""
    made = Trial(bench, f"{number}-{kind.replace(' ', '-')}", random.Random(f"{seed} {kind} {number}"))
    began = time.monotonic()
    try:
        with disturb(made) as environment:
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
