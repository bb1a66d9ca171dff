"""Resuming a run: a launch plans only the points that the run does not have yet.

Rows are committed in parts, and a point counts once its part is committed. So a run that was killed, interrupted or
launched with --where is continued by launching the same grid again: `Store.open_run` opens the latest run of the grid
and reads the ids of its committed points, and `plan_remaining` leaves these points out.
"""

from contextlib import suppress
from functools import partial

from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.point_id import run_name
from sweep.run.plan import Plan, make_plan
from sweep.store.store import RunWriter, Store


def plan_remaining(grid: Grid, where: str | None, writer: RunWriter, *, rerun_failed: bool) -> Plan:
    """Plan the points that the open run lacks; with `rerun_failed` also those that failed."""
    return make_plan(grid, where, partial(writer.is_done, rerun_failed=rerun_failed))


def plan_next_launch(
    grid: Grid,
    where: str | None,
    store: Store,
    engine: str = "model",
    *,
    fresh: bool = False,
    rerun_failed: bool = False,
) -> tuple[Plan, str | None]:
    """The plan of the grid's next launch, and the id of the run that it would resume (None: it starts a new one).

    Takes no lock and writes nothing.
    """
    run = None if fresh else store.latest_run(run_name(grid), engine, of_all_points=where is None)
    if run is None:
        return make_plan(grid, where), None
    return make_plan(grid, where, store.done_check(run.run_id, rerun_failed)), run.run_id


def count_grid_points(plan: Plan, where: str | None) -> int:
    """Distinct points of the whole grid, whatever --where selects: `sweep ls` counts down from this number."""
    if where is not None:
        with suppress(UserError):  # a point that --where leaves out is impossible: count the selected ones only
            plan = make_plan(plan.grid)
    return plan.account.done + plan.account.todo
