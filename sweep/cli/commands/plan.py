"""sweep plan: what a launch would do, and the points it would run. Writes nothing."""

from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli.options import STORE, AsJson, GridFile, HowToPrint, Override, Results, Where

if TYPE_CHECKING:
    pass


def plan(
    grid: GridFile,
    override: Override = None,
    where: Where = None,
    points: Annotated[bool, typer.Option("--points", help="List the points that would run, with their ids.")] = False,
    format: HowToPrint = "table",  # noqa: A002
    results: Results = STORE,
    as_json: AsJson = False,
) -> int:
    """What a launch would run: points, exclusions, duplicates, time, memory; the points of its last run are done."""
    from sweep.cli import plan_report
    from sweep.grid.loader import load_grid
    from sweep.run.resume import plan_next_launch
    from sweep.store.store import open_store

    made, goes_on_with = plan_next_launch(load_grid(grid, tuple(override or ())), where, open_store(results))
    plan_report.show(made, goes_on_with, "json" if as_json else format, points=points)
    return 0
