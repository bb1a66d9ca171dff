"""sweep validate: the same points on the model and on the live kernel, side by side."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli.options import AsJson, Format, HowToPrint, MaybeGridFile, Override, Quiet, Timeout, Where
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from engine.kernel.runner import Runner
    from sweep.kernel.validate import Verdict
    from sweep.run.progress import Progress

MOST_ROWS = 40
COLUMNS = ("point", "policy", "verdict", "moments", "vm_pte_kib_peak", "vm_pte_kib_end", "res_bytes_end", "because")


def validate(
    grid: MaybeGridFile = None,
    override: Override = None,
    where: Where = None,
    random: Annotated[
        int | None, typer.Option("--random", metavar="N", min=1, help="Draw N scenarios instead of a grid's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Of --random: the same draws again.")] = 0,
    timeout: Timeout = None,
    format: HowToPrint = "table",  # noqa: A002
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, help="Most rows of the table; 0: all. Other formats print all.")
    ] = MOST_ROWS,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Model and live kernel side by side: all page tables to the byte, all pages, after every install and every zap.

    Ends with 1 where they differ, and prints the smallest such point as a grid.
    """
    from sweep.cli.progress import progress
    from sweep.kernel.kernel_driver import opened

    if (grid is None) == (random is None):
        raise UserError("validate: give a grid file, or --random N")
    if timeout is not None and timeout <= 0:
        raise UserError(f"--timeout {timeout:g}: must be above 0")
    show = progress(quiet)
    with opened(timeout) as runner:
        say_what(runner, show)
        try:
            if grid is not None:
                verdicts, worst = of_grid(runner, grid, tuple(override or ()), where, show), None
            else:
                verdicts, worst = of_chance(runner, random or 1, seed, show)
        finally:
            show.stop()
        return report(runner, verdicts, worst, "json" if as_json else format, rows)


def say_what(runner: "Runner", show: "Progress") -> None:
    levels = "5 levels" if runner.info.fifth_level else "4 levels"
    here = runner.machine
    found = "frees empty tables" if runner.pt_reclaim else "frees no table"
    show.say(f"Linux {here.release}, {here.machine}, {levels}, THP {here.thp}: by probe, MADV_DONTNEED {found}")


def of_grid(
    runner: "Runner", path: Path, overrides: tuple[str, ...], where: str | None, show: "Progress"
) -> list["Verdict"]:
    """Every point of a grid, under the policies that it asks for and the kernel can show."""
    from sweep.grid.loader import load_grid
    from sweep.kernel.kernel_driver import scenarios_only, shown
    from sweep.kernel.validate import AGREES, compare_all
    from sweep.run.plan import make_plan
    from sweep.run.progress import ProgressState

    grid = load_grid(path, overrides)
    scenarios_only(grid)
    policies = shown(runner, grid)
    plan = make_plan(grid, where)
    for warning in plan.account.warnings:
        show.say(f"warning: {warning}")
    total, found, bad = plan.account.todo, [], 0
    for verdict in compare_all(plan, runner, policies, runner.counts_pages):
        found.append(verdict)
        bad += verdict.status != AGREES
        done = len(found) // len(policies)
        show.show(ProgressState(total, done, bad, total, done))
    return found


def of_chance(runner: "Runner", number: int, seed: int, show: "Progress") -> tuple[list["Verdict"], "Verdict | None"]:
    """So many scenarios by chance; and the smallest that differs, after shrinking."""
    from sweep.kernel.random_scenarios import search
    from sweep.kernel.validate import AGREES, compare
    from sweep.run.progress import ProgressState

    found: list[Verdict] = []
    policies = (runner.policy, "munmap")

    def see(verdict: "Verdict") -> None:
        found.append(verdict)
        bad, done = sum(v.status != AGREES for v in found[-1:]), len(found) // 2
        show.show(ProgressState(number, min(done, number), bad, number, min(done, number)))

    return found, search(lambda s: compare(s, runner, policies, runner.counts_pages), number, seed, see)


def report(runner: "Runner", verdicts: Sequence["Verdict"], worst: "Verdict | None", form: Format, most: int) -> int:
    """The points, those that do not agree first; what that comes to; the smallest that differs, as a grid."""
    from sweep.cli import output_formats
    from sweep.kernel.validate import AGREES, DIFFERS, FAILED, as_grid

    counts = Counter(verdict.status for verdict in verdicts)
    wrong = sorted((v for v in verdicts if v.status in (DIFFERS, FAILED)), key=lambda v: v.size)
    worst = worst or (wrong[0] if wrong else None)
    rows = [row(verdict) for verdict in sorted(verdicts, key=lambda v: v.status == AGREES)]
    if form == "json":
        facts = kernel_facts(runner) | {"counts": dict(counts), "grid": as_grid(worst) if worst else None}
        points = [dict(zip(COLUMNS, values, strict=True)) for values in rows]
        print(json.dumps(facts | {"points": points}, indent=1))
    else:
        left_out = output_formats.write(COLUMNS, rows, form, sys.stdout, most=most if form == "table" else 0)
        if left_out:
            print(f"... {left_out:,} more rows; --rows 0 prints all")
        words = sys.stdout if form == "table" else sys.stderr
        print("\n" + "\n".join(told(runner, verdicts, counts)), file=words)
        if worst is not None:
            print(f"\nThe smallest that is not right, as a grid:\n\n{as_grid(worst)}", file=words, end="")
    return 0 if not wrong and counts[AGREES] else 1


def row(verdict: "Verdict") -> list[object]:
    """One line of the table: what the kernel showed, and how that is not what the model says."""
    from sweep.kernel.validate import spelled

    words = " ".join(f"{name}={value}" for name, value in spelled(verdict.scenario).items())
    seen: list[object] = [None] * 4
    if verdict.seen is not None:
        values = verdict.seen.values
        seen = [2 * len(verdict.seen.rounds), *(values[name] for name in COLUMNS[4:7])]
    because = "; ".join(map(str, verdict.differences[:3])) or verdict.error
    more = len(verdict.differences) - 3
    return [words, verdict.policy, verdict.status, *seen, because + (f"; {more} more" if more > 0 else "")]


def told(runner: "Runner", verdicts: Sequence["Verdict"], counts: Counter[str]) -> list[str]:
    """The sum of it in a few lines."""
    seen = [verdict.seen for verdict in verdicts if verdict.seen is not None]
    moments, drift = sum(2 * len(one.rounds) for one in seen), max((one.drift_pages for one in seen), default=0)
    points = len({id(v.scenario) if not v.point_id else v.point_id for v in verdicts})
    words = {"agrees": "agree", "differs": "differ"}
    said = ", ".join(f"{count:,} {words.get(status, status)}" for status, count in counts.items())
    where = f"Linux {runner.machine.release} ({runner.policy} by probe, munmap)"
    lines = [
        f"{points:,} points, {len(verdicts):,} comparisons on {where}: {said or 'nothing'}",
        f"compared: VmPTE and RES at {moments:,} moments, and {len(runner.columns)} columns of every point",
    ]
    if runner.counts_pages:
        lines.append(f"RES is counted page by page; the kernel's own counter (VmRSS) strayed by {drift} pages at most")
    return lines


def kernel_facts(runner: "Runner") -> dict[str, object]:
    here = runner.machine
    return {
        "kernel_release": here.release,
        "machine": here.machine,
        "pt_reclaim": runner.pt_reclaim,
        "fifth_level": runner.info.fifth_level,
        "thp": here.thp,
        "columns": list(runner.columns),
    }
