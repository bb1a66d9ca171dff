"""The driver: keeps an executor busy with the tasks of a plan, retries lost ones, hands the results on for commit."""

from collections import deque
from dataclasses import replace
from functools import partial

from engine.numeric.compiled_cache import is_cold
from sweep.executors.base import MODEL_RUNNER, Batch, BatchStatus, Done, Executor, ExecutorLostError, batch_limit_s
from sweep.run.batching import Batcher, Task
from sweep.run.interrupts import Interrupts
from sweep.run.plan import Plan, estimate_ns
from sweep.run.progress import Progress, ProgressState
from sweep.run.result_buffer import ResultBuffer
from sweep.run.shards import ShardCollector
from sweep.run.work_meter import WorkMeter

TICK_S = 0.25
"""Longest wait for an answer; signals and due commits are looked at in between."""
SIGNAL_GRACE_S = 0.5


class Driver:
    """The main loop of one launch. Prints nothing: it reports to `progress`."""

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        results: ResultBuffer,
        progress: Progress,
        interrupts: Interrupts,
        *,
        runner: str = MODEL_RUNNER,
        timeout_s: float | None = None,
        max_failures: int | None = None,
    ) -> None:
        """`executor`: not yet started. `timeout_s`: limit for one point. Other arguments as in LaunchOptions."""
        self._plan, self._executor, self._results = plan, executor, results
        self._progress, self._interrupts = progress, interrupts
        self._runner, self._timeout_s, self._max_failures = runner, timeout_s, max_failures
        self._running: dict[int, Task] = {}
        self._retries: deque[Task] = deque()
        self._policies = plan.grid.policies
        self._shards = ShardCollector(self._policies)
        self._last_number = 0
        self._meter = WorkMeter(plan.account.estimate_ns, 1)
        self._is_cold = is_cold() and runner == MODEL_RUNNER

    def run(self) -> None:
        """Run all points of the plan, or until a signal or `max_failures`. Finished points are committed in any case.

        Only a second signal keeps them from being committed: KeyboardInterrupt ends everything at once.
        """
        completed = False
        try:
            self._interrupts.defers_first = True
            self._show_state()
            self._executor.start(tuple(self._plan.account.passes))
            while not self._executor.is_started and not self._must_end():
                self._executor.wait(TICK_S)
                self._show_state()
            self._batcher = self._make_batcher()
            self._meter = WorkMeter(self._plan.account.estimate_ns, self._executor.workers)
            self._run_tasks()
            completed = True
        except ExecutorLostError:
            # A service manager signals all processes of a service at once: Ray's may end before ours gets its signal.
            if not self._interrupts.is_coming(SIGNAL_GRACE_S):
                raise
            completed = True
        finally:
            try:
                self._progress.stop()
                if completed or not self._interrupts.received:  # also after a fault
                    self._results.commit_all()
            finally:
                self._executor.stop(kill=not completed or bool(self._running))

    def _run_tasks(self) -> None:
        while not self._must_end():
            self._submit_tasks()
            if not self._running:
                return
            for done in self._executor.wait(TICK_S):
                self._handle(done)
            self._submit_tasks()
            self._results.commit_if_due()
            self._show_state()

    def _must_end(self) -> bool:
        has_too_many_failures = self._max_failures is not None and self._results.failed_points >= self._max_failures
        return bool(self._interrupts.received) or has_too_many_failures

    def _make_batcher(self) -> Batcher:
        from engine.run import shard_ranges

        account = self._plan.account
        # A time limit is for a whole point, and only the model can run part of one.
        keeps_points_whole = self._timeout_s is not None or self._runner != MODEL_RUNNER
        return Batcher(
            self._plan.chunks(),
            partial(estimate_ns, policies=self._policies),
            account.todo,
            account.estimate_ns,
            self._executor.workers,
            None if keeps_points_whole else shard_ranges,
            len(self._policies),
        )

    def _submit_tasks(self) -> None:
        """Submit tasks, retries first, until the executor has as many as it takes."""
        while len(self._running) < self._executor.capacity and not self._must_end():
            task = self._retries.popleft() if self._retries else self._batcher.next_task()
            if task is None:
                return
            self._last_number += 1
            self._running[self._last_number] = task
            columns = self._plan.worker_columns(task.chunk)
            labels = self._results.labels_for(task, self._executor.is_local)
            batch = Batch(
                self._last_number,
                columns,
                self._limit_s(task),
                self._runner,
                task.shard,
                labels,
                self._policies,
                self._plan.account.is_general,
            )
            self._executor.submit(batch)
            self._meter.submit(self._last_number, task.estimate_ns)

    def _limit_s(self, task: Task) -> float | None:
        """Wall time after which the task's worker is killed."""
        if self._timeout_s is None:
            return None
        return batch_limit_s(len(task), self._timeout_s, task.estimate_ns * self._batcher.correction / 1e9)

    def _handle(self, done: Done) -> None:
        """Take the answer to a task: results go to the buffer; a task without results is retried or given up."""
        task = self._running.pop(done.number)
        timed_out = done.status is BatchStatus.TIMEOUT
        if done.status is BatchStatus.RAN:
            point_done = self._shards.add(task, done)
            for remark in self._results.record_finished(task, point_done) if point_done else ():
                self._progress.say(f"warning: {remark}")
            self._meter.end(done.number, done.wall_ns, is_done=True)
            if not done.failures:
                self._batcher.record_measurement(task.estimate_ns, done.cpu_ns)
        elif retries := task.retries(timed_out):
            self._retries.extend(retries)
            self._meter.end(done.number, 0, is_done=False)
        else:
            self._meter.end(done.number, 0, is_done=True)
            failure = done.failure
            if timed_out:
                failure = replace(failure, error=f"no answer in {self._timeout_s or 0:g} s", kind="Timeout")
            if self._shards.abandon(task):
                self._results.record_given_up(task, done, failure)

    def _show_state(self) -> None:
        account, done = self._plan.account, self._results.counts.total()
        self._progress.show(
            ProgressState(
                account.todo,
                done,
                self._results.failed_points,
                account.estimate_ns,
                self._meter.done_ns,
                self._waiting_for(done),
                self._meter.left_ns,
                self._meter.running,
            )
        )

    def _waiting_for(self, done: int) -> str:
        """Why no point is running yet; empty if one is, or if any is done.

        A worker that is ready may still have to compile the passes that its first batch needs.
        """
        starting = f"starting {self._executor.name}"
        if not self._executor.is_local:
            return "" if done else f"{starting}, compiling the engine there if it is new"
        if self._is_cold:
            return "" if done else "compiling the engine, once"
        return "" if self._executor.is_warm else starting
