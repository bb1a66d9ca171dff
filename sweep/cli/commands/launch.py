"""sweep launch: run the missing points of a grid and print a summary."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sweep.cli import messages
from sweep.cli.command_output.launch_summary import print_summary
from sweep.cli.options import (
    STORE,
    AsJson,
    Format,
    Inside,
    Kernels,
    OptionalGridFile,
    Override,
    Quiet,
    Results,
    Timeout,
    Where,
)
from sweep.common.errors import UserError, one_line, unknown_name

if TYPE_CHECKING:
    from sweep.grid.grid import Grid
    from sweep.run.launch import LaunchOptions
    from sweep.run.progress import Progress
    from sweep.store.store import Store

Number = TypeVar("Number", int, float)
EXIT_CODES = {"ok": 0, "failed": 1, "interrupted": 3}
ENGINES = ("model", "kernel")


def launch(
    grid: OptionalGridFile = None,
    override: Override = None,
    where: Where = None,
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", metavar="N", help="Number of workers; default: one per CPU.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            "--executor", metavar="NAME", help="auto, ray, processes, or inline (in this process, no workers)."
        ),
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="model, or kernel: run the points on this machine's kernel.")
    ] = ENGINES[0],
    kernel: Kernels = None,
    inside: Inside = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Address of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT [env: RAY_ADDRESS].",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run instead of resuming the last one.")] = False,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="RUN", help="Instead of GRID: repeat a run, given by its id or directory, as a new run."
        ),
    ] = None,
    rerun: Annotated[str | None, typer.Option("--rerun", metavar="failed", help="Run failed points again.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first point that fails.")] = False,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", metavar="N", help="Stop when N points have failed.")
    ] = None,
    timeout: Timeout = None,
    results: Results = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the options and print the plan; run nothing.")
    ] = False,
    show_sql: Annotated[bool, typer.Option("--sql", help="Also print the SQL behind the table.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Run the points of a grid that have no result yet, store the results and print a summary.

    Resumes the grid's last run. After Ctrl-C finished points are kept, and the same command continues.

    Example: sweep launch first -S seed=7 -j 8
    """
    from sweep.cli.progress import open_progress
    from sweep.run.launch import LaunchOptions

    store, progress = _open_store(results), open_progress(quiet)
    is_kernel = _is_kernel(engine, executor, jobs, address)
    _check_contradictions(executor, jobs, fresh, rerun, fail_fast, max_failures)
    if kernel and not (is_kernel or like):
        raise UserError(f"--kernel {one_line(kernel[0])}: needs --engine kernel")
    if inside and not (is_kernel or like):
        raise UserError("--inside: needs --engine kernel")
    options = LaunchOptions(
        store.root,
        where,
        executor,
        _check_positive("-j", jobs),
        _cluster_address(executor, address, is_kernel),
        fresh,
        _is_rerun(rerun),
        1 if fail_fast else _check_positive("--max-failures", max_failures),
        _check_positive("--timeout", timeout),
        kernels=tuple(kernel or ()),
        inside=inside,
    )
    if like is not None:
        loaded, options, is_kernel = _repeat_run(like, grid, override, is_kernel, options, store, progress)
    else:
        loaded = _load_grid(grid, override)
    if dry_run:
        return _dry_run(loaded, options, is_kernel, "json" if as_json else "table", store, progress)
    if is_kernel:
        from sweep.kernel.kernel_driver import launch as run
    else:
        from sweep.run.launch import launch as run
    summary = run(loaded, options, progress)
    if summary.status == "interrupted" and not quiet:  # first: Ctrl-C also ends what reads this process's output
        messages.print_note(
            "sweep: interrupted; nothing that has finished is lost, the same command continues from here"
        )
    with suppress(BrokenPipeError):  # the rows are stored; the exit code still reports how the launch ended
        print_summary(summary, store, is_kernel, results, as_json=as_json, quiet=quiet, show_sql=show_sql)
    return EXIT_CODES[summary.status]


def _open_store(results: str) -> "Store":
    """Open the store. Raises UserError for a directory that Ray removes at the end of a job."""
    from sweep.executors.ray_session_dir import is_in_job_folder
    from sweep.storage.local_storage import LocalStorage
    from sweep.store.store import open_store

    store = open_store(results)
    if isinstance(store.root, LocalStorage) and is_in_job_folder(store.root.path):
        raise UserError(
            f"--results {one_line(results)}: is in the Ray job's own folder, which Ray removes; "
            "give a URI such as s3://bucket/prefix, or an absolute path"
        )
    return store


def _load_grid(grid: Path | None, override: Sequence[str] | None) -> "Grid":
    from sweep.grid.loader import load_grid

    if grid is None:
        raise UserError("launch: missing argument 'GRID' (or --like RUN); see sweep launch --help")
    return load_grid(grid, tuple(override or ()))


def _repeat_run(
    like: str,
    grid: Path | None,
    override: Sequence[str] | None,
    is_kernel: bool,
    options: "LaunchOptions",
    store: "Store",
    progress: "Progress",
) -> tuple["Grid", "LaunchOptions", bool]:
    """Grid, options and engine (true: the live kernel) of --like. Reports differences of versions to `progress`."""
    from sweep.grid.point_id import run_name
    from sweep.run import rerun
    from sweep.store import provenance

    for is_given, option in ((grid is not None, "GRID"), (override, "-S"), (options.where, "--where")):
        if is_given:
            raise UserError(f"launch --like: {option}: is taken from the run; leave it out")
    old = rerun.read_run(like, store)
    is_kernel = old.run.engine == ENGINES[1]
    differ = ", ".join(rerun.version_differences(old.run.document["launches"][-1], provenance.collect()))
    run_id = old.run.run_id
    progress.say(f"{run_id}: {'versions differ: ' + differ if differ else 'the same versions as then'}")
    latest = store.latest_run(run_name(old.grid), old.run.engine)
    is_resumed = not options.fresh and rerun.is_unfinished_repeat(latest, old.run)
    kernels, inside = options.kernels or old.kernels, options.inside or old.inside
    return (
        old.grid,
        replace(options, where=old.where, fresh=not is_resumed, like=run_id, kernels=kernels, inside=inside),
        is_kernel,
    )


def _dry_run(
    grid: "Grid", options: "LaunchOptions", is_kernel: bool, form: Format, store: "Store", progress: "Progress"
) -> int:
    """Make all checks of a launch, print its plan, and on stderr where it would run."""
    from sweep.cli.command_output import plan_report
    from sweep.run.launch import check_options, choose_executor
    from sweep.run.resume import plan_next_launch

    if is_kernel:
        from sweep.kernel.kernel_driver import open_session
        from sweep.kernel.targets import targets_text

        with open_session(grid, options, progress) as session:
            grid, place = session.grid, f"on {targets_text(session.targets)}"
    else:
        check_options(grid, options)
    plan, run_id = plan_next_launch(
        grid, options.where, store, ENGINES[is_kernel], fresh=options.fresh, rerun_failed=options.rerun_failed
    )
    if not is_kernel:
        place = choose_executor(options, plan.account.todo, plan.account.estimate_ns)[1]
    plan_report.print_plan(plan, run_id, form)
    if plan.account.todo:
        progress.say(f"would run {place}")
    return 0


def _cluster_address(executor: str, address: str | None, is_kernel: bool) -> str | None:
    """The address of a Ray cluster, from RAY_ADDRESS if the executor may be Ray. None for `local` or no address."""
    if address is None and executor in (("ray",) if is_kernel else ("auto", "ray")):
        address = os.environ.get("RAY_ADDRESS") or None
    elif address is not None and executor not in ("auto", "ray"):
        raise UserError(f"--address {one_line(address)}: needs --executor ray, not {executor}")
    return None if address == "local" else address


def _is_kernel(engine: str, executor: str, jobs: int | None, address: str | None) -> bool:
    """True for --engine kernel. Raises UserError for options that it does not take."""
    if engine not in ENGINES:
        raise UserError(f"--engine: {unknown_name('engine', engine, ENGINES)}")
    is_kernel = engine == "kernel"
    if is_kernel and (jobs or 1) > 1 and executor != "ray" and not address:
        raise UserError(
            "-j: not with --engine kernel, which runs one point at a time on this machine; --executor ray runs more"
        )
    return is_kernel


def _check_contradictions(
    executor: str, jobs: int | None, fresh: bool, rerun: str | None, fail_fast: bool, max_failures: int | None
) -> None:
    """Raise UserError for two options of which one would have no effect."""
    if executor == "inline" and (jobs or 1) > 1:
        raise UserError(f"-j {jobs}: needs --executor processes or ray; inline has no workers")
    if fresh and rerun is not None:
        raise UserError(f"--rerun {one_line(rerun)}: --fresh runs all points; leave one of them out")
    if fail_fast and max_failures is not None:
        raise UserError(f"--max-failures {max_failures}: --fail-fast stops at the first; leave one of them out")


def _is_rerun(rerun: str | None) -> bool:
    if rerun not in (None, "failed"):
        raise UserError(f"--rerun: {unknown_name('choice', rerun, ['failed'])}")
    return rerun is not None


def _check_positive(option: str, value: Number | None) -> Number | None:
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{option} {value}: must be above 0")
    return value
