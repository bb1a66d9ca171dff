"""A launch: open the run of a grid, run the points that it lacks on an executor, record how it ended."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweep.common.errors import UserError, unknown_name
from sweep.executors.base import MODEL_RUNNER, TRACE_RUNNER, Executor
from sweep.grid.grid import Grid
from sweep.grid.point_id import run_name
from sweep.run.batching import MIN_TASK_NS, TASK_NS
from sweep.run.driver import Driver
from sweep.run.interrupts import Interrupts
from sweep.run.plan import check_selection
from sweep.run.progress import Progress
from sweep.run.result_buffer import ResultBuffer
from sweep.run.resume import count_grid_points, plan_remaining
from sweep.storage.storage import Storage
from sweep.store import provenance
from sweep.store.store import RunWriter, Store

EXECUTORS = ("auto", "ray", "processes", "inline")
RAY_WORTH_NS = 20e9
"""Estimated work from which starting a local Ray pays off."""
LEFT_OUT_OF_HUGE_PAGES = (
    "thp: always leaves out khugepaged, sizes below 2 MiB, and memory that a partly zapped huge page keeps "
    "(docs/method.md, section 8)"
)


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Options of a launch beside the grid, as on the command line.

    `max_failures`: end once so many points are not ok. `like`: the id of the run that this one repeats. `runner`: the
    function that runs a batch, `module:function`. `kernels`: with the kernel engine, names that replace the grid's.
    `inside`: count inside the running kernel.
    """

    results: Path | Storage = Path("results")
    where: str | None = None
    executor: str = "auto"
    jobs: int | None = None
    address: str | None = None
    fresh: bool = False
    rerun_failed: bool = False
    max_failures: int | None = None
    timeout_s: float | None = None
    like: str | None = None
    runner: str = MODEL_RUNNER
    kernels: tuple[str, ...] = ()
    inside: bool = False


@dataclass(frozen=True, slots=True)
class LaunchSummary:
    """Result of a launch. `points`: this launch's points by status; `failed`: failed points of the whole run."""

    run_id: str
    status: str
    resumed: bool
    executor: str
    workers: int
    planned: int
    done_before: int
    points: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0


def launch(grid: Grid, options: LaunchOptions, progress: Progress) -> LaunchSummary:
    """Run the points of a grid that its run does not have yet.

    Raises UserError, SweepFault, and KeyboardInterrupt after a second signal; finished points are committed first.
    """
    began = time.monotonic()
    check_options(grid, options)
    if grid.traces:
        options = replace(options, runner=TRACE_RUNNER)
    store = Store(options.results)
    facts = provenance.collect(engine="model", executor=options.executor, **requested_options(grid, options))
    with Interrupts() as interrupts, store.open_run(grid, run_name(grid), options.fresh, facts) as writer:
        status, results, todo = "fault", ResultBuffer(writer, grid.policy_names), 0
        try:
            plan = plan_remaining(grid, options.where, writer, rerun_failed=options.rerun_failed)
            account = plan.account
            todo = account.todo
            for warning in (*writer.problems, *account.warnings):
                progress.say(f"warning: {warning}")
            writer.set_planned_points(count_grid_points(plan, options.where))
            executor, place = choose_executor(options, todo, account.estimate_ns)
            if todo:
                progress.say(f"{writer.run_id}: {todo:,} point{'s' * (todo != 1)} {place}")
                if grid.has_huge_pages:
                    progress.say(f"note: {LEFT_OUT_OF_HUGE_PAGES}")
                Driver(
                    plan,
                    executor,
                    results,
                    progress,
                    interrupts,
                    runner=options.runner,
                    timeout_s=options.timeout_s,
                    max_failures=options.max_failures,
                ).run()
            failed = len(writer.failed_ids())
            cut_short = interrupts.received and results.committed_points < todo
            status = "interrupted" if cut_short else "failed" if failed else "ok"
        except (KeyboardInterrupt, UserError):
            status = "interrupted"
            raise
        finally:
            results.close()  # before the run's lock is released: no thread may write after that
            writer.finish(status, {})
            if status == "interrupted" and _is_void(writer, results, interrupts):
                writer.close()
                store.remove(writer.run_id)
    return LaunchSummary(
        writer.run_id,
        status,
        writer.resumed,
        executor.name,
        executor.workers if todo else 0,
        todo,
        account.done,
        dict(results.counts),
        failed,
        time.monotonic() - began,
    )


def _is_void(writer: RunWriter, results: ResultBuffer, interrupts: Interrupts) -> bool:
    """Whether the run is new, nothing was committed and no signal ended it: it could not begin."""
    return not (writer.resumed or results.committed_points or interrupts.received)


def check_options(grid: Grid, options: LaunchOptions) -> None:
    """Raise UserError for options or SQL that cannot be launched, before a run is created or changed."""
    if options.executor not in EXECUTORS:
        raise UserError(f"--executor: {unknown_name('executor', options.executor, EXECUTORS)}")
    if options.executor == "inline" and options.timeout_s is not None:
        raise UserError("--timeout needs --executor processes or ray: inline would have to kill this process")
    check_selection(grid, options.where)


def requested_options(grid: Grid, options: LaunchOptions) -> dict[str, Any]:
    """The options that determine which rows are made: recorded in run.json for each launch."""
    recorded = {"overrides": list(grid.overrides), "where": options.where, "rerun_failed": options.rerun_failed}
    return recorded | ({"like": options.like} if options.like else {})


def choose_executor(options: LaunchOptions, points: int, estimate_ns: float) -> tuple[Executor, str]:
    """The executor for so many points and CPU nanoseconds, not started yet, and where: `on 2 local processes`."""
    jobs = options.jobs or len(os.sched_getaffinity(0))
    name = options.executor
    if name == "auto":
        name = "ray" if options.address or estimate_ns > RAY_WORTH_NS else "processes"
    if name == "inline":
        from sweep.executors.inline import Inline

        return Inline(options.runner), "in this process"
    if name == "processes":
        from sweep.executors.processes import Processes

        max_tasks = max(points, math.ceil(estimate_ns / TASK_NS))
        jobs = max(1, min(jobs, max_tasks, math.ceil(estimate_ns / MIN_TASK_NS)))
        return Processes(jobs, options.runner), f"on {jobs} local process{'es' * (jobs > 1)}"
    from sweep.executors.ray import RayTasks

    has_limit = options.timeout_s is not None
    executor = RayTasks(options.address, options.jobs, options.runner, has_limit)
    local = f"on a local Ray with {jobs} CPU{'s' * (jobs > 1)}"
    return executor, f"on Ray at {options.address}" if options.address else local
