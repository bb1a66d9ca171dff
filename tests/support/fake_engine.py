"""Fake engines that answer at once and misbehave for certain seeds, grids for them, and a Progress that records."""

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.model.policy import ALL, Policy
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Columns
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.run.progress import ProgressState

RUNNER = "tests.support.fake_engine:run_batch"
RAISES, DIES, DIES_ONCE, HANGS, SLEEPS = 13, 666, 555, 777, 50
CRASHES, TOO_MUCH, WAITS, CLOSES = 11, 98, 44, 888
MARK, WAIT = "SWEEP_TEST_MARK", "SWEEP_TEST_WAIT"


def run_batch(columns: Columns, policies: Sequence[Policy] = ALL, general: bool = False) -> Results:
    """Results in which every value is the seed of the point. The seeds named above misbehave instead."""
    seeds = columns["seed"]
    if (seeds == RAISES).any():
        raise ValueError(f"no seed {RAISES}\nhere")
    if (seeds == DIES).any() or ((seeds == DIES_ONCE).any() and is_first_time()):
        os.kill(os.getpid(), signal.SIGKILL)
    if (seeds == CRASHES).any():
        ctypes.string_at(0)
    if (seeds == CLOSES).any():
        os.closerange(3, 64)
    while ((seeds == HANGS) | (seeds == CLOSES)).any():
        pass
    if (seeds == TOO_MUCH).any():
        np.empty(1 << 60, np.uint8)
    if ((seeds >= WAITS) & (seeds < WAITS + 4)).any():
        wait_for_go()
    if (seeds == SLEEPS).any():
        time.sleep(0.3)
    rounds = columns["rounds"]
    values = np.broadcast_to(seeds[:, None, None], (len(seeds), len(policies), len(COLUMNS)))
    round_seeds = np.repeat(seeds, rounds)
    by_round = np.broadcast_to(round_seeds[:, None, None], (len(round_seeds), len(policies), len(ROUND_COLUMNS)))
    return Results(values.copy(), by_round.copy(), rounds.copy())


def remark(columns: Columns, policies: Sequence[Policy] = ALL) -> Results:
    """As run_batch, with a remark on each point."""
    return replace(run_batch(columns, policies), remarks=("so it is",) * len(columns["seed"]))


def wait_for_go() -> None:
    """Write a file named after our parent's process id into $SWEEP_TEST_WAIT, and wait for a file `go` there."""
    folder = Path(os.environ[WAIT])
    (folder / str(os.getppid())).touch()
    while not (folder / "go").exists():
        time.sleep(0.02)


def is_first_time() -> bool:
    """Whether this is the first call of any process, by a file whose path is in $SWEEP_TEST_MARK."""
    mark = Path(os.environ[MARK])
    if mark.exists():
        return False
    mark.touch()
    return True


def grid(seeds: list[int], name: str = "fake", rounds: int = 1) -> Grid:
    """A grid with one point per seed."""
    fixed = f"{{virt: 2MiB, sparsity: 0.5, rounds: {rounds}}}"
    return parse_grid(f"schema: sweep/1\nname: {name}\nfixed: {fixed}\naxes: {{seed: {seeds}}}\n", name)


class RecordingProgress:
    """A Progress that keeps what it is given."""

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
