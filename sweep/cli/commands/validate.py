"""sweep validate: the same points on the model and on the live kernel, compared."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import output_formats
from sweep.cli.options import Format, JsonFormat, OptionalGridFile, OutputFormat, Override, Quiet, Timeout, Where
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from engine.kernel.runner import Runner
    from sweep.kernel.validate import Verdict
    from sweep.run.progress import Progress

MOST_ROWS = 40
MOST_DIFFERENCES = 3
COLUMNS = ("point", "policy", "verdict", "moments", "vm_pte_kib_peak", "vm_pte_kib_end", "res_bytes_end", "because")


def validate(
    grid: OptionalGridFile = None,
    override: Override = None,
    where: Where = None,
    random: Annotated[
        int | None, typer.Option("--random", metavar="N", min=1, help="Use N random scenarios instead of a grid.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", min=0, help="With --random: the seed of the scenarios.")
    ] = 0,
    timeout: Timeout = None,
    format: OutputFormat = "table",  # noqa: A002
    rows: Annotated[
        int,
        typer.Option(
            "--rows", metavar="N", min=0, help="Most rows of the table; 0: all. Other formats print all rows."
        ),
    ] = MOST_ROWS,
    as_json: JsonFormat = False,
    quiet: Quiet = False,
) -> int:
    """Compare the model with the live kernel: page tables and pages, to the byte, after each install and each zap.

    If they differ, the exit code is 1, and the smallest scenario that differs is printed as a grid.

    Example: sweep validate --random 100 --seed 1
    """
    from sweep.cli.progress import open_progress
    from sweep.kernel.kernel_driver import open_kernel

    if (grid is None) == (random is None):
        raise UserError("validate: give a grid file, or --random N")
    if timeout is not None and timeout <= 0:
        raise UserError(f"--timeout {timeout:g}: must be above 0")
    progress = open_progress(quiet)
    with open_kernel(timeout) as runner:
        progress.say(_kernel_text(runner))
        try:
            if grid is not None:
                verdicts, smallest = _compare_grid(runner, grid, tuple(override or ()), where, progress), None
            else:
                verdicts, smallest = _compare_random(runner, random or 1, seed, progress)
        finally:
            progress.stop()
        return _print_report(runner, verdicts, smallest, "json" if as_json else format, rows)


def _kernel_text(runner: "Runner") -> str:
    levels = "5 levels" if runner.info.fifth_level else "4 levels"
    machine = runner.machine
    reclaim = "frees empty tables" if runner.pt_reclaim else "frees no table"
    kernel = f"Linux {machine.release}, {machine.machine}, {levels}, THP {machine.thp}"
    return f"{kernel}: by probe, MADV_DONTNEED {reclaim}"


def _compare_grid(
    runner: "Runner", path: Path, overrides: tuple[str, ...], where: str | None, progress: "Progress"
) -> list["Verdict"]:
    """Run every point of a grid under those of its policies that this kernel has."""
    from sweep.grid.loader import load_grid
    from sweep.kernel.kernel_driver import check_no_traces, supported_policies
    from sweep.kernel.validate import AGREES, compare_all
    from sweep.run.plan import make_plan
    from sweep.run.progress import ProgressState

    grid = load_grid(path, overrides)
    check_no_traces(grid)
    policies = supported_policies(runner, grid)
    plan = make_plan(grid, where)
    for warning in plan.account.warnings:
        progress.say(f"warning: {warning}")
    total, verdicts, bad = plan.account.todo, [], 0
    for verdict in compare_all(plan, runner, policies, runner.counts_pages):
        verdicts.append(verdict)
        bad += verdict.status != AGREES
        done = len(verdicts) // len(policies)
        progress.show(ProgressState(total, done, bad, total, done))
    return verdicts


def _compare_random(
    runner: "Runner", number: int, seed: int, progress: "Progress"
) -> tuple[list["Verdict"], "Verdict | None"]:
    """Run random scenarios until one differs. Returns all verdicts, and that of the scenario after it was shrunk."""
    from sweep.kernel.random_scenarios import search
    from sweep.kernel.validate import AGREES, compare
    from sweep.run.progress import ProgressState

    verdicts: list[Verdict] = []
    policies = (runner.policy, "munmap")

    def report(verdict: "Verdict") -> None:
        verdicts.append(verdict)
        bad, done = int(verdict.status != AGREES), min(len(verdicts) // len(policies), number)
        progress.show(ProgressState(number, done, bad, number, done))

    return verdicts, search(lambda s: compare(s, runner, policies, runner.counts_pages), number, seed, report)


def _print_report(
    runner: "Runner", verdicts: Sequence["Verdict"], smallest: "Verdict | None", form: Format, most: int
) -> int:
    """Print a row per verdict, those that differ first, a summary, and the smallest scenario that differs as a grid.

    Returns the exit code.
    """
    from sweep.kernel.validate import AGREES, DIFFERS, FAILED, as_grid

    counts = Counter(verdict.status for verdict in verdicts)
    wrong = sorted((v for v in verdicts if v.status in (DIFFERS, FAILED)), key=lambda v: v.size)
    smallest = smallest or (wrong[0] if wrong else None)
    grid = as_grid(smallest) if smallest else None
    rows = [_row(verdict) for verdict in sorted(verdicts, key=lambda v: v.status == AGREES)]
    if form == "json":
        points = [dict(zip(COLUMNS, values, strict=True)) for values in rows]
        output_formats.print_json(_kernel_json(runner) | {"counts": dict(counts), "grid": grid, "points": points})
    else:
        left_out = output_formats.print_rows(COLUMNS, rows, form, most=most)
        if left_out:
            output_formats.print_line(f"... {left_out:,} more rows; --rows 0 prints all")
        print_line = output_formats.print_line if form == "table" else output_formats.print_note
        lines = ["", *_summary_lines(runner, verdicts, counts)]
        if grid is not None:
            lines += ["", "The smallest scenario that is not right, as a grid:", "", *grid.splitlines()]
        for line in lines:
            print_line(line)
    return 0 if not wrong and counts[AGREES] else 1


def _row(verdict: "Verdict") -> list[object]:
    """A row of COLUMNS: what the kernel showed, and how the model differs."""
    from sweep.kernel.validate import grid_fields

    scenario = " ".join(f"{name}={value}" for name, value in grid_fields(verdict.scenario).items())
    measured: list[object] = [None] * 4
    if verdict.observation is not None:
        values = verdict.observation.values
        measured = [2 * len(verdict.observation.rounds), *(values[name] for name in COLUMNS[4:7])]
    because = "; ".join(map(str, verdict.differences[:MOST_DIFFERENCES])) or verdict.error
    more = len(verdict.differences) - MOST_DIFFERENCES
    return [scenario, verdict.policy, verdict.status, *measured, because + (f"; {more} more" if more > 0 else "")]


def _summary_lines(runner: "Runner", verdicts: Sequence["Verdict"], counts: Counter[str]) -> list[str]:
    seen = [verdict.observation for verdict in verdicts if verdict.observation is not None]
    moments, drift = sum(2 * len(one.rounds) for one in seen), max((one.drift_pages for one in seen), default=0)
    points = len({id(v.scenario) if not v.point_id else v.point_id for v in verdicts})
    verbs = {"agrees": "agree", "differs": "differ"}
    results = ", ".join(f"{count:,} {verbs.get(status, status)}" for status, count in counts.items())
    kernel = f"Linux {runner.machine.release} ({runner.policy} by probe, munmap)"
    lines = [
        f"{points:,} points, {len(verdicts):,} comparisons on {kernel}: {results or 'nothing'}",
        f"compared: VmPTE and RES at {moments:,} moments, and {len(runner.columns)} columns of every point",
    ]
    if runner.counts_pages:
        lines.append(f"RES is counted page by page; the kernel's own counter (VmRSS) was off by at most {drift} pages")
    return lines


def _kernel_json(runner: "Runner") -> dict[str, object]:
    machine = runner.machine
    return {
        "kernel_release": machine.release,
        "machine": machine.machine,
        "pt_reclaim": runner.pt_reclaim,
        "fifth_level": runner.info.fifth_level,
        "thp": machine.thp,
        "columns": list(runner.columns),
    }
