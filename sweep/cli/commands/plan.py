"""sweep plan: the points that a launch would run, counted or listed. Writes nothing to the store."""

from typing import Annotated

import typer

from sweep.cli.options import STORE, GridFile, JsonFormat, OutputFormat, Override, Results, Where


def plan(
    grid: GridFile,
    override: Override = None,
    where: Where = None,
    points: Annotated[bool, typer.Option("--points", help="List the points that would run, with their ids.")] = False,
    format: OutputFormat = "table",  # noqa: A002
    results: Results = STORE,
    as_json: JsonFormat = False,
) -> int:
    """Count the points that a launch would run, those excluded and those done; estimate time and memory.

    Points that the grid's last run in the store has tried count as done.

    Example: sweep plan first --where "threads = 8"
    """
    from sweep.cli.command_output import plan_report
    from sweep.grid.loader import load_grid
    from sweep.run.resume import plan_next_launch
    from sweep.store.store import open_store

    made, run_id = plan_next_launch(load_grid(grid, tuple(override or ())), where, open_store(results))
    plan_report.print_plan(made, run_id, "json" if as_json else format, points=points)
    return 0
