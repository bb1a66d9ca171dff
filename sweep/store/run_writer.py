"""RunWriter: commits finished rows to a run, under its lock. A point that is ok already is refused."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sweep.common import schema
from sweep.common.errors import SweepFault, UserError
from sweep.grid.point_id import PointIds
from sweep.storage.local_storage import LocalStorage
from sweep.storage.run_lock import RunLock
from sweep.storage.storage import Storage
from sweep.store import checked_parts, compaction, parts, run_directory, run_document
from sweep.store.id_set import IdSet, SortedIds, sort_ids
from sweep.store.parts import PartFile
from sweep.tables import arrow_tables


class RunWriter:
    """Holds the run's lock until `close`. A context manager.

    Committed rows stay, whatever happens afterwards. A run that is closed without `finish` is shown as interrupted.
    `problems`: a line for each damaged part that was set aside; its points run again.
    """

    def __init__(self, run: Storage, lock: RunLock, document: dict[str, Any], resumed: bool) -> None:
        self.run_id, self.resumed = run.name, resumed
        self.problems: list[str] = []
        self._run, self._lock, self._document = run, lock, document
        self._tried = run_directory.TriedPoints(IdSet(), {})
        self._parts: dict[parts.Part, compaction.Size] = {}
        layout = parts.read_layout(run)
        parts.remove_leftovers(run, *layout.stray)
        self._read_parts(layout)
        self._number = layout.next_number
        self._save(status="running", counts={"points": None})

    def is_done(self, ids: PointIds, rerun_failed: bool = False) -> NDArray[np.bool_]:
        """bool[n]: which of these points a launch skips: those that are ok and, unless `rerun_failed`, that failed."""
        return self._tried.is_done(ids, rerun_failed)

    def failed_ids(self) -> set[str]:
        """Points whose last attempt was not ok."""
        return set(self._tried.failed)

    def set_planned_points(self, points: int) -> None:
        """Store how many points the plan has, done ones included, so that `ls` can show how many are left."""
        self._save(counts={"points": points})

    def next_attempts(self, ids: PointIds, attempt: int) -> int | NDArray[np.int64]:
        """`attempt`, raised above the last attempt of each point that failed: int64[n] if one did."""
        return self._tried.next_attempts(ids, attempt)

    @property
    def folder(self) -> Path | None:
        """The run's directory, where workers of this machine may write temporary files; None in an object store."""
        return self._run.path.absolute() if isinstance(self._run, LocalStorage) else None

    @property
    def derived(self) -> Mapping[str, str]:
        """The grid's derived columns: name and SQL."""
        derived: dict[str, str] = self._document["derived"]
        return derived

    def commit(self, outcomes: Any | None, rounds: Any | None, points: Any) -> None:
        """Write one part. A point that failed before gets a higher attempt number.

        Raises SweepFault, and writes nothing, if a point is ok already or is in `points` twice.
        """
        if not points.num_rows:
            return
        for name, table in {"outcomes": outcomes, "rounds": rounds, "points": points}.items():
            if table is not None:
                _check_columns(table, self.run_id, schema.TABLES[name])
        sorted_ids = self._check_are_new(points.column("point_id"))
        points = arrow_tables.describe_derived(arrow_tables.raise_attempts(points, self._tried.failed), self.derived)
        self._write(parts.make_files(points, outcomes=outcomes, rounds=rounds), points.num_rows)
        run_directory.add_points(self._tried, points, sorted_ids)

    def commit_files(self, files: Mapping[str, PartFile], ids: PointIds) -> None:
        """Commit files that a worker made (`parts.make_files`) of points that are all ok; `ids`: of these points."""
        sorted_ids = self._check_are_new(ids)
        self._write(files, len(ids))
        self._tried.add_ok(ids, sorted_ids)

    def compact(self) -> None:
        """Merge small parts, so that a run has few files, however many commits it had."""
        arrow_tables.release_memory()
        try:
            self._parts = compaction.compact(self._run, self._parts, self._lock.check)
        except UserError as error:  # such as a full disk: all rows are there, in more files
            self.problems.append(f"{error}; the run keeps its small files")
        arrow_tables.release_memory()

    def finish(self, status: str, counts: Mapping[str, int]) -> None:
        """Store how the launch ended: status ok, failed, interrupted or fault. Compacts if all points were tried.

        The counts ok and failed are those of all launches. `counts` may have `todo`; by default it follows from
        `set_planned_points`, or is 0 if that was not called and all points were tried.
        """
        if status not in run_document.FINISHED:
            raise SweepFault(f"a run cannot end as {status!r}")
        ok, failed, points = len(self._tried.ok), len(self._tried.failed), self._document["counts"].get("points")
        todo = None if status in ("interrupted", "fault") else 0
        todo = counts.get("todo", todo if points is None else max(0, points - ok - failed))
        if status in ("ok", "failed"):
            self.compact()
        self._lock.check()
        parts.remove_leftovers(self._run)
        self._save(status=status, counts={"points": points, "ok": ok, "failed": failed, "todo": todo})

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_parts(self, layout: parts.Layout) -> None:
        """Read the points of every part. A part that is damaged, or repeats points, is set aside."""
        for part, points, problem in checked_parts.check_all(self._run, layout):
            if points is not None and (self._tried.ok.has(points.ids) & arrow_tables.is_ok(points.table)).any():
                points, problem = None, f"{self._run}/{parts.POINTS}/{part.file}: has points that are there already"
            if points is None:
                parts.set_aside(self._run, layout, part)
                self.problems.append(f"{problem}; set aside in {self._run}/{parts.DAMAGED}, its points run again")
                continue
            run_directory.add_points(self._tried, points.table, points.ids)
            self._parts[part] = compaction.Size(points.table.num_rows, layout.bytes_of(part))

    def _check_are_new(self, ids: Any) -> SortedIds:
        sorted_ids = sort_ids(ids)
        if self._tried.ok.has(sorted_ids).any():
            raise SweepFault("a point that is done was to be written again")
        if not sorted_ids.is_first().all():
            raise SweepFault("a point twice in one commit")
        return sorted_ids

    def _write(self, files: Mapping[str, PartFile], points: int) -> None:
        self._lock.check()
        number, self._number = self._number, self._number + 1
        part = parts.write_part(self._run, (number, number), files, self._lock.check)
        self._parts[part] = compaction.Size(points, sum(file.size for file in files.values()))

    def _save(self, **changes: Any) -> None:
        now = max(datetime.now(UTC).isoformat(), self._document["updated"])  # a clock may be set back
        self._document |= {**changes, "updated": now}
        self._lock.check()
        run_document.write(self._run, self._document)


def _check_columns(table: Any, run_id: str, columns: tuple[schema.Column, ...]) -> None:
    names = set(table.schema.names)
    missing = {column.name for column in columns} - names
    if missing:
        raise SweepFault(f"a part without {', '.join(sorted(missing))}")
    if table.num_rows and table.column("run_id")[0].as_py() != run_id:
        raise SweepFault(f"a part of another run than {run_id}")
