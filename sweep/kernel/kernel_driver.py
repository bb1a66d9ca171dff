"""Runs a grid on kernels, with the same store as sweep.run.launch, one point at a time on all of them.

On the running kernel each point is in a new process anyway, and two at once would disturb each other's times. Kernels
in guests run a point at the same time. A point that a kernel cannot run, or has not enough memory for, becomes a row
with status `refused`. A point is done when all kernels of its arch have run it.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.point_id import run_name
from sweep.kernel import open_kernels
from sweep.kernel.open_kernels import KernelFacts, needs_of
from sweep.kernel.point_runs import FinishedPoint, PointRunner
from sweep.kernel.ray_session import open_ray_session
from sweep.kernel.result_log import ENGINE, ResultLog
from sweep.kernel.targets import LocalTarget, Target, kernel_identity, kernel_names, run_facts, targets_of
from sweep.run.interrupts import Interrupts
from sweep.run.launch import LaunchOptions, LaunchSummary, requested_options
from sweep.run.plan import Plan, check_selection, make_plan
from sweep.run.progress import Progress, ProgressState
from sweep.run.resume import count_grid_points, plan_remaining
from sweep.store import provenance
from sweep.store.store import Store

COUNTED_INSIDE = "counted inside"
"""Beside the kernels of a run whose rows have counters from inside the running kernel, and no times."""


def check_no_traces(grid: Grid) -> None:
    """Raise UserError for a grid of traces."""
    if grid.traces:
        advice = "`sweep replay --engine kernel TRACE...` compares model and kernels after each step of a trace"
        raise UserError(f"{grid.location('workload')}: {advice}")


class Session(Protocol):
    """Opened kernels that can run the points of a grid. grid: as it is launched; workers: points run at a time.

    place: where, for messages after the kernels' names; "" for this machine
    """

    @property
    def grid(self) -> Grid: ...

    @property
    def targets(self) -> Sequence[Target[KernelFacts]]: ...

    @property
    def workers(self) -> int: ...

    @property
    def place(self) -> str: ...

    def run(self, plan: Plan) -> Generator[FinishedPoint | None]:
        """Run the points of a plan. None is yielded now and then, so that the caller can look at signals."""
        ...


@dataclass(frozen=True, slots=True)
class LocalSession:
    """Kernels on this machine, which run one point at a time."""

    grid: Grid
    targets: Sequence[LocalTarget]
    workers: int = 1
    place: str = ""

    def run(self, plan: Plan) -> Generator[FinishedPoint | None]:
        with PointRunner(plan, self.targets) as runner:
            for chunk in plan.chunks():
                for place in range(len(chunk.ids)):
                    yield runner.run(chunk.slice(place, place + 1))


@contextmanager
def open_session(grid: Grid, options: LaunchOptions, progress: Progress) -> Iterator[Session]:
    """The kernels of a launch, booted. Raises UserError for a launch that cannot run; the store is not touched."""
    check_selection(grid, options.where)
    names = options.kernels or grid.kernels
    if options.executor == "ray" or options.address:
        with open_ray_session(grid, options, names, progress) as session:
            yield session
        return
    with open_kernels.open_named(
        names, lambda: needs_of(make_plan(grid, options.where)), options.timeout_s, progress.say, options.inside
    ) as kernels:
        identities = tuple(map(kernel_identity, kernels)) if names else ()
        if options.inside:
            identities = (*identities, COUNTED_INSIDE)
        yield LocalSession(replace(grid, kernel_images=identities), targets_of(kernels, grid))


def launch(grid: Grid, options: LaunchOptions, progress: Progress) -> LaunchSummary:
    """Run the points of a grid that the store lacks. Raises UserError, and KeyboardInterrupt for a second signal."""
    began = time.monotonic()
    with open_session(grid, options, progress) as session:
        grid, targets = session.grid, session.targets
        about = {"live": [run_facts(target.kernel) for target in targets], **requested_options(grid, options)}
        about |= {"kernels": list(options.kernels or grid.kernels)} if grid.kernel_images else {}
        about |= {"inside": True} if options.inside else {}
        store, facts = Store(options.results), provenance.collect(engine=ENGINE, **about)
        with Interrupts() as interrupts, store.open_run(grid, run_name(grid), options.fresh, facts) as writer:
            status, log, account = "fault", ResultLog(writer, targets, with_times=not options.inside), None
            try:
                plan = plan_remaining(grid, options.where, writer, rerun_failed=options.rerun_failed)
                account = plan.account
                for warning in (*writer.problems, *account.warnings):
                    progress.say(f"warning: {warning}")
                writer.set_planned_points(count_grid_points(plan, options.where))
                name = kernel_names(targets)
                policies = dict.fromkeys(policy for target in targets for policy in target.policies)
                progress.say(
                    f"{writer.run_id}: {account.todo:,} points on {name}{session.place}: {', '.join(policies)}"
                )
                interrupts.defers_first = True
                run_points(session, plan, log, options.max_failures, progress, interrupts)
                log.commit()
                failed = len(writer.failed_ids())
                status = "interrupted" if interrupts.received else "failed" if failed else "ok"
            except (KeyboardInterrupt, UserError):
                status = "interrupted"
                raise
            finally:
                progress.stop()
                log.commit()
                writer.finish(status, {})
                if status == "interrupted" and not writer.resumed and not log.written and not interrupts.received:
                    writer.close()
                    store.remove(writer.run_id)  # a new run that could not begin
    seconds, counts, done = time.monotonic() - began, dict(log.counts), account.done
    return LaunchSummary(
        writer.run_id, status, writer.resumed, name, session.workers, account.todo, done, counts, failed, seconds
    )  # fmt: skip


def run_points(
    session: Session,
    plan: Plan,
    log: ResultLog,
    max_failures: int | None,
    progress: Progress,
    interrupts: Interrupts,
) -> None:
    """Run every point of the plan, until a signal arrives or max_failures points are not ok."""
    todo = plan.account.todo
    with closing(session.run(plan)) as points:
        while not (interrupts.received or (max_failures is not None and log.bad >= max_failures)):
            try:
                point = next(points)
            except StopIteration:
                return
            if point is not None:
                log.add(point)
            log.commit_if_due()
            done = log.counts.total()
            progress.show(ProgressState(todo, done, log.bad, todo, done))
