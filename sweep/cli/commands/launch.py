"""sweep launch: run what is missing of a grid, and say in one table what came of it."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sweep.cli.launch_summary import tell
from sweep.cli.options import STORE, Facts, Format, MaybeGridFile, Override, Quiet, Results, Timeout, Where
from sweep.common.errors import UserError, one_line, unknown_name

if TYPE_CHECKING:
    from sweep.grid.grid import Grid
    from sweep.run.launch import LaunchOptions
    from sweep.run.progress import Progress
    from sweep.store.store import Store

Number = TypeVar("Number", int, float)
ENDED = {"ok": 0, "failed": 1, "interrupted": 3}
ENGINES = ("model", "kernel")


def launch(
    grid: MaybeGridFile = None,
    override: Override = None,
    where: Where = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", metavar="N", help="Workers; default: the CPUs.")] = None,
    executor: Annotated[
        str, typer.Option("--executor", metavar="NAME", help="auto, ray, processes or inline (this process).")
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="model, or kernel: ask the kernel that runs here.")
    ] = ENGINES[0],
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="ADDRESS", help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT [env: RAY_ADDRESS]."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start another run instead of going on.")] = False,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="RUN", help="Instead of GRID: repeat a run (its id, or its directory) in a fresh one."
        ),
    ] = None,
    rerun: Annotated[
        str | None, typer.Option("--rerun", metavar="failed", help="Run points again that are not ok.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first point that is not ok.")] = False,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", metavar="N", help="End once N points are not ok.")
    ] = None,
    timeout: Timeout = None,
    results: Results = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all options and plan, but run nothing.")] = False,
    as_json: Facts = False,
    quiet: Quiet = False,
) -> int:
    """Run what is missing of a grid, write Parquet, summarise.

    Goes on with the grid's last run: points that were tried are not run again. Ctrl-C keeps what is finished.
    """
    from sweep.cli.progress import progress
    from sweep.run.launch import LaunchOptions

    store, show = _opened(results), progress(quiet)
    live = _is_kernel(engine, executor, jobs, address)
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
    if like is not None:
        loaded, options, live = _repeated(like, grid, override, live, options, store, show)
    else:
        loaded = _loaded(grid, override)
    if dry_run:
        return _dry_run(loaded, options, live, "json" if as_json else "table", store, show)
    if live:
        from sweep.kernel.kernel_driver import launch as run
    else:
        from sweep.run.launch import launch as run
    summary = run(loaded, options, show)
    with suppress(BrokenPipeError):  # who reads has gone; the rows are in the store, and the exit code says how it went
        tell(summary, store, live, results, as_json=as_json, quiet=quiet)
        if summary.status == "interrupted" and not quiet:
            print("sweep: interrupted; the same command goes on from here", file=sys.stderr)
    return ENDED[summary.status]


def _opened(results: str) -> "Store":
    """The store, where rows would stay."""
    from sweep.executors.ray_session_dir import is_in_job_folder
    from sweep.store.storage import Directory
    from sweep.store.store import open_store

    store = open_store(results)
    if isinstance(store.root, Directory) and is_in_job_folder(store.root.path):
        place = f"--results {one_line(results)}: lies in the Ray job's own folder, which Ray removes"
        raise UserError(f"{place}; give a URI such as s3://bucket/prefix, or an absolute path")
    return store


def _loaded(grid: Path | None, override: Sequence[str] | None) -> "Grid":
    from sweep.grid.loader import load_grid

    if grid is None:
        raise UserError("launch: missing argument 'GRID' (or --like RUN); see sweep launch --help")
    return load_grid(grid, tuple(override or ()))


def _repeated(
    like: str,
    grid: Path | None,
    override: Sequence[str] | None,
    live: bool,
    options: "LaunchOptions",
    store: "Store",
    show: "Progress",
) -> tuple["Grid", "LaunchOptions", bool]:
    """Grid, options and engine of --like; says on the way whether this is the same program."""
    from sweep.grid.point_id import run_name
    from sweep.run import rerun
    from sweep.store import provenance

    for given, option in ((grid is not None, "GRID"), (override, "-S"), (options.where, "--where")):
        if given:
            raise UserError(f"launch --like: {option}: the run says that itself; leave it out")
    old = rerun.read_run(like, store)
    live = old.run.engine == ENGINES[1]
    if live and (options.executor == "ray" or options.address or (options.jobs or 1) > 1):
        raise UserError(
            f"launch --like {one_line(like)}: ran on the live kernel, which takes no --executor, --address, -j"
        )
    differ = ", ".join(rerun.version_differences(old.run.document["launches"][-1], provenance.collect()))
    name = old.run.run_id
    show.say(f"{name}: {'versions differ: ' + differ if differ else 'the same versions as then'}")
    going_on = not options.fresh and rerun.is_unfinished_repeat(
        store.latest_run(run_name(old.grid), old.run.engine), old.run
    )
    return old.grid, replace(options, where=old.where, fresh=not going_on, like=name), live


def _dry_run(
    grid: "Grid", options: "LaunchOptions", live: bool, chosen: Format, store: "Store", show: "Progress"
) -> int:
    """All that a launch refuses is refused; then its plan, and on stderr where it would run."""
    from sweep.cli import plan_report
    from sweep.run.launch import check_options, choose_executor
    from sweep.run.resume import plan_next_launch

    if live:
        from sweep.kernel.kernel_driver import check as check_live
        from sweep.kernel.kernel_driver import opened

        with opened(options.timeout_s) as runner:
            policies = check_live(runner, grid, options)
        where = f"the live kernel: {', '.join(policies)}"
    else:
        check_options(grid, options)
    made, goes_on_with = plan_next_launch(
        grid, options.where, store, ENGINES[live], fresh=options.fresh, rerun_failed=options.rerun_failed
    )
    if not live:
        where = choose_executor(options, made.account.todo, made.account.estimate_ns)[1]
    plan_report.show(made, goes_on_with, chosen)
    if made.account.todo:
        show.say(f"would run on {where}")
    return 0


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
        raise UserError(f"--engine: {unknown_name('engine', engine, ENGINES)}")
    live = engine == "kernel"
    for option, given in (("--executor ray", executor == "ray"), ("--address", address), ("-j", (jobs or 1) > 1)):
        if live and given:
            raise UserError(f"{option}: not with --engine kernel, which runs a point at a time in processes of its own")
    return live


def _failed_only(rerun: str | None) -> bool:
    if rerun not in (None, "failed"):
        raise UserError(f"--rerun: {unknown_name('choice', rerun, ['failed'])}")
    return rerun is not None


def _positive(option: str, value: Number | None) -> Number | None:
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{option} {value}: must be above 0")
    return value
