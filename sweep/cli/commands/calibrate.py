"""sweep calibrate: what single steps cost on this machine, as a cost table; and how well that predicts whole points."""

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli.options import STORE, Facts, Quiet, Results
from sweep.common.errors import UserError, one_line

if TYPE_CHECKING:
    from engine.kernel.runner import Runner
    from sweep.common.cost_tables import CostTable
    from sweep.run.progress import Progress

NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
REPEATS = 15


def calibrate(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the cost table is called.")] = "measured",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: costs/NAME.json in the store.")
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=3, help="Processes a figure is the median of.")
    ] = REPEATS,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="GRID", help="Then predict each point of this grid, and measure.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Of --check: only points that fulfil this condition.")
    ] = None,
    results: Results = STORE,
    as_json: Facts = False,
    quiet: Quiet = False,
) -> int:
    """Measure this machine's costs with the live kernel, and write a cost table for `sweep query --cost NAME`.

    Wants an idle machine: what else runs is in the figures.
    """
    from engine.kernel.microbench import Bench
    from sweep.cli.progress import progress
    from sweep.common import cost_tables
    from sweep.kernel import calibrate as room
    from sweep.kernel.kernel_driver import opened
    from sweep.run.progress import ProgressState
    from sweep.store.provenance import cpu_model
    from sweep.store.store import open_store

    if not NAME.fullmatch(name):
        raise UserError(f"--name {one_line(name)!r}: a letter a-z, then up to 39 of a-z, 0-9, _ . and -")
    path = output or open_store(results).cost_path(name)
    show, load = progress(quiet), os.getloadavg()
    with opened() as runner:
        if runner.machine.page_bytes != room.PAGE_BYTES:
            has = f"this machine's have {runner.machine.page_bytes}"
            raise UserError(f"calibrate: knows steps and prices for pages of {room.PAGE_BYTES} bytes only; {has}")
        try:
            figures = Bench(
                runner, repeats, lambda step: show.show(ProgressState(0, waiting=f"measuring {step}"))
            ).measure()
            machine = f"{cpu_model() or runner.machine.machine}, {runner.machine.cpus} CPUs"
            facts = room.document(name, runner, machine, load, figures, room.prices(figures))
            if check is not None:
                facts["check"] = checked(runner, check, where, cost_tables.parse(path, facts), show)
        finally:
            show.stop()
    try:
        room.save(path, facts)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        tables(facts)
    if not quiet:
        print(f"sweep: wrote {path}; sweep query cost --cost {name if output is None else path}", file=sys.stderr)
    return 0


def checked(runner: "Runner", path: Path, where: str | None, prices: "CostTable", show: "Progress") -> dict[str, Any]:
    """Predicted against measured zap_ns, for each point of a grid."""
    from sweep.grid.loader import load_grid
    from sweep.kernel.calibrate import Prediction, fits, predictions
    from sweep.run.plan import make_plan
    from sweep.run.progress import ProgressState

    plan = make_plan(load_grid(path), where)
    total, found = plan.account.todo, list[Prediction]()
    for prediction in predictions(plan, runner, prices):
        found.append(prediction)
        show.show(ProgressState(total, len(found), 0, total, len(found)))
    rows = [
        {"points": fit.kind, "number": fit.points, "bias": fit.bias, "median": fit.median, "p90": fit.p90}
        for fit in fits(found)
    ]
    return {"grid": path.name, "ratio": rows}


def tables(facts: dict[str, Any]) -> None:
    """Figures, prices, and the check."""
    from sweep.cli import output_formats

    out = sys.stdout
    load, processes = ", ".join(map(str, facts["load"])), max(f["processes"] for f in facts["figures"].values())
    print(f"{facts['machine']}, Linux {facts['kernel']}, {facts['date']}; load before: {load}")
    ours = f"{facts['loop_ns']} ns of each call are the loop's"
    print(f"CPU time, medians and quartiles of {processes} processes; {ours}\n")
    figures = [(name, f["ns"], f["low_ns"], f["high_ns"], f["how"]) for name, f in facts["figures"].items()]
    output_formats.write(("figure", "ns", "low", "high", "how"), figures, "table", out)
    print()
    prices = [
        (name, c["ns"], c.get("low_ns"), c.get("high_ns"), c["source"])
        for name, c in facts["counters"].items()
        if "low_ns" in c
    ]
    output_formats.write(("counter", "ns", "low", "high", "source"), prices, "table", out)
    if "check" in facts:
        print(f"\nzap_ns of {facts['check']['grid']}: predicted against measured, as a factor of 1 or more\n")
        names = ("points", "number", "bias", "median", "p90")
        rows = [tuple(row[name] for name in names) for row in facts["check"]["ratio"]]
        output_formats.write(names, rows, "table", out)
