"""ResultBuffer: collects finished tasks and commits their rows to the store every few seconds."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from engine.model.results import Results
from sweep.executors.base import Done, Labels
from sweep.executors.failure import Failure
from sweep.grid.point_id import id_strings
from sweep.run.batching import Task
from sweep.run.plan import limit_for
from sweep.run.point_chunk import PointChunk
from sweep.store.compaction import PART_POINTS
from sweep.store.parts import PartFile
from sweep.store.store import RunWriter
from sweep.tables import arrow_tables, result_tables
from sweep.traces.trace_points import are_traces, point_names

COMMIT_S = 2.0
INTERVAL_DIVISOR = 50
"""A commit is due after this fraction of the launch's time so far, 1 / 50, but not before COMMIT_S.

So a launch of a week makes about 500 parts, of which every query opens all. Tasks that arrive as files are parts of
their own: about 2,500 for a grid of 10 million points.
"""
MAX_POINTS, MAX_ROUNDS = 16_384, 131_072
"""Points and rounds that may wait in memory under seven policies: about 30 MB each. As much again may be in the commit
that is running, and building its Arrow tables takes twice that."""


@dataclass(frozen=True, slots=True, eq=False)
class FinishedTask:
    """The answer to a task. All its points get a row in `points`; those in `succeeded` have `results` or `files`.

    `failures`: by index in `chunk`, the points without results; their status is `failure_status`. `files`: the Parquet
    files that the worker made of a task in which every point succeeded, by table.
    """

    chunk: PointChunk
    succeeded: PointChunk | None
    results: Results | None
    failures: Mapping[int, Failure]
    failure_status: str
    attempt: int
    node: str | None
    cpu_ns: int | None
    files: Mapping[str, PartFile] | None = None

    def __len__(self) -> int:
        return len(self.chunk)

    @property
    def rounds(self) -> int:
        return 0 if self.results is None else len(self.results.rounds)

    @property
    def holds_file_contents(self) -> bool:
        """Whether the files' bytes came with the answer, instead of being in the run's folder already."""
        return any(file.data for file in (self.files or {}).values())

    @property
    def has_remarks(self) -> bool:
        return self.results is not None and bool(self.results.remarks)

    @property
    def remarks(self) -> list[str | None]:
        """For each point of `chunk` the engine's remark, or None."""
        remarks = iter(self.results.remarks if self.results is not None else ())
        return [None if index in self.failures else next(remarks, None) for index in range(len(self))]


class ResultBuffer:
    """Finished tasks of a launch. A thread of its own commits them, one commit at a time, while workers go on."""

    def __init__(self, writer: RunWriter, policies: Sequence[str]) -> None:
        """`policies`: those whose rows are stored."""
        self._writer, self._policies = writer, policies
        self._waiting: list[FinishedTask] = []
        self._waiting_parts: deque[FinishedTask] = deque()
        self._began = self._last_commit = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "commit")
        self._commit: Future[None] | None = None
        self.counts: Counter[str] = Counter()
        """Points by status, committed or not."""
        self.committed_points = 0

    @property
    def failed_points(self) -> int:
        """Points that are not ok, committed or not."""
        return self.counts.total() - self.counts["ok"]

    def labels_for(self, task: Task, is_local: bool) -> Labels | None:
        """What a worker needs to make the files of a task that is large enough for a part of its own; else None.

        `is_local`: the worker is on this machine and may write the files into the run's folder.
        """
        if len(task) < limit_for(PART_POINTS, len(self._policies)):
            return None
        writer, chunk = self._writer, task.chunk
        attempt, folder = writer.next_attempts(chunk.ids, task.attempt), writer.folder if is_local else None
        # A slice of an Arrow array is pickled with all of the array; a copy is not.
        derived = {name: arrow_tables.concat_arrays([values]) for name, values in chunk.derived.items()}
        return Labels(writer.run_id, chunk.ids, chunk.repeat, attempt, derived, writer.derived, folder)

    def record_finished(self, task: Task, done: Done) -> Iterator[str]:
        """Add a task that the engine answered: rows for points that succeeded, a failure row for each other.

        Returns the engine's remarks to print, `point: remark`, one line for each point that has one.
        """
        failures, succeeded = dict(done.failures), task.chunk
        if failures:
            succeeded = task.chunk.take(np.array([i for i in range(len(task)) if i not in failures], np.intp))
        point_ns = done.cpu_ns // len(task)
        finished = FinishedTask(
            task.chunk, succeeded, done.results, failures, "failed", task.attempt, done.node, point_ns, done.files
        )
        self._add(finished)
        if not finished.has_remarks:
            return iter(())
        columns = task.chunk.columns
        names = point_names(columns) if are_traces(columns) else id_strings(task.chunk.ids)
        return (f"{name}: {remark}" for name, remark in zip(names, finished.remarks, strict=True) if remark)

    def record_given_up(self, task: Task, done: Done, failure: Failure) -> None:
        """Add a task without an answer that is not tried again: a failure row for each point."""
        failures, node = dict.fromkeys(range(len(task)), failure), done.node or None
        self._add(FinishedTask(task.chunk, None, None, failures, done.status.value, task.attempt, node, None))

    def commit_if_due(self) -> None:
        """Start a commit if enough time has passed or enough is waiting. Raises the error of the commit before."""
        points, rounds = sum(map(len, self._waiting)), sum(task.rounds for task in self._waiting)
        most_points, most_rounds = (limit_for(limit, len(self._policies)) for limit in (MAX_POINTS, MAX_ROUNDS))
        is_full = points >= most_points or rounds >= most_rounds
        # A copy, because the commit thread removes parts meanwhile.
        file_points = sum(len(task) for task in tuple(self._waiting_parts) if task.holds_file_contents)
        if self._commit is not None and (is_full or file_points >= most_points or self._commit.done()):
            self.wait_for_commit()
        now = time.monotonic()
        interval_s = max(COMMIT_S, (now - self._began) / INTERVAL_DIVISOR)
        is_due = is_full or now - self._last_commit >= interval_s
        if self._commit is None and (self._waiting_parts or (is_due and self._waiting)):
            tasks: list[FinishedTask] = []
            if is_due:
                self._last_commit, tasks, self._waiting = now, self._waiting, tasks
            self._commit = self._thread.submit(self._write, tasks)

    def commit_all(self) -> None:
        """Commit everything and wait for it. Raises the first error of any commit, after all were tried."""
        try:
            self.wait_for_commit()
        except Exception:
            self._commit_waiting()
            raise
        self._commit_waiting()

    def close(self) -> None:
        """Wait for the running commit and end the thread; errors are ignored."""
        self._thread.shutdown()

    def wait_for_commit(self) -> None:
        """Wait for the running commit, if any. Raises its error."""
        if self._commit is not None:
            commit, self._commit = self._commit, None
            commit.result()

    def _commit_waiting(self) -> None:
        tasks, self._waiting = self._waiting, []
        if tasks or self._waiting_parts:
            self._thread.submit(self._write, tasks).result()  # in the thread whose allocator has memory at hand

    def _write(self, tasks: list[FinishedTask]) -> None:
        """Commit a part for each task with files, also of those that arrive meanwhile, and one part for `tasks`.

        All are tried, whichever fail. Raises the first error.
        """
        errors: list[Exception] = []
        while self._waiting_parts:
            part = self._waiting_parts.popleft()
            assert part.files is not None
            try:
                self._writer.commit_files(part.files, part.chunk.ids)
                self.committed_points += len(part)
            except Exception as error:
                errors.append(error)
        if tasks:
            self._write_one_part(tasks)
        if errors:
            raise errors[0]

    def _write_one_part(self, tasks: list[FinishedTask]) -> None:
        run_id = self._writer.run_id
        chunks = [task.succeeded for task in tasks if task.succeeded is not None and task.results is not None]
        results = [task.results for task in tasks if task.succeeded is not None and task.results is not None]
        outcomes = rounds = None
        if chunks:
            chunk = PointChunk.concat(chunks)
            outcomes = result_tables.outcome_table(
                run_id, chunk.ids, chunk.repeat, chunk.columns, results, self._policies
            )
            rounds = result_tables.round_table(run_id, chunk.ids, results, self._policies)
        self._writer.commit(outcomes, rounds, self._points_table(tasks))
        self.committed_points += sum(map(len, tasks))

    def _points_table(self, tasks: list[FinishedTask]) -> Any:
        """The Arrow table `points` of these tasks."""
        chunk = PointChunk.concat([task.chunk for task in tasks])
        firsts = accumulate(map(len, tasks), initial=0)
        failures = {
            first + index: (task.failure_status, failure)
            for first, task in zip(firsts, tasks, strict=False)
            for index, failure in task.failures.items()
        }

        def failure_column(value: Callable[[str, Failure], str], default: str | None) -> Any:
            """`value` of each failed point (an empty text becomes NULL), the default for all others."""
            if not failures:
                return default
            return [value(*failures[i]) or None if i in failures else default for i in range(len(chunk))]

        def task_column(value: Callable[[FinishedTask], Any]) -> Any:
            """`value` of each point's task; a single value if it is the same for all tasks."""
            values = [value(task) for task in tasks]
            if len(set(values)) == 1:
                return values[0]
            return [value for task, value in zip(tasks, values, strict=True) for _ in range(len(task))]

        has_remarks = any(task.has_remarks for task in tasks)
        return result_tables.point_table(
            self._writer.run_id,
            chunk.ids,
            chunk.repeat,
            chunk.columns,
            chunk.derived,
            status=failure_column(lambda status, _: status, "ok"),
            attempt=task_column(lambda task: task.attempt),
            error=failure_column(lambda _, failure: failure.error, None),
            error_class=failure_column(lambda _, failure: failure.kind, None),
            last_lines=failure_column(lambda _, failure: failure.last_lines, None),
            remarks=[remark for task in tasks for remark in task.remarks] if has_remarks else None,
            node=task_column(lambda task: task.node),
            cpu_ns=task_column(lambda task: task.cpu_ns),
        )

    def _add(self, task: FinishedTask) -> None:
        (self._waiting if task.files is None else self._waiting_parts).append(task)
        self.counts += Counter({"ok": len(task) - len(task.failures), task.failure_status: len(task.failures)})
