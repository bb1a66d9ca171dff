"""sweep calibrate: measure the costs of this machine, write a cost table, and check its predictions."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import STORE, AsJson, Quiet, Results
from sweep.common.errors import UserError, one_line

if TYPE_CHECKING:
    from engine.kernel.runner import Runner
    from sweep.common.cost_tables import CostTable
    from sweep.run.progress import Progress

NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
REPEATS = 15


def calibrate(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the cost table.")] = "measured",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to write it; default: costs/NAME.json in the store."
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=3, help="Measure each figure in N processes; use the median.")
    ] = REPEATS,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="GRID", help="Then compare predicted and measured times of this grid's points."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="With --check: only points for which this SQL condition is true."),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option("--kernel", metavar="KERNEL", help="A kernel in a guest in place of the running one; needs KVM."),
    ] = None,
    results: Results = STORE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Measure what single steps cost on this machine's kernel, and write a cost table for `sweep query --cost NAME`.

    Run it on an idle machine: other load changes the figures.

    Example: sweep calibrate --name laptop --check validate
    """
    from sweep.calibration.measured_costs import save
    from sweep.cli.progress import open_progress
    from sweep.store.store import open_store

    if not NAME.fullmatch(name):
        raise UserError(f"--name {one_line(name)!r}: a letter a-z, then up to 39 of a-z, 0-9, _ . and -")
    path = output or open_store(results).cost_path(name)
    document = _measure(path, name, repeats, check, where, kernel, open_progress(quiet))
    try:
        save(path, document)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if as_json:
        output_formats.print_json(document)
    else:
        _print_document(document)
    if not quiet:
        command = f"sweep query cost --cost {name if output is None else path}"
        messages.print_note(f"sweep: wrote {path}; {command}")
    return 0


def _measure(
    path: Path,
    name: str,
    repeats: int,
    check: Path | None,
    where: str | None,
    kernel: str | None,
    progress: "Progress",
) -> dict[str, Any]:
    """The cost table as JSON, with its check on a grid if one is given. `path`: where it will be, for messages."""
    from engine.kernel.microbench import Bench
    from sweep.calibration.measured_costs import cost_table_document
    from sweep.calibration.measured_prices import PAGE_BYTES, measured_prices
    from sweep.common import cost_tables
    from sweep.kernel.open_kernels import open_timed
    from sweep.run.progress import ProgressState
    from sweep.store.provenance import cpu_model

    load = os.getloadavg()
    with open_timed(kernel) as runner:
        if runner.machine.page_bytes != PAGE_BYTES:
            pages = f"this machine has pages of {runner.machine.page_bytes}"
            raise UserError(f"calibrate: supports pages of {PAGE_BYTES} bytes only; {pages}")
        try:
            bench = Bench(runner, repeats, lambda step: progress.show(ProgressState(0, waiting=f"measuring {step}")))
            figures = bench.measure()
            prices = measured_prices(figures)
            machine = f"{cpu_model() or runner.machine.machine}, {runner.machine.cpus} CPUs"
            document = cost_table_document(name, runner, machine, load, figures, prices)
            if check is not None:
                costs = cost_tables.parse(path, document)
                document["check"] = _check_predictions(runner, check, where, costs, progress)
        finally:
            progress.stop()
    return document


def _check_predictions(
    runner: "Runner", path: Path, where: str | None, costs: "CostTable", progress: "Progress"
) -> dict[str, Any]:
    """How far the predicted zap_ns of each point of a grid is from the measured one, by group of points."""
    from sweep.calibration.predictions import Prediction, fit_predictions, predict_points
    from sweep.grid.loader import load_grid
    from sweep.run.plan import make_plan
    from sweep.run.progress import ProgressState

    plan = make_plan(load_grid(path), where)
    total, done = plan.account.todo, list[Prediction]()
    for prediction in predict_points(plan, runner, costs):
        done.append(prediction)
        progress.show(ProgressState(total, len(done), 0, total, len(done)))
    rows = [
        {"points": fit.group, "number": fit.points, "bias": fit.bias, "median": fit.median, "p90": fit.p90}
        for fit in fit_predictions(done)
    ]
    return {"grid": path.name, "ratio": rows}


def _print_document(document: dict[str, Any]) -> None:
    """Print the figures, the costs that follow from them, and the check."""
    load = ", ".join(map(str, document["load"]))
    processes = max(figure["processes"] for figure in document["figures"].values())
    figures = [(name, f["ns"], f["low_ns"], f["high_ns"], f["how"]) for name, f in document["figures"].items()]
    costs = [
        (name, c["ns"], c.get("low_ns"), c.get("high_ns"), c["source"])
        for name, c in document["counters"].items()
        if "low_ns" in c
    ]
    machine = f"{document['machine']}, Linux {document['kernel']}, {document['date']}"
    output_formats.print_paragraph(f"{machine}; load before: {load}")
    output_formats.print_paragraph(
        f"CPU time, medians and quartiles of {processes} processes; "
        f"the loop takes {document['loop_ns']} ns of each call"
    )
    output_formats.print_line()
    output_formats.print_rows(("figure", "ns", "low_ns", "high_ns", "how"), figures, "table")
    output_formats.print_line()
    output_formats.print_rows(("counter", "ns", "low_ns", "high_ns", "source"), costs, "table")
    if "check" in document:
        names = ("points", "number", "bias", "median", "p90")
        rows = [tuple(row[name] for name in names) for row in document["check"]["ratio"]]
        grid = document["check"]["grid"]
        title = (
            f"zap_ns of {grid}, predicted / measured: bias is the median; median and p90 of it as a factor of 1 or more"
        )
        output_formats.print_text(f"\n{title}\n")
        output_formats.print_line()
        output_formats.print_rows(names, rows, "table")
