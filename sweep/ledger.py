"""Finished points on their way to the store: collected, then committed every few seconds."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.outcome import Results
from sweep import tables
from sweep.batches import Task, joined, picked
from sweep.executors.base import Done, Failure
from sweep.plan import PointBlock
from sweep.store import RunWriter

COMMIT_S = 2.0
PARTS_A_FOLD = 50
"""A commit waits for a fiftieth of the time that has gone, so a week is some 500 parts: every query opens them all."""
MOST_POINTS, MOST_ROUNDS = 16_384, 131_072
"""What may wait in memory: some 30 MB each, and twice as much again while it becomes files."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished task: rows for all its points, results for those that are ok."""

    block: PointBlock
    good: PointBlock | None
    results: Results | None
    status: list[str]
    failures: list[Failure | None]
    attempt: int
    node: str | None
    cpu_ns: int | None

    @property
    def remarks(self) -> list[str | None]:
        """A point's own, or None."""
        if self.results is None or not self.results.remarks:
            return [None] * len(self.status)
        given = iter(self.results.remarks)
        return [next(given, None) if status == "ok" else None for status in self.status]


class Ledger:
    def __init__(self, writer: RunWriter, policies: Sequence[str]) -> None:
        self._writer, self._policies = writer, policies
        self._entries: list[Entry] = []
        self._points = self._rounds = 0
        self._began = self._last = time.monotonic()
        self.counts: Counter[str] = Counter()
        """Points by status, committed or not."""
        self.written = 0
        """Points committed."""

    @property
    def bad(self) -> int:
        return self.counts.total() - self.counts["ok"]

    def ran(self, task: Task, done: Done) -> Iterator[str]:
        """The engine answered for the task; failures are rows too. What is to be said of its points."""
        status, why = ["ok"] * len(task), list[Failure | None]([None] * len(task))
        for place, failure in done.failures:
            status[place], why[place] = "failed", failure
        places = np.array([i for i, how in enumerate(status) if how == "ok"], np.intp) if done.failures else None
        good = task.block if places is None else picked(task.block, places) if len(places) else None
        each_ns = done.cpu_ns // len(task)
        entry = Entry(task.block, good, done.results, status, why, task.attempt, done.node, each_ns)
        self._add(entry)
        if done.results is None or not done.results.remarks:
            return iter(())
        names = task.block.columns.get("trace", task.block.ids)
        return (f"{name}: {remark}" for name, remark in zip(names, entry.remarks, strict=True) if remark)

    def gave_up(self, task: Task, done: Done, failure: Failure) -> None:
        """No answer, and no further attempt."""
        rows, node = len(task), done.node or None
        self._add(Entry(task.block, None, None, [done.end.value] * rows, [failure] * rows, task.attempt, node, None))

    def commit_if_due(self) -> None:
        now = time.monotonic()
        due = now - self._last >= max(COMMIT_S, (now - self._began) / PARTS_A_FOLD)
        if due or self._points >= MOST_POINTS or self._rounds >= MOST_ROUNDS:
            self.commit()

    def commit(self) -> None:
        """Everything finished is in the store when this returns."""
        self._last = time.monotonic()
        entries, self._entries = self._entries, []
        self._points = self._rounds = 0
        if not entries:
            return
        run, good = self._writer.run_id, [e for e in entries if e.good is not None and e.results is not None]
        outcomes = rounds = None
        if good:
            block = joined([e.good for e in good if e.good is not None])
            results = [e.results for e in good if e.results is not None]
            outcomes = tables.outcome_table(run, block.ids, block.repeat, block.columns, results, self._policies)
            rounds = tables.round_table(run, block.ids, results, self._policies)
        self._writer.commit(outcomes, rounds, self._points_table(entries))
        self.written += sum(len(e.status) for e in entries)

    def _points_table(self, entries: list[Entry]) -> Any:
        block = joined([e.block for e in entries])
        failures = [failure for e in entries for failure in e.failures]
        return tables.point_table(
            self._writer.run_id,
            block.ids,
            block.repeat,
            block.columns,
            block.derived,
            status=[status for e in entries for status in e.status],
            attempt=[e.attempt for e in entries for _ in e.status],
            error=[failure.error if failure else None for failure in failures],
            error_class=[failure.kind if failure else None for failure in failures],
            last_lines=[failure.last_lines or None if failure else None for failure in failures],
            remarks=[remark for e in entries for remark in e.remarks],
            node=[e.node for e in entries for _ in e.status],
            cpu_ns=[e.cpu_ns for e in entries for _ in e.status],
        )

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.counts.update(entry.status)
        self._points += len(entry.status)
        self._rounds += 0 if entry.results is None else len(entry.results.rounds)
