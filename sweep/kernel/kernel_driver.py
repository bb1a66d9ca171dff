"""Runs a grid on the live kernel, with the same store as sweep.run.launch, one point at a time.

There is no executor: each point runs in a new process anyway, and two at once would disturb each other's times. A point
that no kernel can run, or for which this machine has not enough memory, becomes a row with status `refused`.
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
from engine.model.policy import ALL, BUILT_IN
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
from sweep.store import arrow_tables, provenance, result_tables
from sweep.store.store import RunWriter, Store
from sweep.traces.trace_points import TOUCH_RECORDED, are_traces

ENGINE = "kernel"
COMMIT_S = 2.0
MUNMAP = "munmap"


class Kernel(Protocol):
    """The part of engine.kernel.runner.Runner that is used here, so that tests can replace it."""

    @property
    def policy(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    def run(self, scenario: Scenario, unmap: bool = False) -> Observation: ...


@contextmanager
def open_kernel(limit_s: float | None = None) -> Iterator[Runner]:
    """A Runner whose points have the time limit limit_s. Raises UserError if this machine cannot run any point."""
    try:
        with Runner(limit_s or LIMIT_S) as runner:
            yield runner
    except UnsupportedMachineError as error:
        raise UserError(str(error)) from error


def check_no_traces(grid: Grid) -> None:
    """Raise UserError for a grid of traces."""
    if grid.traces:
        advice = "`sweep replay --engine kernel TRACE...` compares model and live kernel after each step of a trace"
        raise UserError(f"{grid.location('workload')}: {advice}")


def supported_policies(kernel: Kernel, grid: Grid) -> tuple[str, ...]:
    """The policies of the grid that this kernel can run: its own, and munmap for scenarios.

    Raises UserError if there are none, and for a rule of the grid's own that differs from the kernel's.
    """
    supported = (kernel.policy,) if grid.traces else (kernel.policy, MUNMAP)
    for policy in grid.policies:
        if policy.name not in BUILT_IN:
            if policy.effective != BUILT_IN[kernel.policy].effective:
                message = f"this kernel follows {kernel.policy}, not the grid's own rule {policy.name}"
                raise UserError(f"{grid.location('policies')}: {message}; leave it out: -S policies={kernel.policy}")
            supported = (*supported, policy.name)
    policies = tuple(name for name in grid.policy_names if name in supported)
    if not policies:
        asked = ", ".join(grid.policy_names)
        raise UserError(
            f"{grid.location('policies')}: this kernel shows {' and '.join(supported)}; the grid asks for {asked}"
        )
    return policies


@dataclass(frozen=True, slots=True)
class FinishedPoint:
    """A point that was run. observations: one per policy, none unless status is ok; chunk: the point itself."""

    chunk: PointChunk
    observations: tuple[Observation, ...]
    status: str = "ok"
    error: str | None = None
    cpu_ns: int | None = None


def run_point(kernel: Kernel, chunk: PointChunk, policies: Sequence[str]) -> FinishedPoint:
    """Run the only point of a chunk under each policy."""
    scenario, cpu_ns = row(chunk.columns, 0), time.process_time_ns()
    try:
        observations = tuple(kernel.run(scenario, unmap=policy == MUNMAP) for policy in policies)
    except RefusedError as error:
        return FinishedPoint(chunk, (), "refused", str(error))
    except TimedOutError as error:
        return FinishedPoint(chunk, (), "timeout", str(error))
    except LostError as error:
        return FinishedPoint(chunk, (), "failed", str(error))
    spent = sum(o.install_ns + o.zap_ns for o in observations) + time.process_time_ns() - cpu_ns
    return FinishedPoint(chunk, observations, cpu_ns=spent)


def replay_trace(plan: Plan, chunk: PointChunk, policy: str) -> FinishedPoint:
    """Replay the only point of a chunk, a trace, in a child."""
    columns, cpu_ns = plan.worker_columns(chunk), time.process_time_ns()
    name = columns["trace"][0]
    if columns["touch"][0] != TOUCH_RECORDED:
        return FinishedPoint(chunk, (), "refused", "the live kernel plays what is recorded: no `touch: all`")
    try:
        trace = kernel_replay.read_trace(name, columns["content"][0])
        values = kernel_replay.observe_outcome(trace, name, policy)
    except UserError as error:
        return FinishedPoint(chunk, (), "refused", str(error))
    no_rounds = np.zeros((0, len(ROUND_COLUMNS)), np.int64)
    observation = Observation(values, no_rounds, no_rounds[:, :2], drift_pages=0)
    return FinishedPoint(chunk, (observation,), cpu_ns=time.process_time_ns() - cpu_ns)


def launch(grid: Grid, options: LaunchOptions, progress: Progress) -> LaunchSummary:
    """Run the points of a grid that the store lacks. Raises UserError, and KeyboardInterrupt for a second signal."""
    began = time.monotonic()
    with open_kernel(options.timeout_s) as runner:
        policies = check_launch(runner, grid, options)
        about = {"live": run_facts(runner), **requested_options(grid, options)}
        store, facts = Store(options.results), provenance.collect(engine=ENGINE, **about)
        with Interrupts() as interrupts, store.open_run(grid, run_name(grid), options.fresh, facts) as writer:
            status, log, account = "fault", ResultLog(writer, policies, runner), None
            try:
                plan = plan_remaining(grid, options.where, writer, rerun_failed=options.rerun_failed)
                account = plan.account
                for warning in (*writer.problems, *account.warnings):
                    progress.say(f"warning: {warning}")
                writer.set_planned_points(count_grid_points(plan, options.where))
                name = f"Linux {runner.machine.release}"
                progress.say(f"{writer.run_id}: {account.todo:,} points on {name}: {', '.join(policies)}")
                interrupts.defers_first = True
                run_points(plan, runner, log, options, progress, interrupts)
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


def check_launch(runner: Runner, grid: Grid, options: LaunchOptions) -> tuple[str, ...]:
    """The policies to run. Raises UserError for a launch that cannot run; the store is not touched.

    A grid that names no policies runs under the kernel's own only: munmap needs a mapping per hole, so more points
    would be refused.
    """
    grid_sql.check(grid, options.where)
    return (runner.policy,) if grid.policies == ALL else supported_policies(runner, grid)


def run_facts(runner: Runner) -> dict[str, Any]:
    """What run.json records about the machine and its kernel."""
    machine, server = runner.machine, runner.info
    return {
        "release": machine.release,
        "pt_reclaim": runner.pt_reclaim,
        "thp": machine.thp,
        "fifth_level": server.fifth_level,
        "loop_ns": server.loop_ns,
    }


def run_points(
    plan: Plan, kernel: Kernel, log: "ResultLog", options: LaunchOptions, progress: Progress, interrupts: Interrupts
) -> None:
    """Run every point of the plan, until a signal arrives or too many points failed."""
    todo, most = plan.account.todo, options.max_failures
    for chunk in plan.chunks():
        for place in range(len(chunk.ids)):
            if interrupts.received or (most is not None and log.bad >= most):
                return
            point = chunk.slice(place, place + 1)
            if plan.grid.traces:
                log.add(replay_trace(plan, point, kernel.policy))
            else:
                log.add(run_point(kernel, point, log.policies))
            done = log.counts.total()
            progress.show(ProgressState(todo, done, log.bad, todo, done))


class ResultLog:
    """Collects finished points and commits them to the store every COMMIT_S.

    counts: points by status; written: points committed
    """

    def __init__(self, writer: RunWriter, policies: Sequence[str], runner: Runner) -> None:
        self._writer, self.policies, self._runner = writer, policies, runner
        self._points: list[FinishedPoint] = []
        self._last_commit = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.written = 0

    @property
    def bad(self) -> int:
        return self.counts.total() - self.counts["ok"]

    def add(self, point: FinishedPoint) -> None:
        self._points.append(point)
        self.counts[point.status] += 1
        if time.monotonic() - self._last_commit >= COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Write all finished points to the store."""
        points, self._points = self._points, []
        if points:
            observed = [point for point in points if point.observations]
            outcomes, rounds = self._outcome_tables(observed) if observed else (None, None)
            self._writer.commit(outcomes, rounds, self._point_table(points))
            self.written += len(points)
        self._last_commit = time.monotonic()

    def _outcome_tables(self, points: list[FinishedPoint]) -> tuple[arrow_tables.Table, arrow_tables.Table]:
        chunk, run_id = PointChunk.concat([point.chunk for point in points]), self._writer.run_id
        traces, release, reclaims = are_traces(chunk.columns), self._runner.machine.release, self._runner.pt_reclaim
        known = kernel_replay.OUTCOME_COLUMNS if traces else self._runner.columns
        results = replace(results_of([point.observations for point in points], len(self.policies)), known=known)
        facts = result_tables.KernelFacts(None, None, release, reclaims)
        if not traces:
            times = [[[o.install_ns, o.zap_ns] for o in point.observations] for point in points]
            install_ns, zap_ns = np.moveaxis(np.array(times, np.int64), 2, 0)
            facts = replace(facts, install_ns=install_ns, zap_ns=zap_ns)
        outcomes = result_tables.outcome_table(
            run_id, chunk.ids, chunk.repeat, chunk.columns, results, self.policies, engine=ENGINE, kernel=facts
        )
        return outcomes, result_tables.round_table(run_id, chunk.ids, results, self.policies, engine=ENGINE)

    def _point_table(self, points: list[FinishedPoint]) -> arrow_tables.Table:
        chunk = PointChunk.concat([point.chunk for point in points])
        return result_tables.point_table(
            self._writer.run_id,
            chunk.ids,
            chunk.repeat,
            chunk.columns,
            chunk.derived,
            status=[point.status for point in points],
            error=[point.error for point in points],
            node=platform.node(),
            cpu_ns=[point.cpu_ns for point in points],
            engine=ENGINE,
        )


def results_of(observations: Sequence[Sequence[Observation]], policies: int) -> Results:
    """Results in the model's form, with 0 for what was not observed. observations: one per point and policy.

    policies: their number
    """
    counts = np.array([len(of_point[0].rounds) for of_point in observations], np.int64)
    values = np.zeros((len(observations), policies, len(COLUMNS)), np.int64)
    rounds = np.zeros((int(counts.sum()), policies, len(ROUND_COLUMNS)), np.int64)
    ends = np.cumsum(counts)
    for point, of_point in enumerate(observations):
        for at, observation in enumerate(of_point):
            for name, value in observation.values.items():
                values[point, at, COLUMNS.index(name)] = value
            rounds[ends[point] - counts[point] : ends[point], at] = observation.rounds
    return Results(values, rounds, counts)
