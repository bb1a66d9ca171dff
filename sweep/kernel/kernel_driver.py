"""The driver for the live kernel: grid and store as in sweep.run.launch, one point at a time and nothing beside it.

There is no executor: a point is a fresh process anyway, and two at once would disturb each other's timings. A point
that no kernel can show, or this machine cannot bear, becomes a row with status `refused`.
"""

import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from engine.kernel.runner import (
    LIMIT_S,
    LostError,
    Observation,
    RefusedError,
    Runner,
    TimedOutError,
    UnsupportedMachineError,
)
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Scenario, row
from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.point_id import run_name
from sweep.kernel import kernel_replay
from sweep.run import grid_sql
from sweep.run.launch import LaunchOptions, LaunchSummary, requested_options
from sweep.run.plan import Plan
from sweep.run.point_chunk import PointChunk
from sweep.run.progress import Progress, ProgressState
from sweep.run.resume import count_grid_points, plan_remaining
from sweep.run.signals import Interrupts
from sweep.store import arrow_tables, provenance
from sweep.store.store import RunWriter, Store
from sweep.traces.trace_points import TOUCH_RECORDED, are_traces

ENGINE = "kernel"
COMMIT_S = 2.0
MUNMAP = "munmap"


class Kernel(Protocol):
    """What is asked of engine.kernel.runner.Runner."""

    @property
    def policy(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    def run(self, scenario: Scenario, unmap: bool = False) -> Observation: ...


@contextmanager
def opened(limit_s: float | None = None) -> Iterator[Runner]:
    """The live kernel. UserError where this machine has none that can be asked."""
    try:
        with Runner(limit_s or LIMIT_S) as runner:
            yield runner
    except UnsupportedMachineError as error:
        raise UserError(str(error)) from error


def scenarios_only(grid: Grid) -> None:
    """Raises UserError for a grid of traces."""
    if grid.traces:
        told = "`sweep replay --engine kernel TRACE...` holds the model to the live kernel, step by step"
        raise UserError(f"{grid.location('workload')}: {told}")


def shown(kernel: Kernel, grid: Grid) -> tuple[str, ...]:
    """The grid's policies that this kernel can show: its own design, and munmap, which needs a scenario's calls."""
    can = (kernel.policy,) if grid.traces else (kernel.policy, MUNMAP)
    policies = tuple(policy for policy in grid.policies if policy in can)
    if not policies:
        asked = ", ".join(grid.policies)
        raise UserError(
            f"{grid.location('policies')}: this kernel shows {' and '.join(can)}; the grid asks for {asked}"
        )
    return policies


@dataclass(frozen=True, slots=True)
class Point:
    """A finished point: what was seen under each policy, or why nothing was."""

    block: PointChunk
    seen: tuple[Observation, ...]
    status: str = "ok"
    error: str | None = None
    cpu_ns: int | None = None


def look_at(kernel: Kernel, block: PointChunk, policies: Sequence[str]) -> Point:
    """Run the one point of a block under each policy."""
    scenario, cpu_ns = row(block.columns, 0), time.process_time_ns()
    try:
        seen = tuple(kernel.run(scenario, unmap=policy == MUNMAP) for policy in policies)
    except RefusedError as error:
        return Point(block, (), "refused", str(error))
    except TimedOutError as error:
        return Point(block, (), "timeout", str(error))
    except LostError as error:
        return Point(block, (), "failed", str(error))
    spent = sum(s.install_ns + s.zap_ns for s in seen) + time.process_time_ns() - cpu_ns
    return Point(block, seen, cpu_ns=spent)


def play(plan: Plan, block: PointChunk, policy: str) -> Point:
    """Play the one trace of a block in a child."""
    columns, cpu_ns = plan.worker_columns(block), time.process_time_ns()
    name = columns["trace"][0]
    if columns["touch"][0] != TOUCH_RECORDED:
        return Point(block, (), "refused", "the live kernel plays what is recorded: no `touch: all`")
    try:
        values = kernel_replay.outcome(kernel_replay.steps_of(name, columns["content"][0]), name, policy)
    except UserError as error:
        return Point(block, (), "refused", str(error))
    nothing = np.zeros((0, len(ROUND_COLUMNS)), np.int64)
    seen = Observation(values, nothing, nothing[:, :2], drift_pages=0)
    return Point(block, (seen,), cpu_ns=time.process_time_ns() - cpu_ns)


def launch(grid: Grid, options: LaunchOptions, progress: Progress) -> LaunchSummary:
    """Run what is missing of a grid on the live kernel. Raises UserError, and KeyboardInterrupt for a second signal."""
    began = time.monotonic()
    with opened(options.timeout_s) as runner:
        policies = check(runner, grid, options)
        about = {"live": told(runner), **requested_options(grid, options)}
        store, facts = Store(options.results), provenance.collect(engine=ENGINE, **about)
        with Interrupts() as interrupts, store.open_run(grid, run_name(grid), options.fresh, facts) as writer:
            status, log, account = "fault", Log(writer, policies, runner), None
            try:
                plan = plan_remaining(grid, options.where, writer, rerun_failed=options.rerun_failed)
                account = plan.account
                for warning in (*writer.problems, *account.warnings):
                    progress.say(f"warning: {warning}")
                writer.set_planned_points(count_grid_points(plan, options.where))
                name = f"Linux {runner.machine.release}"
                progress.say(f"{writer.run_id}: {account.todo:,} points on {name}: {', '.join(policies)}")
                interrupts.defers_first = True
                run(plan, runner, log, options, progress, interrupts)
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
        writer.run_id, status, writer.resumed, name, 1, account.todo, done, counts, failed, seconds
    )  # fmt: skip


def check(runner: Runner, grid: Grid, options: LaunchOptions) -> tuple[str, ...]:
    """The policies that are run; UserError, before a run is touched, for what cannot be launched so.

    A grid that names no policies asks for the kernel's own: munmap needs a mapping a hole, and is refused sooner.
    """
    grid_sql.check(grid, options.where)
    return (runner.policy,) if grid.policies == POLICIES else shown(runner, grid)


def told(runner: Runner) -> dict[str, Any]:
    """What goes with the run: where its rows come from."""
    here, hello = runner.machine, runner.info
    return {
        "release": here.release,
        "pt_reclaim": runner.pt_reclaim,
        "thp": here.thp,
        "fifth_level": hello.fifth_level,
        "loop_ns": hello.loop_ns,
    }


def run(
    plan: Plan, kernel: Kernel, log: "Log", options: LaunchOptions, progress: Progress, interrupts: Interrupts
) -> None:
    """Every point of the plan, until one signal or too many failures."""
    todo, most = plan.account.todo, options.max_failures
    for block in plan.chunks():
        for place in range(len(block.ids)):
            if interrupts.received or (most is not None and log.bad >= most):
                return
            one = block.slice(place, place + 1)
            log.add(play(plan, one, kernel.policy) if plan.grid.traces else look_at(kernel, one, log.policies))
            done = log.counts.total()
            progress.show(ProgressState(todo, done, log.bad, todo, done))


class Log:
    """Finished points on their way to the store."""

    def __init__(self, writer: RunWriter, policies: Sequence[str], runner: Runner) -> None:
        self._writer, self.policies, self._runner = writer, policies, runner
        self._points: list[Point] = []
        self._last = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.written = 0

    @property
    def bad(self) -> int:
        return self.counts.total() - self.counts["ok"]

    def add(self, point: Point) -> None:
        self._points.append(point)
        self.counts[point.status] += 1
        if time.monotonic() - self._last >= COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Everything finished is in the store when this returns."""
        points, self._points = self._points, []
        if points:
            good = [point for point in points if point.seen]
            outcomes, rounds = self._results(good) if good else (None, None)
            self._writer.commit(outcomes, rounds, self._rows(points))
            self.written += len(points)
        self._last = time.monotonic()

    def _results(self, points: list[Point]) -> tuple[arrow_tables.Table, arrow_tables.Table]:
        block, run_id = PointChunk.concat([point.block for point in points]), self._writer.run_id
        traces, release, reclaims = are_traces(block.columns), self._runner.machine.release, self._runner.pt_reclaim
        known = kernel_replay.SHOWN if traces else self._runner.columns
        results = replace(spread([point.seen for point in points], self.policies), known=known)
        facts = arrow_tables.KernelFacts(None, None, release, reclaims)
        if not traces:
            times = [[[s.install_ns, s.zap_ns] for s in point.seen] for point in points]
            install_ns, zap_ns = np.moveaxis(np.array(times, np.int64), 2, 0)
            facts = replace(facts, install_ns=install_ns, zap_ns=zap_ns)
        outcomes = arrow_tables.outcome_table(
            run_id, block.ids, block.repeat, block.columns, results, self.policies, engine=ENGINE, kernel=facts
        )
        return outcomes, arrow_tables.round_table(run_id, block.ids, results, self.policies, engine=ENGINE)

    def _rows(self, points: list[Point]) -> arrow_tables.Table:
        block = PointChunk.concat([point.block for point in points])
        return arrow_tables.point_table(
            self._writer.run_id,
            block.ids,
            block.repeat,
            block.columns,
            block.derived,
            status=[point.status for point in points],
            error=[point.error for point in points],
            node=platform.node(),
            cpu_ns=[point.cpu_ns for point in points],
            engine=ENGINE,
        )


def spread(seen: Sequence[Sequence[Observation]], policies: Sequence[str]) -> Results:
    """What was seen, a row a point and an entry a policy, in the shape of the model's results; the rest is 0."""
    counts = np.array([len(of_point[0].rounds) for of_point in seen], np.int64)
    values = np.zeros((len(seen), len(POLICIES), len(COLUMNS)), np.int64)
    rounds = np.zeros((int(counts.sum()), len(POLICIES), len(ROUND_COLUMNS)), np.int64)
    ends = np.cumsum(counts)
    for place, of_point in enumerate(seen):
        for policy, one in zip(policies, of_point, strict=True):
            at = POLICIES.index(policy)
            for name, value in one.values.items():
                values[place, at, COLUMNS.index(name)] = value
            rounds[ends[place] - counts[place] : ends[place], at] = one.rounds
    return Results(values, rounds, counts)
