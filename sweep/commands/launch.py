"""sweep launch: run what is missing of a grid, and say in one table what came of it."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sweep.errors import UserError, one_line, unknown

if TYPE_CHECKING:
    from sweep.launch import LaunchOptions, Summary
    from sweep.sql import NamedQuery
    from sweep.store import Store

Number = TypeVar("Number", int, float)
ENDED = {"ok": 0, "failed": 1, "interrupted": 3}
ENGINES = ("model", "kernel")
QUESTION, MEASURED = "savings", "measured"
MOST_ROWS = 24


def launch(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="A grid file.", show_default=False)],
    override: Annotated[
        list[str] | None,
        typer.Option("-S", "--set", metavar="KEY=VALUE", help="Replace a value of the grid: -S fixed.virt=4GiB."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only points that fulfil this condition.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", metavar="N", help="Workers; default: the CPUs.")] = None,
    executor: Annotated[
        str, typer.Option("--executor", metavar="NAME", help="auto, ray, processes or inline (this process).")
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="model, or kernel: ask the kernel that runs here.")
    ] = "model",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="ADDRESS", help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT [env: RAY_ADDRESS]."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start another run instead of going on.")] = False,
    rerun: Annotated[
        str | None, typer.Option("--rerun", metavar="failed", help="Run points again that are not ok.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first point that is not ok.")] = False,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", metavar="N", help="End once N points are not ok.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Longest time for one point.")
    ] = None,
    results: Annotated[str, typer.Option("--results", metavar="DIR", help="The store.")] = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Run nothing: the same as sweep plan.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="No progress, no words: errors and the summary.")
    ] = False,
) -> int:
    """Run what is missing of a grid, write Parquet, summarise.

    Goes on with the grid's last run: points that were tried are not run again. Ctrl-C keeps what is finished.
    """
    from sweep.store import open_store

    store = open_store(results)
    live = _is_kernel(engine, executor, jobs, address)
    if dry_run:
        from sweep.commands.plan import plan, planned, show_account

        if not live:
            return plan(grid, override, where, results=results, as_json=as_json)
        made, goes_on_with = planned(grid, tuple(override or ()), where, store, engine)
        show_account(made, "json" if as_json else "table", goes_on_with)
        return 0
    from sweep.grid import load
    from sweep.launch import LaunchOptions
    from sweep.progress import progress

    if live:
        from sweep.live import launch as run
    else:
        from sweep.launch import launch as run

    options = LaunchOptions(
        store.root,
        where,
        executor,
        _positive("-j", jobs),
        _cluster(executor, address),
        fresh,
        _failed_only(rerun),
        1 if fail_fast else _positive("--max-failures", max_failures),
        _positive("--timeout", timeout),
    )
    summary = run(load(grid, tuple(override or ())), options, progress(quiet))
    if as_json:
        print(json.dumps(facts(summary, options), indent=1))
    else:
        show(summary, store, MEASURED if live else QUESTION)
    if summary.status == "interrupted" and not quiet:
        print("sweep: interrupted; the same command goes on from here", file=sys.stderr)
    return ENDED[summary.status]


def show(summary: "Summary", store: "Store", question_name: str = QUESTION) -> None:
    """The summary, the table that answers most questions, and how it was made."""
    for line in told(summary):
        print(line)
    question = _question(question_name)
    if question is None or summary.status == "interrupted":
        return
    from sweep.render import write
    from sweep.sql import Database

    with Database(store, run=summary.run_id) as database:
        table = database.query(question.sql)
    if not table.num_rows:
        return
    print(f"\n{question.help}\n")
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    left_out = write(table.column_names, rows, "table", sys.stdout, most=MOST_ROWS)
    if left_out:
        print(f"... {left_out:,} more rows")
    print(f"\nsweep query {question.name} --run {summary.run_id}\n")
    print(question.sql.strip())


def told(summary: "Summary") -> list[str]:
    """The run, its points, its time, in three lines or so."""
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.points.items() if count) or "none to run"
    before = f"; {summary.done_before:,} were done" if summary.done_before else ""
    some = f"{summary.workers} worker{'s' * (summary.workers > 1)}"
    workers = f" on {summary.executor}, {some}" if summary.workers else ""
    lines = [
        f"run      {summary.run_id}{' (gone on with)' if summary.resumed else ''}: {summary.status}",
        f"points   {counts}{before}",
        f"seconds  {summary.seconds:.1f}{workers}",
    ]
    if summary.failed:
        lines.append(f"failed   {summary.failed:,} in this run: sweep query failures --run {summary.run_id}")
        lines.append("         the same command with --rerun failed tries them again")
    return lines


def facts(summary: "Summary", options: "LaunchOptions") -> dict[str, Any]:
    """The summary for --json."""
    return asdict(summary) | {"results": str(options.results)}


def _question(name: str) -> "NamedQuery | None":
    from sweep.sql import named_queries

    return next((query for query in named_queries() if query.name == name), None)


def _cluster(executor: str, address: str | None) -> str | None:
    """The cluster's address; RAY_ADDRESS counts where Ray may be meant. `local` is no cluster."""
    if address is None and executor in ("auto", "ray"):
        address = os.environ.get("RAY_ADDRESS") or None
    elif address is not None and executor not in ("auto", "ray"):
        raise UserError(f"--address {one_line(address)}: needs --executor ray, not {executor}")
    return None if address == "local" else address


def _is_kernel(engine: str, executor: str, jobs: int | None, address: str | None) -> bool:
    """Whether the live kernel is asked; it takes no executor, its points run one at a time."""
    if engine not in ENGINES:
        raise UserError(f"--engine: {unknown('engine', engine, ENGINES)}")
    live = engine == "kernel"
    for option, given in (("--executor ray", executor == "ray"), ("--address", address), ("-j", (jobs or 1) > 1)):
        if live and given:
            raise UserError(f"{option}: not with --engine kernel, which runs a point at a time in processes of its own")
    return live


def _failed_only(rerun: str | None) -> bool:
    if rerun not in (None, "failed"):
        raise UserError(f"--rerun: {unknown('choice', rerun, ['failed'])}")
    return rerun is not None


def _positive(option: str, value: Number | None) -> Number | None:
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{option} {value}: must be above 0")
    return value
