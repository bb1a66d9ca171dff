"""Finished points of a launch on kernels, as rows of the store."""

import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from engine.kernel.outcome import Observation
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from sweep.kernel.open_kernels import KernelFacts, has_times
from sweep.kernel.point_runs import FinishedPoint
from sweep.kernel.targets import Target
from sweep.run.point_chunk import PointChunk
from sweep.store.store import RunWriter
from sweep.tables import arrow_tables, result_tables
from sweep.traces.trace_points import are_traces

ENGINE = "kernel"
COMMIT_S = 2.0

Ran = list[tuple[PointChunk, tuple[Observation, ...]]]
"""Points with what a kernel showed of them, under each of its policies."""


class ResultLog:
    """Collects finished points and commits them to the store every COMMIT_S.

    counts: points by status; written: points committed

    with_times: False if the times of this launch mean nothing; those of emulated kernels never do
    """

    def __init__(self, writer: RunWriter, targets: Sequence[Target[KernelFacts]], with_times: bool = True) -> None:
        self._writer, self._targets, self._with_times = writer, targets, with_times
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

    def commit_if_due(self) -> None:
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
        """Outcomes and rounds of the points that a target ran, a pair for each accelerator and set of columns seen."""
        groups: dict[tuple[str, frozenset[str]], Ran] = {}
        for point in points:
            for one in point.observed:
                if one.target == number:
                    seen = frozenset[str].intersection(*(frozenset(o.values) for o in one.observations))
                    groups.setdefault((one.accel, seen), []).append((point.chunk, one.observations))
        for (accel, seen), ran in groups.items():
            yield self._tables_of(ran, self._targets[number], accel, seen)

    def _tables_of(
        self, ran: Ran, target: Target[KernelFacts], accel: str, seen: frozenset[str]
    ) -> tuple[arrow_tables.Table, arrow_tables.Table]:
        """Outcomes and rounds of points of which a target has shown the columns `seen`."""
        kernel, policies, run_id = target.kernel, target.policies, self._writer.run_id
        chunk, observations = PointChunk.concat([chunk for chunk, _ in ran]), [several for _, several in ran]
        known, release = tuple(column for column in COLUMNS if column in seen), kernel.machine.release
        results = replace(results_of(observations, len(policies)), known=known)
        facts = result_tables.KernelFacts(None, None, release, kernel.pt_reclaim, accel)
        if self._with_times and has_times(accel) and not are_traces(chunk.columns):
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
        failures = [point.failure for point in points]
        return result_tables.point_table(
            self._writer.run_id,
            chunk.ids,
            chunk.repeat,
            chunk.columns,
            chunk.derived,
            status=[point.status for point in points],
            attempt=[point.attempt for point in points],
            error=[failure.error if failure else None for failure in failures],
            error_class=[failure.kind if failure else None for failure in failures],
            last_lines=[failure.last_lines if failure else None for failure in failures],
            node=[point.node or platform.node() for point in points],
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
