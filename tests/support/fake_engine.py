"""Engines that answer at once, and misbehave where the seed says so; and grids to go with them."""

import ctypes
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Columns
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.run.progress import ProgressState

RUNNER = "tests.support.fake_engine:run_batch"
RAISES, DIES, DIES_ONCE, HANGS, SLEEPS = 13, 666, 555, 777, 50
CRASHES, TOO_MUCH, WAITS = 11, 98, 44
MARK, WAIT = "SWEEP_TEST_MARK", "SWEEP_TEST_WAIT"


def run_batch(columns: Columns) -> Results:
    """Every value is the point's seed. Seeds above misbehave."""
    seeds = columns["seed"]
    if (seeds == RAISES).any():
        raise ValueError(f"no seed {RAISES}\nhere")
    if (seeds == DIES).any() or ((seeds == DIES_ONCE).any() and first_time()):
        os.kill(os.getpid(), signal.SIGKILL)
    if (seeds == CRASHES).any():
        ctypes.string_at(0)
    while (seeds == HANGS).any():
        pass
    if (seeds == TOO_MUCH).any():
        np.empty(1 << 60, np.uint8)
    if ((seeds >= WAITS) & (seeds < WAITS + 4)).any():
        wait()
    if (seeds == SLEEPS).any():
        time.sleep(0.3)
    rounds = columns["rounds"]
    values = np.broadcast_to(seeds[:, None, None], (len(seeds), len(POLICIES), len(COLUMNS)))
    each = np.repeat(seeds, rounds)
    by_round = np.broadcast_to(each[:, None, None], (len(each), len(POLICIES), len(ROUND_COLUMNS)))
    return Results(values.copy(), by_round.copy(), rounds.copy())


def remark(columns: Columns) -> Results:
    """The same, with a remark on each point."""
    return replace(run_batch(columns), remarks=("so it is",) * len(columns["seed"]))


def wait() -> None:
    """Say who is our parent, and wait for the word to go on."""
    folder = Path(os.environ[WAIT])
    (folder / str(os.getppid())).touch()
    while not (folder / "go").exists():
        time.sleep(0.02)


def first_time() -> bool:
    mark = Path(os.environ[MARK])
    if mark.exists():
        return False
    mark.touch()
    return True


def grid(seeds: list[int], name: str = "fake", rounds: int = 1) -> Grid:
    """A point a seed."""
    fixed = f"{{virt: 2MiB, sparsity: 0.5, rounds: {rounds}}}"
    return parse_grid(f"schema: sweep/1\nname: {name}\nfixed: {fixed}\naxes: {{seed: {seeds}}}\n", name)


class Told:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.states: list[ProgressState] = []
        self.stopped = False

    def say(self, text: str) -> None:
        self.words.append(text)

    def show(self, state: ProgressState) -> None:
        self.states.append(state)

    def stop(self) -> None:
        self.stopped = True
