"""Finished points on their way to the store: collected, then committed every few seconds."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from engine.model.results import Results
from sweep.executors.base import Done, Failure, Labels
from sweep.grid.point_id import id_strings
from sweep.run.batching import Task, joined, picked
from sweep.run.plan import PointBlock
from sweep.store import arrow_tables
from sweep.store.compaction import PART_POINTS
from sweep.store.parts import File
from sweep.store.store import RunWriter

COMMIT_S = 2.0
PARTS_A_FOLD = 50
"""A commit waits for a fiftieth of the time that has gone, so a week is some 500 parts: every query opens them all.
Tasks that come as files are parts of their own; a grid's 10 million points are some 2,500 of those at most."""
MOST_POINTS, MOST_ROUNDS = 16_384, 131_072
"""What may wait in memory: some 30 MB each, beside as much that becomes files, which takes twice that again."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A finished task: rows for all its points, results for the `good` ones, or the files that these became.

    `bad`: the places of the others, and why; `status` is theirs.
    """

    block: PointBlock
    good: PointBlock | None
    results: Results | None
    bad: Mapping[int, Failure]
    status: str
    attempt: int
    node: str | None
    cpu_ns: int | None
    files: Mapping[str, File] | None = None

    def __len__(self) -> int:
        return len(self.block.ids)

    @property
    def rounds(self) -> int:
        return 0 if self.results is None else len(self.results.rounds)

    @property
    def in_memory(self) -> bool:
        """Whether its files have come with it, instead of lying in the run's folder."""
        return any(file.data for file in (self.files or {}).values())

    @property
    def told(self) -> bool:
        """Whether any point has a remark."""
        return self.results is not None and bool(self.results.remarks)

    @property
    def remarks(self) -> list[str | None]:
        """A point's own, or None."""
        given = iter(self.results.remarks if self.results is not None else ())
        return [None if place in self.bad else next(given, None) for place in range(len(self))]


class Ledger:
    """Rows become files in a thread of their own, one commit at a time, so that no worker waits for them."""

    def __init__(self, writer: RunWriter, policies: Sequence[str]) -> None:
        self._writer, self._policies = writer, policies
        self._entries: list[Entry] = []
        self._parts: deque[Entry] = deque()
        self._began = self._last = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "commit")
        self._commit: Future[None] | None = None
        self.counts: Counter[str] = Counter()
        """Points by status, committed or not."""
        self.written = 0
        """Points committed."""

    @property
    def bad(self) -> int:
        return self.counts.total() - self.counts["ok"]

    def labels(self, task: Task, near: bool) -> Labels | None:
        """For a task with points enough for a part, whose files the worker makes; None: the driver makes them.

        `near`: the worker is on this machine.
        """
        if len(task) < PART_POINTS:
            return None
        writer, block = self._writer, task.block
        attempt, folder = writer.attempts(block.ids, task.attempt), writer.folder if near else None
        # A piece of an array would bring along all that it was cut from.
        derived = {name: arrow_tables.end_to_end([values]) for name, values in block.derived.items()}
        run, meanings = writer.run_id, writer.derived
        return Labels(run, self._policies, block.ids, block.repeat, attempt, derived, meanings, folder)

    def ran(self, task: Task, done: Done) -> Iterator[str]:
        """The engine answered for the task; failures are rows too. What is to be said of its points."""
        bad, good = dict(done.failures), task.block
        if bad:
            good = picked(task.block, np.array([i for i in range(len(task)) if i not in bad], np.intp))
        each_ns = done.cpu_ns // len(task)
        entry = Entry(task.block, good, done.results, bad, "failed", task.attempt, done.node, each_ns, done.files)
        self._add(entry)
        if not entry.told:
            return iter(())
        names = task.block.columns.get("trace", id_strings(task.block.ids))
        return (f"{name}: {remark}" for name, remark in zip(names, entry.remarks, strict=True) if remark)

    def gave_up(self, task: Task, done: Done, failure: Failure) -> None:
        """No answer, and no further attempt."""
        bad, node = dict.fromkeys(range(len(task)), failure), done.node or None
        self._add(Entry(task.block, None, None, bad, done.end.value, task.attempt, node, None))

    def commit_if_due(self) -> None:
        """Start a commit if it is time. Raises what the one before met with."""
        points, rounds = sum(map(len, self._entries)), sum(entry.rounds for entry in self._entries)
        full = points >= MOST_POINTS or rounds >= MOST_ROUNDS
        crowded = full or sum(len(part) for part in tuple(self._parts) if part.in_memory) >= MOST_POINTS
        if self._commit is not None and (crowded or self._commit.done()):
            self.settle()
        now = time.monotonic()
        due = full or now - self._last >= max(COMMIT_S, (now - self._began) / PARTS_A_FOLD)
        if self._commit is None and (self._parts or (due and self._entries)):
            taken: list[Entry] = []
            if due:
                self._last, taken, self._entries = now, self._entries, taken
            self._commit = self._thread.submit(self._write, taken)

    def commit(self) -> None:
        """Everything finished is in the store when this returns, or was tried. Raises what a commit met with."""
        try:
            self.settle()
        except Exception:
            self._write_rest()
            raise
        self._write_rest()

    def close(self) -> None:
        """Wait for the commit that is being made, whatever comes of it."""
        self._thread.shutdown()

    def settle(self) -> None:
        """Wait for the commit that was started. Raises what it met with."""
        if self._commit is not None:
            commit, self._commit = self._commit, None
            commit.result()

    def _write_rest(self) -> None:
        entries, self._entries = self._entries, []
        if entries or self._parts:
            self._thread.submit(self._write, entries).result()  # there: its memory is warm

    def _write(self, entries: list[Entry]) -> None:
        """A part for each task that came as files, also those that come meanwhile, and one for these entries.

        What cannot be written keeps nothing else from being tried; the first error is raised at the end.
        """
        problems: list[Exception] = []
        while self._parts:
            part = self._parts.popleft()
            assert part.files is not None
            try:
                self._writer.commit_files(part.files, part.block.ids)
                self.written += len(part)
            except Exception as error:
                problems.append(error)
        if entries:
            self._write_one(entries)
        if problems:
            raise problems[0]

    def _write_one(self, entries: list[Entry]) -> None:
        run, good = self._writer.run_id, [e for e in entries if e.good is not None and e.results is not None]
        outcomes = rounds = None
        if good:
            block = joined([e.good for e in good if e.good is not None])
            results = [e.results for e in good if e.results is not None]
            outcomes = arrow_tables.outcome_table(run, block.ids, block.repeat, block.columns, results, self._policies)
            rounds = arrow_tables.round_table(run, block.ids, results, self._policies)
        self._writer.commit(outcomes, rounds, self._points_table(entries))
        self.written += sum(map(len, entries))

    def _points_table(self, entries: list[Entry]) -> Any:
        block, starts = joined([e.block for e in entries]), accumulate(map(len, entries), initial=0)
        bad = {
            at + place: (e.status, why) for at, e in zip(starts, entries, strict=False) for place, why in e.bad.items()
        }

        def of_bad(told: Callable[[str, Failure], str], good: str | None) -> Any:
            return [told(*bad[i]) or None if i in bad else good for i in range(len(block.ids))] if bad else good

        def of_task(told: Callable[[Entry], Any]) -> Any:
            values = [told(e) for e in entries]
            each = (value for e, value in zip(entries, values, strict=True) for _ in range(len(e)))
            return values[0] if len(set(values)) == 1 else list(each)

        return arrow_tables.point_table(
            self._writer.run_id,
            block.ids,
            block.repeat,
            block.columns,
            block.derived,
            status=of_bad(lambda status, _: status, "ok"),
            attempt=of_task(lambda e: e.attempt),
            error=of_bad(lambda _, why: why.error, None),
            error_class=of_bad(lambda _, why: why.kind, None),
            last_lines=of_bad(lambda _, why: why.last_lines, None),
            remarks=[remark for e in entries for remark in e.remarks] if any(e.told for e in entries) else None,
            node=of_task(lambda e: e.node),
            cpu_ns=of_task(lambda e: e.cpu_ns),
        )

    def _add(self, entry: Entry) -> None:
        (self._entries if entry.files is None else self._parts).append(entry)
        self.counts += Counter({"ok": len(entry) - len(entry.bad), entry.status: len(entry.bad)})
