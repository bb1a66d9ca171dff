"""The driver: plan, batches, executor, store. It alone commits; it prints nothing and reports through Progress."""

import math
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from engine.compilation.cache import is_cold
from sweep.common.errors import UserError, unknown_name
from sweep.common.units import human_ns
from sweep.executors.base import MODEL, TRACES, Batch, Done, End, Executor, limit_for
from sweep.grid.grid import Grid
from sweep.grid.point_id import run_name
from sweep.run.batching import SMALLEST_NS, TASK_NS, Batcher, Task
from sweep.run.plan import Plan, check_sql, estimated_ns, make_plan
from sweep.run.result_buffer import Ledger
from sweep.run.shards import Shards
from sweep.run.signals import Interrupts
from sweep.store import provenance
from sweep.store.storage import Place
from sweep.store.store import Store

EXECUTORS = ("auto", "ray", "processes", "inline")
RAY_WORTH_NS = 20e9
TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What the command line says beside the grid.

    `max_failures`: end once so many points are not ok. `like`: the run that this one repeats.
    """

    results: Path | Place = Path("results")
    where: str | None = None
    executor: str = "auto"
    jobs: int | None = None
    address: str | None = None
    fresh: bool = False
    rerun_failed: bool = False
    max_failures: int | None = None
    timeout_s: float | None = None
    like: str | None = None
    runner: str = MODEL


@dataclass(frozen=True, slots=True)
class State:
    """Where a launch stands. Work is in estimated nanoseconds; `waiting` says what holds the workers up.

    `left_ns`: what the rest would take if all workers were at it, by the CPU time of what is done. 0: not known.
    """

    points: int
    done: int = 0
    bad: int = 0
    work_ns: float = 0.0
    work_done_ns: float = 0.0
    waiting: str = ""
    left_ns: float = 0.0


class Progress(Protocol):
    def say(self, text: str) -> None: ...

    def show(self, state: State) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a launch. `points` counts this launch's by status; `failed` is the run's, earlier launches too."""

    run_id: str
    status: str
    resumed: bool
    executor: str
    workers: int
    planned: int
    done_before: int
    points: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0


def launch(grid: Grid, options: LaunchOptions, progress: Progress) -> Summary:
    """Run what is missing of a grid. Raises UserError, SweepFault, and KeyboardInterrupt for the second signal."""
    began = time.monotonic()
    check(grid, options)
    if grid.traces:
        options = replace(options, runner=TRACES)
    store = Store(options.results)
    facts = provenance.collect(engine="model", executor=options.executor, **asked(grid, options))
    with Interrupts() as interrupts, store.open_run(grid, run_name(grid), options.fresh, facts) as writer:
        status, ledger, todo = "fault", Ledger(writer, grid.policies), 0
        try:
            plan = make_plan(grid, options.where, partial(writer.tried, rerun_failed=options.rerun_failed))
            account = plan.account
            todo = account.todo
            for warning in (*writer.problems, *account.warnings):
                progress.say(f"warning: {warning}")
            writer.expect(all_points(plan, options.where))
            executor, why = choose(options, todo, account.estimate_ns)
            if todo:
                progress.say(f"{writer.run_id}: {todo:,} point{'s' * (todo != 1)} on {why}")
                Driver(plan, executor, ledger, options, progress, interrupts).run()
            failed = len(writer.failed_ids())
            cut_short = interrupts.asked and ledger.written < todo
            status = "interrupted" if cut_short else "failed" if failed else "ok"
        except (KeyboardInterrupt, UserError):
            status = "interrupted"
            raise
        finally:
            ledger.close()  # nobody writes once the lock is given back
            writer.finish(status, {})
            if status == "interrupted" and not writer.resumed and not ledger.written and not interrupts.asked:
                writer.close()
                store.remove(writer.run_id)  # a new run that could not begin
    ran = executor.workers if todo else 0
    counts, seconds = dict(ledger.counts), time.monotonic() - began
    resumed, done = writer.resumed, account.done
    return Summary(writer.run_id, status, resumed, executor.name, ran, todo, done, counts, failed, seconds)


def check(grid: Grid, options: LaunchOptions) -> None:
    """Refuse what cannot be launched so, before a run is touched. Raises UserError."""
    if options.executor not in EXECUTORS:
        raise UserError(f"--executor: {unknown_name('executor', options.executor, EXECUTORS)}")
    if options.executor == "inline" and options.timeout_s is not None:
        raise UserError("--timeout needs --executor processes or ray: inline would have to kill this process")
    check_sql(grid, options.where)


def asked(grid: Grid, options: LaunchOptions) -> dict[str, Any]:
    """What the command line asked for, as far as the rows depend on it: goes into run.json."""
    given = {"overrides": list(grid.overrides), "where": options.where, "rerun_failed": options.rerun_failed}
    return given | ({"like": options.like} if options.like else {})


def all_points(plan: Plan, where: str | None) -> int:
    """Points of the whole grid, --where or not: what `ls` counts down from."""
    if where is not None:
        with suppress(UserError):  # one that --where leaves out cannot exist: then the others are all there is
            plan = make_plan(plan.grid)
    return plan.account.done + plan.account.todo


def choose(options: LaunchOptions, points: int, estimate_ns: float) -> tuple[Executor, str]:
    """The executor and, in words, which and why."""
    jobs = options.jobs or len(os.sched_getaffinity(0))
    work = f"about {human_ns(estimate_ns)} of work"
    name, why = options.executor, "as asked"
    if name == "auto" and options.address:
        name, why = "ray", "an address is given"
    elif name == "auto" and estimate_ns > RAY_WORTH_NS:
        name, why = "ray", f"{work}; below {human_ns(RAY_WORTH_NS)} its start of 5-9 s would not pay"
    elif name == "auto":
        name, why = "processes", f"{work}, too little for a local Ray's start of 5-9 s"
    if name == "inline":
        from sweep.executors.inline import Inline

        return Inline(options.runner), f"inline, this process ({why})"
    if name == "processes":
        from sweep.executors.processes import Processes

        most = max(points, math.ceil(estimate_ns / TASK_NS))
        jobs = max(1, min(jobs, most, math.ceil(estimate_ns / SMALLEST_NS)))
        return Processes(jobs, options.runner), f"{jobs} local process{'es' * (jobs > 1)} ({why})"
    from sweep.executors.ray import RayTasks

    limited = options.timeout_s is not None
    tasks = RayTasks(options.address, options.jobs, options.runner, limited)
    where = f"Ray at {options.address}" if options.address else f"a local Ray, {jobs} CPUs"
    return tasks, f"{where} ({why})"


class Driver:
    """One launch's loop: keep the executor's window full, take what is done, commit."""

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        ledger: Ledger,
        options: LaunchOptions,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        self._plan, self._executor, self._ledger = plan, executor, ledger
        self._options, self._progress, self._interrupts = options, progress, interrupts
        self._flying: dict[int, Task] = {}
        self._again: deque[Task] = deque()
        self._shards = Shards()
        self._numbers = 0
        self._work_done_ns = 0.0
        self._cold = is_cold() and options.runner == MODEL

    def run(self) -> None:
        orderly = False
        try:
            self._interrupts.gentle = True
            self._show()
            self._executor.start(tuple(self._plan.account.kernels))
            self._interrupts.arm()
            self._batcher = self._make_batcher()
            while not self._over():
                self._fill()
                if not self._flying:
                    break
                for done in self._executor.wait(TICK_S):
                    self._take(done)
                self._fill()
                self._ledger.commit_if_due()
                self._show()
            orderly = True
        finally:
            try:
                self._progress.stop()
                if orderly or not self._interrupts.asked:  # after a fault too: what is finished is good
                    self._ledger.commit()
            finally:
                self._executor.stop(kill=not orderly or bool(self._flying))

    def _over(self) -> bool:
        most = self._options.max_failures
        return bool(self._interrupts.asked) or (most is not None and self._ledger.bad >= most)

    def _make_batcher(self) -> Batcher:
        from engine.run import cuts

        account = self._plan.account
        whole = self._options.timeout_s is not None or self._options.runner != MODEL  # a limit is a whole point's
        workers = self._executor.workers
        blocks, work_ns = self._plan.points(), account.estimate_ns
        return Batcher(blocks, estimated_ns, account.todo, work_ns, workers, None if whole else cuts)

    def _fill(self) -> None:
        while len(self._flying) < self._executor.capacity and not self._over():
            task = self._again.popleft() if self._again else self._batcher.next()
            if task is None:
                return
            self._numbers += 1
            self._flying[self._numbers] = task
            columns, runner = self._plan.payload(task.block), self._options.runner
            labels = self._ledger.labels(task, self._executor.near)
            batch = Batch(self._numbers, columns, self._limit(task), runner, task.shard, labels)
            self._executor.submit(batch)

    def _limit(self, task: Task) -> float | None:
        if self._options.timeout_s is None:
            return None
        return limit_for(len(task), self._options.timeout_s, task.estimate_ns * self._batcher.ratio / 1e9)

    def _take(self, done: Done) -> None:
        task = self._flying.pop(done.number)
        if done.end is End.RAN:
            whole = self._shards.add(task, done)
            for remark in self._ledger.ran(task, whole) if whole else ():
                self._progress.say(f"warning: {remark}")
            self._work_done_ns += task.estimate_ns
            if not done.failures:
                self._batcher.measured(task.estimate_ns, done.cpu_ns)
        elif again := task.after(late=done.end is End.TIMEOUT):
            self._again.extend(again)
        else:
            self._work_done_ns += task.estimate_ns
            late = replace(done.failure, error=f"no answer in {self._options.timeout_s or 0:g} s", kind="Timeout")
            if self._shards.close(task):
                self._ledger.gave_up(task, done, late if done.end is End.TIMEOUT else done.failure)

    def _show(self) -> None:
        account, done = self._plan.account, self._ledger.counts.total()
        work_ns, waiting = account.estimate_ns, self._waiting(done)
        left_ns = (work_ns - self._work_done_ns) * self._batcher.ratio / self._executor.workers if done else 0.0
        state = State(account.todo, done, self._ledger.bad, work_ns, self._work_done_ns, waiting, left_ns)
        self._progress.show(state)

    def _waiting(self, done: int) -> str:
        """What holds the workers up. A ready worker has no kernel yet: the first batch compiles those that it needs."""
        starting = f"starting {self._executor.name}"
        if self._options.address:
            return "" if done else f"{starting}, compiling the engine there if it is new"
        if self._cold:
            return "" if done else "compiling the engine, once"
        return "" if self._executor.warm else starting
