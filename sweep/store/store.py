"""Store: the runs in one directory or object store prefix. Reading takes no lock; writing a run takes its lock."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.common import schema
from sweep.common.errors import UserError, did_you_mean, one_line
from sweep.grid.point_id import PointIds
from sweep.storage import locks
from sweep.storage.local_storage import LocalStorage, os_errors_as_user_errors
from sweep.storage.parallel import in_parallel
from sweep.storage.storage import Storage
from sweep.storage.storage_uri import open_storage
from sweep.store import parts, run_directory, run_document
from sweep.store.new_document import GridLike, new_document
from sweep.store.run_directory import RunInfo
from sweep.store.run_writer import RunWriter

__all__ = ["RunInfo", "RunWriter", "Store", "open_store"]

LAST = "last"
_MAX_LAUNCHES = 100
_COSTS = "costs"


@dataclass(frozen=True, slots=True)
class Survey:
    """Runs in the order of their last launch, and a line for each run or part that cannot be read."""

    runs: list[RunInfo]
    problems: list[str]


def open_store(place: str) -> "Store":
    """The store at `--results`: a directory, or the URI of an object store."""
    return Store(open_storage(place))


def find_run(wanted: str, store: "Store") -> RunInfo:
    """A run of the store, or of any other by its path `STORE/RUN`. Raises UserError."""
    place, slash, name = wanted.rstrip("/").rpartition("/")
    return open_store(place or "/").find(name) if slash else store.find(wanted)


class Store:
    """The runs under `root`, which need not exist yet."""

    def __init__(self, root: Storage | Path) -> None:
        self.root: Storage = root if isinstance(root, Storage) else LocalStorage(root)
        if isinstance(self.root, LocalStorage):
            with os_errors_as_user_errors(self.root.path):
                if self.root.path.exists() and not self.root.path.is_dir():
                    raise UserError(f"{root}: not a directory; give the directory of the runs")

    @property
    def place(self) -> str:
        """Where the store is, for messages: an absolute path, or a URI."""
        return str(self.root.path.absolute()) if isinstance(self.root, LocalStorage) else str(self.root)

    @property
    def is_local(self) -> bool:
        return isinstance(self.root, LocalStorage)

    @property
    def exists(self) -> bool:
        """Whether the directory is there; in an object store, which has no empty folders, whether it has objects."""
        return self.root.path.exists() if isinstance(self.root, LocalStorage) else bool(self.root.entries())

    def survey(self) -> Survey:
        """Every run; one that cannot be read becomes a problem, not an error."""

        def read(name: str) -> tuple[list[RunInfo], list[str]]:
            try:
                run, problems = run_directory.read_info(self.root.child(name))
            except UserError as error:
                return [], [str(error)] if self._is_run(name) else []
            return [run], problems

        survey = Survey([], [])
        for runs, problems in in_parallel(self.root, read, self._folders()):
            survey.runs.extend(runs)
            survey.problems.extend(problems)
        survey.runs.sort(key=lambda run: (run.updated, run.run_id))
        return survey

    def runs(self) -> list[RunInfo]:
        """The runs that can be read; the last launched one last."""
        return self.survey().runs

    def latest(self) -> list[RunInfo]:
        """The last launched run of each grid name."""
        return list({run.grid: run for run in self.runs()}.values())

    def find(self, wanted: str) -> RunInfo:
        """A run by its id, the start of it, or `last`. UserError names the near ones."""
        if wanted == LAST:
            survey = self.survey()
            runs = survey.runs
            if not runs and survey.problems:
                raise UserError(survey.problems[0])
            if not runs:
                raise UserError(f"no run in {self.place} yet; check --results, or launch a grid: sweep launch GRID")
            return runs[-1]
        return self._info(self.find_name(wanted))

    def find_name(self, wanted: str) -> str:
        """The id of a run, which need not be readable, by its id, the start of it, or `last`."""
        if wanted == LAST:
            return self.find(LAST).run_id
        names = self._names()
        if wanted in names:
            return wanted
        close = [name for name in names if wanted and name.startswith(wanted)]
        if len(close) == 1:
            return close[0]
        shown = repr(one_line(wanted))
        if close:
            raise UserError(f"run {shown} could be {_some(close)}; give more of it")
        known = f" known: {_some(names)}" if names else " it has no run yet"
        raise UserError(f"no run {shown} in {self.place}{did_you_mean(wanted, names) or ';'}{known}")

    def remove(self, run_id: str) -> list[str]:
        """Delete a run; UserError while it is being written. Returns the places that its links name, which stay."""
        name = self.find_name(run_id)
        run = self.root.child(name)
        if isinstance(run, LocalStorage) and run.path.is_symlink():
            kept = os.path.realpath(run.path)
            run.path.unlink()
            return [kept]
        tables = [run.child(table) for table in (parts.POINTS, *parts.SIBLINGS)]
        kept_links = [os.path.realpath(t.path) for t in tables if isinstance(t, LocalStorage) and t.path.is_symlink()]
        holder = locks.holder(run)
        if holder is not None:
            raise UserError(f"{name} is being written by {holder}; stop it first")
        lock = locks.acquire(run)
        try:
            # run.json last: a killed `rm` leaves a run without rows, which can be removed again.
            for table in tables:
                table.delete_all()
            run.delete_all()
        finally:
            lock.release()
        return kept_links

    def done_check(self, run_id: str, rerun_failed: bool = False) -> Callable[[PointIds], NDArray[np.bool_]]:
        """A function from n ids to bool[n]: which points the next launch of the run skips. Takes no lock."""
        ids, _ = run_directory.read_tried_points(self.root.child(run_id))
        return lambda wanted: ids.is_done(wanted, rerun_failed)

    def latest_run(self, run_name: str, engine: str = "model", *, of_all_points: bool = False) -> RunInfo | None:
        """The run that a launch of this grid resumes: the last of NAME, NAME-2, NAME-3, ... of this engine.

        `of_all_points`: rather than one that only ever had part of the points (--where), the last that had all.
        """
        runs = [run for run in self._infos_named(run_name) if run.engine == engine]
        whole = [run for run in runs if not run.is_partial] if of_all_points else []
        return next(iter(whole or runs), None)

    def open_run(self, grid: GridLike, run_name: str, fresh: bool, provenance: Mapping[str, Any]) -> RunWriter:
        """Resume the latest run of this name, or start one. `provenance`: facts of the launch, such as `engine`."""
        engine = str(provenance.get("engine", "model"))
        self._remove_leftovers_of_earlier_versions()
        of_all_points = provenance.get("where") is None
        found = None if fresh else self.latest_run(run_name, engine, of_all_points=of_all_points)
        name = found.run_id if found else self._free_name(run_name)
        run = self.root.child(name)
        lock = locks.acquire(run)
        try:
            if found is None and run.has(run_document.FILE_NAME):
                raise UserError(f"{name} was started by another launch just now; launch again")
            document = run_document.read(run)[0] if found else new_document(grid, engine)
            # `last` is the run launched last, even if a clock was set back.
            now = max(datetime.now(UTC), self._last_update() + timedelta(microseconds=1))
            launch = {"at": now.isoformat(), **provenance}
            document["launches"] = [*document["launches"], launch][-_MAX_LAUNCHES:]
            document["updated"] = now.isoformat()
            return RunWriter(run, lock, document, resumed=found is not None)
        except BaseException:
            lock.release()
            raise

    def cost_files(self) -> list[Path]:
        """Paths of the cost tables that `calibrate` has written into this store."""
        if not isinstance(self.root, LocalStorage):
            return []
        folder = self.root.child(_COSTS)
        return [folder.path / entry.name for entry in folder.entries() if entry.name.endswith(".json")]

    def cost_path(self, name: str) -> Path:
        """The path to which `calibrate` writes a cost table. UserError in an object store."""
        if isinstance(self.root, LocalStorage):
            return self.root.path / _COSTS / f"{name}.json"
        raise UserError(
            f"{self.root}: cost tables are kept in directories; add -o FILE, and give it to query with --cost FILE"
        )

    def _free_name(self, run_name: str) -> str:
        if not run_directory.RUN_NAME.fullmatch(run_name):
            raise UserError(f"{one_line(run_name)!r} is no name for a run: letters, digits, . _ -, a letter first")
        number = self._highest(run_name) + 1
        return run_name if number == 1 else f"{run_name}-{number}"

    def _last_update(self) -> datetime:
        """The latest time at which any run was launched or finished, by its own clock."""

        def update(name: str) -> datetime:
            try:
                updated: datetime = run_document.read(self.root.child(name))[1]["updated"]
            except UserError:
                return datetime.fromtimestamp(0, UTC)
            return updated

        return max(in_parallel(self.root, update, self._folders()), default=datetime.fromtimestamp(0, UTC))

    def _info(self, name: str) -> RunInfo:
        return run_directory.read_info(self.root.child(name))[0]

    def _names(self, pattern: re.Pattern[str] = run_directory.RUN_NAME) -> list[str]:
        """Names of the folders that are runs, readable or not, and match the pattern."""
        names = self._folders(pattern)
        return [name for name, is_run in zip(names, in_parallel(self.root, self._is_run, names), strict=True) if is_run]

    def _folders(self, pattern: re.Pattern[str] = run_directory.RUN_NAME) -> list[str]:
        return [entry.name for entry in self.root.entries() if entry.is_folder and pattern.fullmatch(entry.name)]

    def _is_run(self, name: str) -> bool:
        """Whether a folder has anything of a run, or cannot be listed, such as the private one of another user."""
        marks = {run_document.FILE_NAME, *schema.TABLES}
        try:
            return not marks.isdisjoint(entry.name for entry in self.root.child(name).entries())
        except UserError:
            return True

    def _highest(self, run_name: str) -> int:
        """The number of the latest run of a name; 0 if there is none."""
        for name in _latest_first(run_name, self._names(_names_of(run_name))):
            return int(name[len(run_name) + 1 :] or 1)
        return 0

    def _infos_named(self, run_name: str) -> list[RunInfo]:
        """The runs of a name, latest first. UserError if one cannot be read.

        Only folders without a readable run.json are listed: a listing takes as long as reading.
        """

        def read(name: str) -> RunInfo | None:
            try:
                return self._info(name)
            except UserError:
                if self._is_run(name):
                    raise
                return None

        found = in_parallel(self.root, read, _latest_first(run_name, self._folders(_names_of(run_name))))
        return [run for run in found if run is not None]

    def _remove_leftovers_of_earlier_versions(self) -> None:
        """Delete directories of runs that earlier versions were creating or removing when they were killed."""
        if isinstance(self.root, LocalStorage):
            for name in (e.name for e in self.root.entries() if e.name.startswith((".new-", ".removed-"))):
                shutil.rmtree(self.root.path / name, ignore_errors=True)


def _names_of(run_name: str) -> re.Pattern[str]:
    """Pattern of the ids of the runs of a name: NAME, NAME-2, NAME-3."""
    return re.compile(rf"{re.escape(run_name)}(?:-([0-9]{{1,6}}))?")


def _latest_first(run_name: str, names: Sequence[str]) -> list[str]:
    """Ids of the runs of a name, sorted: NAME-3, NAME-2, NAME."""
    return sorted(names, key=lambda name: int(name[len(run_name) + 1 :] or 1), reverse=True)


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
