"""sweep validate: the same points on the model and on kernels, compared."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import (
    Format,
    Inside,
    JsonFormat,
    Kernels,
    OptionalGridFile,
    OutputFormat,
    Override,
    Quiet,
    Timeout,
    Where,
)
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.kernel.targets import LocalTarget
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
    kernel: Kernels = None,
    inside: Inside = False,
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
    """Compare the model with kernels: page tables and pages, to the byte, after each install and each call.

    Without --kernel it is the running one. If they differ, the exit code is 1, and the smallest scenario that differs
    is printed as a grid.

    Example: sweep validate --random 100 --seed 1
    """
    from sweep.cli.progress import open_progress

    if (grid is None) == (random is None):
        raise UserError("validate: give a grid file, or --random N")
    if timeout is not None and timeout <= 0:
        raise UserError(f"--timeout {timeout:g}: must be above 0")
    names, progress = tuple(kernel or ()), open_progress(quiet)
    if grid is not None:
        targets, verdicts = _compare_grid(grid, tuple(override or ()), where, names, timeout, inside, progress)
        smallest = None
    else:
        targets, verdicts, smallest = _compare_random(random or 1, seed, names, timeout, inside, progress)
    return _print_report(targets, verdicts, smallest, "json" if as_json else format, rows)


def _kernel_text(target: "LocalTarget") -> str:
    from engine.kernel.host import HOST

    kernel, machine, accel = target.kernel, target.kernel.machine, target.kernel.accel
    levels = "5 levels" if kernel.info.fifth_level else "4 levels"
    reclaim = "frees empty tables" if kernel.pt_reclaim else "frees no table"
    place = "" if accel == HOST else f", in a guest ({accel})"
    name = f"Linux {machine.release}, {machine.arch or machine.machine}, {levels}, THP {machine.thp}{place}"
    return f"{name}: by probe, MADV_DONTNEED {reclaim}"


def _compare_grid(
    path: Path,
    overrides: tuple[str, ...],
    where: str | None,
    names: tuple[str, ...],
    timeout: float | None,
    inside: bool,
    progress: "Progress",
) -> tuple[list["LocalTarget"], list["Verdict"]]:
    """Run every point of a grid under those of its policies that each kernel has."""
    from sweep.grid.loader import load_grid
    from sweep.kernel.kernel_driver import check_no_traces
    from sweep.kernel.open_kernels import needs_of, open_named
    from sweep.kernel.targets import Target, supported_policies
    from sweep.kernel.validate import DIFFERS, FAILED, Comparer
    from sweep.run.plan import make_plan
    from sweep.run.progress import ProgressState

    grid = load_grid(path, overrides)
    check_no_traces(grid)
    plan = make_plan(grid, where)
    verdicts: list[Verdict] = []
    with open_named(names or grid.kernels, lambda: needs_of(plan), timeout, progress.say, inside) as kernels:
        targets = [Target(kernel, supported_policies(kernel, grid)) for kernel in kernels]
        for target in targets:
            progress.say(_kernel_text(target))
        for warning in plan.account.warnings:
            progress.say(f"warning: {warning}")
        total, bad, points = plan.account.todo, 0, set[str]()
        try:
            with Comparer(targets) as comparer:
                for verdict in comparer.compare_all(plan):
                    verdicts.append(verdict)
                    bad += verdict.status in (DIFFERS, FAILED)
                    points.add(verdict.point_id)
                    progress.show(ProgressState(total, len(points), bad, total, len(points)))
        finally:
            progress.stop()
    return targets, verdicts


def _compare_random(
    number: int, seed: int, names: tuple[str, ...], timeout: float | None, inside: bool, progress: "Progress"
) -> tuple[list["LocalTarget"], list["Verdict"], "Verdict | None"]:
    """Run random scenarios until one differs. Returns all verdicts, and that of the scenario after it was shrunk."""
    from engine.model.arch import ARCHES
    from sweep.kernel.open_kernels import open_named, random_needs
    from sweep.kernel.random_scenarios import search
    from sweep.kernel.targets import MUNMAP, Target
    from sweep.kernel.validate import AGREES, Comparer
    from sweep.run.progress import ProgressState

    verdicts: list[Verdict] = []
    drawn = set[int]()

    def report(verdict: "Verdict") -> None:
        verdicts.append(verdict)
        drawn.add(id(verdict.scenario))
        bad, done = int(verdict.status != AGREES), min(len(drawn), number)
        progress.show(ProgressState(number, done, bad, number, done))

    with open_named(names, lambda: random_needs(names), timeout, progress.say, inside) as kernels:
        targets = [Target(kernel, (kernel.policy, MUNMAP)) for kernel in kernels]
        for target in targets:
            progress.say(_kernel_text(target))
        arch = next(arch for arch in ARCHES if arch.name == kernels[0].machine.arch)
        has_guards = all(kernel.info.guards for kernel in kernels)
        has_huge_pages = all(kernel.machine.thp in ("always", "madvise") for kernel in kernels)
        try:
            with Comparer(targets) as comparer:
                smallest = search(comparer.compare, number, seed, report, arch, has_guards, has_huge_pages)
        finally:
            progress.stop()
    return targets, verdicts, smallest


def _print_report(
    targets: Sequence["LocalTarget"], verdicts: Sequence["Verdict"], smallest: "Verdict | None", form: Format, most: int
) -> int:
    """Print a row per verdict, those that differ first, a summary, and the smallest scenario that differs as a grid.

    Returns the exit code.
    """
    from sweep.kernel.validate import AGREES, DIFFERS, FAILED, as_grid

    counts = Counter(verdict.status for verdict in verdicts)
    wrong = sorted((v for v in verdicts if v.status in (DIFFERS, FAILED)), key=lambda v: v.size)
    smallest = smallest or (wrong[0] if wrong else None)
    grid = as_grid(smallest) if smallest else None
    by_status = sorted(verdicts, key=lambda v: v.status == AGREES)
    columns: tuple[str, ...] = COLUMNS
    rows = [_row(verdict) for verdict in by_status]
    if len(targets) > 1:
        columns = (*COLUMNS[:1], "kernel", *COLUMNS[1:])
        rows = [[*values[:1], verdict.release, *values[1:]] for verdict, values in zip(by_status, rows, strict=True)]
    if form == "json":
        points = [dict(zip(columns, values, strict=True)) for values in rows]
        output_formats.print_json(_kernels_json(targets) | {"counts": dict(counts), "grid": grid, "points": points})
    else:
        left_out = output_formats.print_rows(columns, rows, form, most=most)
        if left_out:
            output_formats.print_line(f"... {left_out:,} more rows; --rows 0 prints all")
        print_line = output_formats.print_line if form == "table" else messages.print_note
        lines = ["", *_summary_lines(targets, verdicts, counts)]
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


def _summary_lines(targets: Sequence["LocalTarget"], verdicts: Sequence["Verdict"], counts: Counter[str]) -> list[str]:
    """What was compared, and for each kernel how it came out."""
    seen = [verdict.observation for verdict in verdicts if verdict.observation is not None]
    moments, drift = sum(2 * len(one.rounds) for one in seen), max((one.drift_pages for one in seen), default=0)
    points = len({id(v.scenario) if not v.point_id else v.point_id for v in verdicts})
    lines = []
    for target in targets:
        release = target.kernel.machine.release
        of_kernel = Counter(v.status for v in verdicts if v.release == release)
        kernel = f"Linux {release} ({target.kernel.policy} by probe, munmap)"
        if len(targets) == 1:
            head = f"{points:,} points, {len(verdicts):,} comparisons on "
            lines.append(f"{head}{kernel}: {_counts_text(of_kernel)}")
        else:
            lines.append(f"{of_kernel.total():,} comparisons on {kernel}: {_counts_text(of_kernel)}")
    if len(targets) > 1:
        lines.append(
            f"{points:,} points, {len(verdicts):,} comparisons on {len(targets)} kernels: {_counts_text(counts)}"
        )
    if rescheduled := sum(verdict.rescheduled for verdict in verdicts):
        lines.append(f"{rescheduled:,} slow paths after need_resched(), which the model leaves out (docs/method.md)")
    columns = sorted({len(one.values) for one in seen}) or [0]
    number = f"{columns[0]}" if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
    lines.append(f"compared: VmPTE and RES at {moments:,} moments, and {number} columns of every point")
    if all(target.kernel.counts_pages for target in targets):
        lines.append(f"RES is counted page by page; the kernel's own counter (VmRSS) was off by at most {drift} pages")
    return lines


def _counts_text(counts: Counter[str]) -> str:
    verbs = {"agrees": "agree", "differs": "differ"}
    return ", ".join(f"{count:,} {verbs.get(status, status)}" for status, count in counts.items()) or "nothing"


def _kernels_json(targets: Sequence["LocalTarget"]) -> dict[str, object]:
    """Facts of the kernel; of several, a list of them."""
    several = [_kernel_json(target) for target in targets]
    return several[0] if len(several) == 1 else {"kernels": several}


def _kernel_json(target: "LocalTarget") -> dict[str, object]:
    machine = target.kernel.machine
    return {
        "kernel_release": machine.release,
        "machine": machine.machine,
        "accel": target.kernel.accel,
        "pt_reclaim": target.kernel.pt_reclaim,
        "fifth_level": target.kernel.info.fifth_level,
        "thp": machine.thp,
        "columns": list(target.kernel.columns),
    }
