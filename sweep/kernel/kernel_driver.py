"""Runs a grid on kernels, with the same store as sweep.run.launch, one point at a time on all of them.

On the running kernel each point is in a new process anyway, and two at once would disturb each other's times. Kernels
in guests run a point at the same time. A point that a kernel cannot run, or has not enough memory for, becomes a row
with status `refused`. A point is done when all kernels of its arch have run it.
"""

import hashlib
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.kernel.outcome import Observation
from engine.kernel.script import script_of
from engine.model.policy import ALL, BUILT_IN
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Scenario, row
from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.grid.point_id import run_name
from sweep.kernel import kernel_cache, kernel_replay, open_kernels
from sweep.kernel.open_kernels import (
    HOST,
    POINT_ERRORS,
    Kernel,
    accel_of,
    guest_of,
    has_times,
    kernels_for,
    needs_of,
    status_of,
)
from sweep.run import grid_sql
from sweep.run.interrupts import Interrupts
from sweep.run.launch import LaunchOptions, LaunchSummary, requested_options
from sweep.run.plan import Plan, make_plan
from sweep.run.point_chunk import PointChunk
from sweep.run.progress import Progress, ProgressState
from sweep.run.resume import count_grid_points, plan_remaining
from sweep.store import provenance
from sweep.store.store import RunWriter, Store
from sweep.tables import arrow_tables, result_tables
from sweep.traces.trace_points import TOUCH_RECORDED, are_traces

ENGINE = "kernel"
COMMIT_S = 2.0
MUNMAP = "munmap"


@dataclass(frozen=True, slots=True)
class Target:
    """A kernel and the policies that it runs the points under."""

    kernel: Kernel
    policies: tuple[str, ...]


def check_no_traces(grid: Grid) -> None:
    """Raise UserError for a grid of traces."""
    if grid.traces:
        advice = "`sweep replay --engine kernel TRACE...` compares model and kernels after each step of a trace"
        raise UserError(f"{grid.location('workload')}: {advice}")


def supported_policies(kernel: Kernel, grid: Grid) -> tuple[str, ...]:
    """Those of the grid's policies that can run on this kernel, in the grid's order.

    They are the policy that the kernel implements, the grid's own rules that are equal to it, and munmap, except for
    recordings. Raises UserError if none is left, or if a rule of the grid's own differs from the kernel's policy.
    """
    name = "this kernel" if accel_of(kernel) == HOST else f"Linux {kernel.machine.release}"
    supported = (kernel.policy,) if grid.traces else (kernel.policy, MUNMAP)
    for policy in grid.policies:
        if policy.name not in BUILT_IN:
            if policy.effective != BUILT_IN[kernel.policy].effective:
                message = f"{name} follows {kernel.policy}, not the grid's own rule {policy.name}"
                raise UserError(f"{grid.location('policies')}: {message}; leave it out: -S policies={kernel.policy}")
            supported = (*supported, policy.name)
    policies = tuple(policy for policy in grid.policy_names if policy in supported)
    if not policies:
        asked = ", ".join(grid.policy_names)
        raise UserError(
            f"{grid.location('policies')}: {name} shows {' and '.join(supported)}; the grid asks for {asked}"
        )
    return policies


@contextmanager
def open_targets(grid: Grid, options: LaunchOptions, progress: Progress) -> Iterator[tuple[Grid, list[Target]]]:
    """The grid as it is launched, and the kernels that it runs on with their policies.

    Raises UserError for a launch that cannot run; the store is not touched. A grid that names no policies runs under
    each kernel's own only: munmap needs a mapping per hole, so more points would be refused.
    """
    grid_sql.check(grid, options.where)
    names = options.kernels or grid.kernels
    with open_kernels.open_named(
        names, lambda: needs_of(make_plan(grid, options.where)), options.timeout_s, progress.say
    ) as kernels:
        own_only = grid.policies == ALL
        targets = [Target(k, (k.policy,) if own_only else supported_policies(k, grid)) for k in kernels]
        yield replace(grid, kernel_images=tuple(map(image_identity, kernels)) if names else ()), targets


def image_identity(kernel: Kernel) -> str:
    """What a run records of a kernel: a run continues only on the same ones. For an image its release and a hash."""
    image = getattr(kernel, "image", None)
    if image is None:
        return kernel_cache.RUNNING
    return f"{image.release} {hashlib.blake2b(image.path.read_bytes(), digest_size=8).hexdigest()}"


def targets_text(targets: Sequence[Target]) -> str:
    """Where a launch runs: `the live kernel: merged`, or `Linux 6.12.3 (tcg): none; Linux 7.3.4 (tcg): merged`."""
    names = (
        "the live kernel" if accel_of(t.kernel) == HOST else f"Linux {t.kernel.machine.release} ({accel_of(t.kernel)})"
        for t in targets
    )
    return "; ".join(f"{name}: {', '.join(t.policies)}" for name, t in zip(names, targets, strict=True))


def kernel_names(targets: Sequence[Target]) -> str:
    """`Linux 6.12.3, 7.3.4` for messages."""
    return "Linux " + ", ".join(target.kernel.machine.release for target in targets)


@dataclass(frozen=True, slots=True)
class FinishedPoint:
    """A point that was run. chunk: the point itself.

    observations: (number of the target, one for each of its policies), for the targets of the point's arch; none unless
    status is ok
    """

    chunk: PointChunk
    observations: tuple[tuple[int, tuple[Observation, ...]], ...]
    status: str = "ok"
    error: str | None = None
    last_lines: str | None = None
    cpu_ns: int | None = None


class PointRunner:
    """Runs points on all targets. A context manager: guests run at the same time, each from a thread of its own."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._threads = [ThreadPoolExecutor(1) if accel_of(t.kernel) != HOST else None for t in targets]

    def __enter__(self) -> "PointRunner":
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            if thread is not None:
                thread.shutdown()

    def run(self, chunk: PointChunk) -> FinishedPoint:
        """Run the only point of a chunk on the kernels of its arch, under each of their policies."""
        scenario, cpu_ns = row(chunk.columns, 0), time.process_time_ns()
        chosen = kernels_for([target.kernel for target in self._targets], scenario)
        for unmap in {policy == MUNMAP for i in chosen for policy in self._targets[i].policies}:
            if any(self._threads[i] is not None for i in chosen):
                script_of(scenario, unmap)  # once, for all guests
        calls = {i: thread.submit(observe, self._targets[i], scenario) for i in chosen if (thread := self._threads[i])}
        observations: list[tuple[int, tuple[Observation, ...]]] = []
        failure: tuple[int, Exception] | None = None
        for i in chosen:
            try:
                observed = calls[i].result() if i in calls else observe(self._targets[i], scenario)
                observations.append((i, observed))
            except POINT_ERRORS as error:
                failure = failure or (i, error)
        if failure is not None:
            return failed_point(chunk, self._targets, *failure)
        spent = sum(o.install_ns + o.zap_ns for _, several in observations for o in several)
        return FinishedPoint(chunk, tuple(observations), cpu_ns=spent + time.process_time_ns() - cpu_ns)


def observe(target: Target, scenario: Scenario) -> tuple[Observation, ...]:
    """Run a scenario on a kernel under each of its policies. Raises one of POINT_ERRORS."""
    return tuple(target.kernel.run(scenario, unmap=policy == MUNMAP) for policy in target.policies)


def failed_point(chunk: PointChunk, targets: Sequence[Target], at: int, error: Exception) -> FinishedPoint:
    """A point that failed on targets[at], which the error names where there are several."""
    where = f"Linux {targets[at].kernel.machine.release}: " if len(targets) > 1 else ""
    last_lines = getattr(error, "last_lines", "") or None
    return FinishedPoint(chunk, (), status_of(error), f"{where}{error}", last_lines)


def replay_trace(plan: Plan, chunk: PointChunk, targets: Sequence[Target]) -> FinishedPoint:
    """Replay the only point of a chunk, a trace, in a child of each kernel."""
    columns, cpu_ns = plan.worker_columns(chunk), time.process_time_ns()
    name = columns["trace"][0]
    if columns["touch"][0] != TOUCH_RECORDED:
        return FinishedPoint(chunk, (), "refused", "a kernel plays what is recorded: no `touch: all`")
    no_rounds = np.zeros((0, len(ROUND_COLUMNS)), np.int64)
    observations: list[tuple[int, tuple[Observation, ...]]] = []
    for i, target in enumerate(targets):
        try:
            trace = kernel_replay.read_trace(name, columns["content"][0])
            guest, thp = guest_of(target.kernel), columns["thp"][0] or None
            values = kernel_replay.observe_outcome(trace, name, target.kernel.policy, thp, guest)
        except UserError as error:
            return FinishedPoint(chunk, (), "refused", str(error))
        except POINT_ERRORS as error:
            return failed_point(chunk, targets, i, error)
        observations.append((i, (Observation(values, no_rounds, no_rounds[:, :2], drift_pages=0),)))
    return FinishedPoint(chunk, tuple(observations), cpu_ns=time.process_time_ns() - cpu_ns)


def launch(grid: Grid, options: LaunchOptions, progress: Progress) -> LaunchSummary:
    """Run the points of a grid that the store lacks. Raises UserError, and KeyboardInterrupt for a second signal."""
    began = time.monotonic()
    with open_targets(grid, options, progress) as (grid, targets):
        about = {"live": [run_facts(target.kernel) for target in targets], **requested_options(grid, options)}
        about |= {"kernels": list(options.kernels or grid.kernels)} if grid.kernel_images else {}
        store, facts = Store(options.results), provenance.collect(engine=ENGINE, **about)
        with Interrupts() as interrupts, store.open_run(grid, run_name(grid), options.fresh, facts) as writer:
            status, log, account = "fault", ResultLog(writer, targets), None
            try:
                plan = plan_remaining(grid, options.where, writer, rerun_failed=options.rerun_failed)
                account = plan.account
                for warning in (*writer.problems, *account.warnings):
                    progress.say(f"warning: {warning}")
                writer.set_planned_points(count_grid_points(plan, options.where))
                name = kernel_names(targets)
                policies = dict.fromkeys(policy for target in targets for policy in target.policies)
                progress.say(f"{writer.run_id}: {account.todo:,} points on {name}: {', '.join(policies)}")
                interrupts.defers_first = True
                run_points(plan, targets, log, options, progress, interrupts)
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


def run_facts(kernel: Kernel) -> dict[str, Any]:
    """What run.json records about a kernel and the machine that it saw."""
    machine, info = kernel.machine, kernel.info
    return {
        "release": machine.release,
        "arch": machine.arch,
        "accel": accel_of(kernel),
        "pt_reclaim": kernel.pt_reclaim,
        "thp": machine.thp,
        "fifth_level": info.fifth_level,
        "loop_ns": info.loop_ns,
    }


def run_points(
    plan: Plan,
    targets: Sequence[Target],
    log: "ResultLog",
    options: LaunchOptions,
    progress: Progress,
    interrupts: Interrupts,
) -> None:
    """Run every point of the plan, until a signal arrives or too many points failed."""
    todo, most = plan.account.todo, options.max_failures
    with PointRunner(targets) as runner:
        for chunk in plan.chunks():
            for place in range(len(chunk.ids)):
                if interrupts.received or (most is not None and log.bad >= most):
                    return
                point = chunk.slice(place, place + 1)
                log.add(replay_trace(plan, point, targets) if plan.grid.traces else runner.run(point))
                done = log.counts.total()
                progress.show(ProgressState(todo, done, log.bad, todo, done))


class ResultLog:
    """Collects finished points and commits them to the store every COMMIT_S.

    counts: points by status; written: points committed
    """

    def __init__(self, writer: RunWriter, targets: Sequence[Target]) -> None:
        self._writer, self._targets = writer, targets
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
            tables = [both for i in range(len(self._targets)) for both in self._outcome_tables(points, i)]
            outcomes, rounds = zip(*tables, strict=True) if tables else ((), ())
            self._writer.commit(
                arrow_tables.concat_tables(outcomes) if outcomes else None,
                arrow_tables.concat_tables(rounds) if rounds else None,
                self._point_table(points),
            )
            self.written += len(points)
        self._last_commit = time.monotonic()

    def _outcome_tables(
        self, points: list[FinishedPoint], number: int
    ) -> Iterator[tuple[arrow_tables.Table, arrow_tables.Table]]:
        """Outcomes and rounds of the points that target `number` ran, by the columns that were seen of them."""
        by_columns: dict[frozenset[str], list[tuple[PointChunk, tuple[Observation, ...]]]] = {}
        for point in points:
            for i, several in point.observations:
                if i == number:
                    seen = frozenset[str].intersection(*(frozenset(one.values) for one in several))
                    by_columns.setdefault(seen, []).append((point.chunk, several))
        for seen, ran in by_columns.items():
            yield self._tables_of(ran, self._targets[number], seen)

    def _tables_of(
        self, ran: list[tuple[PointChunk, tuple[Observation, ...]]], target: Target, seen: frozenset[str]
    ) -> tuple[arrow_tables.Table, arrow_tables.Table]:
        """Outcomes and rounds of points of which a target has shown the columns `seen`."""
        kernel, policies, run_id = target.kernel, target.policies, self._writer.run_id
        chunk, observations = PointChunk.concat([chunk for chunk, _ in ran]), [several for _, several in ran]
        traces, release = are_traces(chunk.columns), kernel.machine.release
        columns = kernel_replay.OUTCOME_COLUMNS if traces else kernel.columns
        known = tuple(column for column in columns if column in seen)
        results = replace(results_of(observations, len(policies)), known=known)
        facts = result_tables.KernelFacts(None, None, release, kernel.pt_reclaim, accel_of(kernel))
        if not traces and has_times(kernel):
            times = [[[o.install_ns, o.zap_ns] for o in several] for several in observations]
            install_ns, zap_ns = np.moveaxis(np.array(times, np.int64), 2, 0)
            facts = replace(facts, install_ns=install_ns, zap_ns=zap_ns)
        outcomes = result_tables.outcome_table(
            run_id, chunk.ids, chunk.repeat, chunk.columns, results, policies, engine=ENGINE, kernel=facts
        )
        return outcomes, result_tables.round_table(
            run_id, chunk.ids, results, policies, engine=ENGINE, kernel_release=release
        )

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
            last_lines=[point.last_lines for point in points],
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
