"""One run's folder: who it is (run.json), which points it has (parts), whether somebody writes it (locks)."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.common import schema
from sweep.common.errors import DamagedError, UserError
from sweep.grid.point_id import PointIds, id_strings
from sweep.store import arrow_tables, parts
from sweep.store.id_set import IdSet, Keys, keys
from sweep.store.locks import holder
from sweep.store.storage import Place

RUN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
DOCUMENT = "run.json"
FINISHED = ("ok", "failed", "interrupted", "fault")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What `ls` shows of a run. `document` is its run.json."""

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
    path: Place
    document: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """A row of the table `runs`."""
        return {column.name: getattr(self, column.name) for column in schema.RUNS}


@dataclass(slots=True)
class Ids:
    """Which points a run has: `ok` once each; `failed` with their last attempt, unless a later one was ok."""

    ok: IdSet
    failed: dict[str, int]

    def tried(self, ids: PointIds, rerun_failed: bool = False) -> NDArray[np.bool_]:
        """Which of these a launch passes over: those that are ok and, unless they are to run again, that failed."""
        done = self.ok.has(keys(ids))
        return done if rerun_failed else done | self._failed(ids)

    def attempts(self, ids: PointIds, attempt: int) -> int | NDArray[np.int64]:
        """`attempt`, raised above the last one of each point that failed: int64[n] if one did."""
        failed = self._failed(ids)
        if not failed.any():
            return attempt
        return np.array([max(attempt, self.failed.get(i, 0) + 1) for i in id_strings(ids)], np.int64)

    def note_ok(self, ids: PointIds, own: Keys) -> None:
        """Take in points that are ok; `own`: their keys."""
        self.ok.add(own)
        for point in id_strings(ids[self._failed(ids)]):
            del self.failed[point]

    def _failed(self, ids: PointIds) -> NDArray[np.bool_]:
        if not self.failed:
            return np.zeros(len(ids), bool)
        return np.isin(ids, np.array(list(self.failed), ids.dtype))


def read_ids(run: Place) -> tuple[Ids, list[str]]:
    """From the points parts; and a line for each that cannot be read: its points count as not run."""
    ids, problems = Ids(IdSet(), {}), []
    for name in parts.look(run).of(parts.POINTS):
        try:
            note_points(ids, arrow_tables.read_part(run.open(name), f"{run}/{name}", parts.NOTED))
        except DamagedError as error:
            problems.append(f"{error}; the next launch of its grid sets it aside and runs its points again")
    return ids, problems


def note_points(ids: Ids, points: Any, own: Keys | None = None) -> None:
    """Take in the rows of one points table (point_id, status, attempt), in the order in which they were committed.

    own: the keys of its ids, if somebody has them.
    """
    ok = arrow_tables.are_ok(points)
    ids.ok.add((keys(points.column("point_id")) if own is None else own).where(ok))
    good, bad = arrow_tables.parted(points.select(parts.NOTED), ok)
    for point, attempt in zip(bad.column("point_id").to_pylist(), bad.column("attempt").to_pylist(), strict=True):
        ids.failed[point] = max(attempt, ids.failed.get(point, 0))
    if ids.failed:
        for point in arrow_tables.common(good.column("point_id"), ids.failed):
            del ids.failed[point]


def read_document(run: Place) -> dict[str, Any]:
    """run.json. UserError names the file that cannot be read."""
    path = f"{run}/{DOCUMENT}"
    try:
        document = json.loads(run.read(DOCUMENT))
    except FileNotFoundError as error:
        raise UserError(f"{path}: No such file or directory") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a run")
    if document.get("schema") != schema.RUN_SCHEMA:
        found = f"schema {document.get('schema')!r}; this one reads {schema.RUN_SCHEMA!r}"
        raise UserError(
            f"{path}: a run of another version ({found}): sweep rm it, or give another place with --results"
        )
    return document


def write_document(run: Place, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    # A name on the command line may be any bytes; JSON is UTF-8.
    run.put(DOCUMENT, text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())


def read_info(run: Place) -> tuple[RunInfo, list[str]]:
    """A run as it stands now, and what of it cannot be read; never needs the lock."""
    document, problems = read_document(run), list[str]()
    path = f"{run}/{DOCUMENT}"
    try:
        grid, last = document["grid"], document["launches"][-1]
        status, counts = document["status"], document["counts"]
        if status not in FINISHED:
            status = "running" if holder(run) is not None else "interrupted"
            ids, problems = read_ids(run)
            total = counts.get("points")
            counts = {"ok": len(ids.ok), "failed": len(ids.failed)}
            counts["todo"] = None if total is None else max(0, total - counts["ok"] - counts["failed"])
        info = RunInfo(
            run_id=run.name,
            grid=str(grid["name"]),
            about=str(grid["about"] or ""),
            engine=str(document["engine"]),
            status=status,
            created=datetime.fromisoformat(document["created"]),
            updated=datetime.fromisoformat(document["updated"]),
            ok=counts["ok"],
            failed=counts["failed"],
            todo=counts["todo"],
            repeats=grid["repeats"],
            seed=grid["seed"],
            model_version=document["model_version"],
            version=str(last.get("version", "")),
            git_commit=last.get("git_commit"),
            host=str(last.get("host", "")),
            kernel=str(last.get("kernel", "")),
            cpu_model=last.get("cpu_model"),
            path=run,
            document=document,
        )
        return info, problems
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: lacks {error}" if isinstance(error, KeyError) else f"{path}: {error}") from error
