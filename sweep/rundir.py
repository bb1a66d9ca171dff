"""One run's directory: what lies where, which parts count, who holds its lock, what its run.json says.

results/<run_id>/run.json, outcomes/part-000001.parquet, rounds/..., points/...  A commit writes the parts of outcomes
and rounds first and the part of points last: parts of a number whose points part is missing do not count.
"""

import errno
import fcntl
import json
import os
import re
import time
import weakref
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sweep import files, schema, tables
from sweep.errors import UserError
from sweep.idset import IdSet

RUN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
DOCUMENT = "run.json"
FINISHED = ("ok", "failed", "interrupted", "fault")
_PART = re.compile(r"part-([0-9]{6,})\.parquet")
_LOCK = ".lock"
_LOCK_PATIENCE_S = 0.5


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
    path: Path
    document: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """A row of the table `runs`."""
        return {column.name: getattr(self, column.name) for column in schema.RUNS}


def parts(run: Path, table: str) -> list[Path]:
    """The committed parts of one table, in the order of their numbers."""
    committed = _numbered(run / "points")
    found = committed if table == "points" else _numbered(run / table)
    return [found[number] for number in sorted(found) if number in committed]


def part_path(run: Path, table: str, number: int) -> Path:
    return run / table / f"part-{number:06d}.parquet"


def next_number(run: Path) -> int:
    """One more than any part of any table."""
    return 1 + max((max(_numbered(run / table), default=0) for table in schema.TABLES), default=0)


def clean(run: Path) -> list[Path]:
    """Remove what a killed writer left: temporary files, and parts that were never committed. For the lock's holder."""
    committed = _numbered(run / "points")
    gone = [path for path in run.iterdir() if files.is_temporary(path)]
    for table in schema.TABLES:
        for path in (run / table).iterdir():
            number = _number(path)
            if files.is_temporary(path) or (number is not None and number not in committed):
                gone.append(path)
    for path in gone:
        path.unlink()
    return gone


@dataclass(slots=True)
class Ids:
    """Which points a run has: `ok` once each; `failed` with their last attempt, unless a later one was ok."""

    ok: IdSet
    failed: dict[str, int]


def read_ids(run: Path) -> Ids:
    """From the committed points parts."""
    ids = Ids(IdSet(), {})
    for path in parts(run, "points"):
        note_points(ids, tables.read_part(path, ["point_id", "status", "attempt"]))
    return ids


def note_points(ids: Ids, points: Any) -> None:
    """Take in the rows of one points table (point_id, status, attempt), in the order in which they were committed."""
    good, bad = tables.split_by_status(points)
    ids.ok.add(tables.id_bytes(good.column("point_id")))
    for point, attempt in zip(bad.column("point_id").to_pylist(), bad.column("attempt").to_pylist(), strict=True):
        ids.failed[point] = max(attempt, ids.failed.get(point, 0))
    if ids.failed:
        for point in tables.common(good.column("point_id"), ids.failed):
            del ids.failed[point]


def read_document(run: Path) -> dict[str, Any]:
    """run.json. UserError names the file that cannot be read."""
    path = run / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(document, dict) or document.get("schema") != schema.RUN_SCHEMA:
        raise UserError(f"{path}: not a run of this version (schema must be {schema.RUN_SCHEMA!r})")
    return document


def write_document(run: Path, document: dict[str, Any]) -> None:
    files.write_text(run / DOCUMENT, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_info(run: Path) -> RunInfo:
    """A run as it stands now; never needs the lock."""
    document = read_document(run)
    path = run / DOCUMENT
    try:
        grid, last = document["grid"], document["launches"][-1]
        status, counts = document["status"], document["counts"]
        if status not in FINISHED:
            status = "running" if holder(run) is not None else "interrupted"
            ids = read_ids(run)
            total = counts.get("points")
            counts = {"ok": len(ids.ok), "failed": len(ids.failed)}
            counts["todo"] = None if total is None else max(0, total - counts["ok"] - counts["failed"])
        return RunInfo(
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
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: lacks {error}" if isinstance(error, KeyError) else f"{path}: {error}") from error


class Lock:
    """The exclusive lock on a run, held until `release`. The kernel drops it when the process dies."""

    def __init__(self, run: Path) -> None:
        path = run / _LOCK
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + _LOCK_PATIENCE_S  # a reader that asks who holds it, holds it for microseconds
        while not _flock(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = _pid(self._descriptor)
                os.close(self._descriptor)
                raise UserError(f"{run.name} is being written by process {pid}; wait for it, or launch with --fresh")
            time.sleep(0.01)
        if not path.exists() or path.stat().st_ino != os.fstat(self._descriptor).st_ino:
            os.close(self._descriptor)
            raise UserError(f"{run.name} was removed just now; launch again")
        _LOCKS.add(self)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_LOCKS: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_locks() -> None:
    """A forked child must not hold its parent's locks beyond the parent's death."""
    for lock in list(_LOCKS):
        lock.release()


os.register_at_fork(after_in_child=_forget_locks)


def holder(run: Path) -> str | None:
    """The pid of the process that writes this run, or None."""
    try:
        descriptor = os.open(run / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _flock(descriptor, fcntl.LOCK_SH) else _pid(descriptor)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise UserError(f"the file system of the results cannot lock files ({error.strerror})") from error
    return True


def _pid(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"


def _numbered(directory: Path) -> dict[int, Path]:
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        return {}
    return {number: path for path in entries if (number := _number(path)) is not None}


def _number(path: Path) -> int | None:
    match = _PART.fullmatch(path.name)
    return int(match[1]) if match else None
