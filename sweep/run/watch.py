"""`sweep watch`: the progress of a run that another process or node launched, from the store alone."""

import time
from dataclasses import dataclass

from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.run import rerun
from sweep.run.plan import make_plan
from sweep.run.progress import Progress, ProgressState
from sweep.store.store import RunInfo, Store

INTERVAL_S, LOOK_SHARE = 1.0, 0.1
"""Least time between two looks at the store; and the most of all time that looking takes."""
RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Work:
    """How much of a run is to do: points, and their estimated CPU time."""

    points: int
    ns: float


def watch(store: Store, wanted: str, progress: Progress) -> RunInfo:
    """Show the progress of a run until nobody writes it any more; return how it then is. Takes no lock."""
    run = store.find(wanted)
    grid, where = _grid_of(run, store)
    total = _work(grid, where, store, run, all_points=True)
    began, first_ns = time.monotonic(), None
    try:
        while run.status == RUNNING:
            looked = time.monotonic()
            left = _work(grid, where, store, run)
            done_ns = total.ns - left.ns
            first_ns = done_ns if first_ns is None else first_ns
            gained_ns, seconds = done_ns - first_ns, looked - began
            left_ns = left.ns * seconds * 1e9 / gained_ns if gained_ns > 0 else 0.0
            done = total.points - left.points
            progress.show(ProgressState(total.points, done, run.failed, total.ns, done_ns, left_ns=left_ns))
            time.sleep(max(INTERVAL_S, (time.monotonic() - looked) / LOOK_SHARE))
            run = store.find(run.run_id)
    finally:
        progress.stop()
    return run


def _grid_of(run: RunInfo, store: Store) -> tuple[Grid | None, str | None]:
    """Return the run's grid and the SQL condition that selected its points, None if it has all.

    The grid is None if this version cannot read it, or a trace of it.
    """
    try:
        repeatable = rerun.read_run(run.run_id, store)
    except UserError:
        return None, None
    return repeatable.grid, repeatable.where


def _work(grid: Grid | None, where: str | None, store: Store, run: RunInfo, *, all_points: bool = False) -> Work:
    """What the run has still to do, or all of it. Without its grid every point counts as equally much."""
    if grid is not None:
        account = make_plan(grid, where, None if all_points else store.done_check(run.run_id, False)).account
        return Work(account.todo, account.estimate_ns)
    points = (run.todo or 0) + (run.ok + run.failed if all_points else 0)
    return Work(points, points)
