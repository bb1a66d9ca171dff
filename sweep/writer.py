"""The one writer of a run: takes finished rows, commits them, refuses a point that is done already."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sweep import rundir, schema, tables
from sweep.errors import SweepFault


class RunWriter:
    """Holds the run's lock from the start to `close`. Use it as a context manager.

    What is committed stays, whatever happens after; a run that was closed without `finish` shows as interrupted.
    """

    def __init__(self, run: Path, lock: rundir.Lock, document: dict[str, Any], resumed: bool) -> None:
        self.run_id, self.resumed = run.name, resumed
        self._run, self._lock, self._document = run, lock, document
        rundir.clean(run)
        self._ids = rundir.read_ids(run)
        self._number = rundir.next_number(run)
        self._save(status="running", counts={"points": None})

    def done(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these points have an ok row."""
        return self._ids.ok.has(tables.id_bytes(ids))

    def failed_ids(self) -> set[str]:
        """Points whose last attempt was not ok."""
        return set(self._ids.failed)

    def expect(self, points: int) -> None:
        """How many points the plan has in all, done ones too, so that `ls` can say what is left."""
        self._save(counts={"points": points})

    def commit(self, outcomes: Any | None, rounds: Any | None, points: Any) -> None:
        """Write one part a table; points last, which makes it count.

        A point that failed before and is here again gets a higher attempt number. A point that is ok already, or is
        here twice, is a fault, and nothing is written.
        """
        if not points.num_rows:
            return
        self._check(outcomes, rounds, points)
        points = tables.raise_attempts(points, self._ids.failed)
        for table, part in (("outcomes", outcomes), ("rounds", rounds), ("points", points)):
            if part is not None and part.num_rows:
                tables.write_part(part, rundir.part_path(self._run, table, self._number))
        self._number += 1
        rundir.note_points(self._ids, points)

    def finish(self, status: str, counts: Mapping[str, int]) -> None:
        """Say how it ended: ok, failed, interrupted or fault. ok and failed are counted here, for all launches.

        `todo` comes from `counts`, else from what `expect` was told, else it is 0 after a run that went through.
        """
        if status not in rundir.FINISHED:
            raise SweepFault(f"a run cannot end as {status!r}")
        ok, failed, points = len(self._ids.ok), len(self._ids.failed), self._document["counts"].get("points")
        todo = None if status in ("interrupted", "fault") else 0
        todo = counts.get("todo", todo if points is None else max(0, points - ok - failed))
        self._save(status=status, counts={"points": points, "ok": ok, "failed": failed, "todo": todo})

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, outcomes: Any | None, rounds: Any | None, points: Any) -> None:
        for table, name in ((outcomes, "outcomes"), (rounds, "rounds"), (points, "points")):
            if table is not None:
                _must_be_own(table, self.run_id, schema.TABLES[name])
        ids = tables.id_bytes(points.column("point_id"))
        if self._ids.ok.has(ids).any():
            raise SweepFault("a point that is done was to be written again")
        if len(np.unique(ids.view("S20"))) < len(ids):
            raise SweepFault("a point twice in one commit")

    def _save(self, **changes: Any) -> None:
        self._document |= {**changes, "updated": datetime.now(UTC).isoformat()}
        rundir.write_document(self._run, self._document)


def _must_be_own(table: Any, run_id: str, columns: tuple[schema.Column, ...]) -> None:
    names = set(table.schema.names)
    missing = {column.name for column in columns} - names
    if missing:
        raise SweepFault(f"a part without {', '.join(sorted(missing))}")
    if table.num_rows and table.column("run_id")[0].as_py() != run_id:
        raise SweepFault(f"a part of another run than {run_id}")
