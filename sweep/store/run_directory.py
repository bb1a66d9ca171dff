"""What is known of a run: RunInfo for `ls` and `show`, TriedPoints for resuming."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import Policy
from sweep.common import schema
from sweep.common.errors import DamagedError, UserError
from sweep.grid.point_id import PointIds, id_strings
from sweep.grid.rule_text import policy_row
from sweep.storage.locks import holder, shows_all_holders
from sweep.storage.storage import Storage
from sweep.store import checked_parts, parts, run_document
from sweep.store.id_set import IdSet, SortedIds, sort_ids
from sweep.tables import arrow_tables

RUN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as `ls` shows it. `document`: its run.json, checked."""

    run_id: str
    grid: str
    about: str
    engine: str
    status: str
    created: datetime
    updated: datetime
    ok: int
    failed: int
    todo: int | None
    repeats: int
    seed: int
    model_version: int
    version: str
    git_commit: str | None
    host: str
    kernel: str
    cpu_model: str | None
    policies: tuple[Policy, ...]
    path: Storage
    document: dict[str, Any]

    @property
    def policy_rows(self) -> list[dict[str, Any]]:
        """Rows of the view `policies`."""
        return [{"run_id": self.run_id, **policy_row(policy)} for policy in self.policies]

    @property
    def is_partial(self) -> bool:
        """Whether every launch of the run was one of part of the grid's points (--where)."""
        launches = self.document["launches"]
        return bool(launches) and all(launch.get("where") is not None for launch in launches)

    @property
    def row(self) -> dict[str, Any]:
        """A row of the view `runs`."""
        return {column.name: getattr(self, column.name) for column in schema.RUNS}


@dataclass(slots=True)
class TriedPoints:
    """Points that a run has rows of. `ok`: ids; `failed`: id and last attempt of points without an ok attempt."""

    ok: IdSet
    failed: dict[str, int]

    def is_done(self, ids: PointIds, rerun_failed: bool = False) -> NDArray[np.bool_]:
        """bool[n]: whether a launch skips each point: one that is ok, and one that failed unless `rerun_failed`."""
        done = self.ok.has(sort_ids(ids))
        return done if rerun_failed else done | self._failed(ids)

    def next_attempts(self, ids: PointIds, attempt: int) -> int | NDArray[np.int64]:
        """`attempt`, raised above the last attempt of each point that failed: int64[n] if one did."""
        failed = self._failed(ids)
        if not failed.any():
            return attempt
        return np.array([max(attempt, self.failed.get(i, 0) + 1) for i in id_strings(ids)], np.int64)

    def add_ok(self, ids: PointIds, sorted_ids: SortedIds) -> None:
        """Add points that are ok; `sorted_ids`: the same ids."""
        self.ok.add(sorted_ids)
        for point in id_strings(ids[self._failed(ids)]):
            del self.failed[point]

    def _failed(self, ids: PointIds) -> NDArray[np.bool_]:
        if not self.failed:
            return np.zeros(len(ids), bool)
        return np.isin(ids, np.array(list(self.failed), ids.dtype))


def read_tried_points(run: Storage) -> tuple[TriedPoints, list[str]]:
    """Read the points of all parts. Also returns a line for each damaged part: its points count as not run.

    Reads again if a launch has merged parts meanwhile.
    """
    for _ in range(_MAX_ATTEMPTS):
        with suppress(FileNotFoundError):
            return _read_points_of_parts(run)
    raise UserError(f"{run}: changes faster than it can be read; try again")


def _read_points_of_parts(run: Storage) -> tuple[TriedPoints, list[str]]:
    ids, problems = TriedPoints(IdSet(), {}), []
    for read in checked_parts.read_all_points(run, parts.read_layout(run)):
        if isinstance(read, DamagedError):
            problems.append(f"{read}; the next launch of its grid runs its points again")
        else:
            add_points(ids, read.table, read.ids)
    return ids, problems


def add_points(ids: TriedPoints, points: Any, sorted_ids: SortedIds) -> None:
    """Add the rows of a points table (point_id, status, attempt), in the order of commits. `sorted_ids`: its ids."""
    ok = arrow_tables.is_ok(points)
    ids.ok.add(sorted_ids.select(ok))
    good, bad = arrow_tables.split_rows(points.select(parts.PROGRESS_COLUMNS), ok)
    for point, attempt in zip(bad.column("point_id").to_pylist(), bad.column("attempt").to_pylist(), strict=True):
        ids.failed[point] = max(attempt, ids.failed.get(point, 0))
    if ids.failed:
        for point in arrow_tables.known_ids(good.column("point_id"), ids.failed):
            del ids.failed[point]


def read_info(run: Storage) -> tuple[RunInfo, list[str]]:
    """A run as it is now, and a line for each damaged part. Takes no lock. UserError if run.json is wrong."""
    tree, checked = run_document.read(run)
    try:
        policies = run_document.policies_of(checked)
    except DamagedError as error:
        raise DamagedError(f"{run}/{run_document.FILE_NAME}: {error}") from error
    grid, last, counts = checked["grid"], checked["launches"][-1], checked["counts"]
    status, problems = checked["status"], list[str]()
    if status not in run_document.FINISHED:
        is_ended = shows_all_holders(run, last.get("host", ""))
        status = "running" if holder(run) is not None else "interrupted" if is_ended else "unknown"
        ids, problems = read_tried_points(run)
        total, counts = counts.get("points"), {"ok": len(ids.ok), "failed": len(ids.failed)}
        counts["todo"] = None if total is None else max(0, total - counts["ok"] - counts["failed"])
    info = RunInfo(
        run_id=run.name,
        grid=grid["name"],
        about=grid["about"] or "",
        engine=checked["engine"],
        status=status,
        created=checked["created"],
        updated=checked["updated"],
        ok=counts["ok"],
        failed=counts["failed"],
        todo=counts.get("todo"),
        repeats=grid["repeats"],
        seed=grid["seed"],
        model_version=checked["model_version"],
        version=last.get("version", ""),
        git_commit=last.get("git_commit"),
        host=last.get("host", ""),
        kernel=last.get("kernel", ""),
        cpu_model=last.get("cpu_model"),
        policies=policies,
        path=run,
        document=tree,
    )
    return info, problems
