"""The store: a directory of runs. Reading needs no lock; writing a run takes its lock (rundir, writer)."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sweep import files, rundir, schema, tables
from sweep.errors import UserError, nearest, one_line
from sweep.rundir import RunInfo
from sweep.writer import RunWriter

__all__ = ["RunInfo", "RunWriter", "Store", "open_store"]

LAST = "last"
_MAX_LAUNCHES = 100
_COSTS = "costs"


class GridLike(Protocol):
    """What the store keeps of a grid."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str | None: ...
    @property
    def text(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def repeats(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def derive(self) -> Mapping[str, str]: ...
    @property
    def overrides(self) -> Sequence[str]: ...
    def content(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Survey:
    """Runs in the order of their last launch, and a line for each that cannot be read."""

    runs: list[RunInfo]
    problems: list[str]


def open_store(place: str) -> "Store":
    """A store at what a user wrote for --results."""
    if not place:
        raise UserError("--results: a directory is required")
    if "://" in place:
        scheme = place.partition("://")[0]
        raise UserError(f"--results {one_line(place)}: {scheme} is not supported; give a directory")
    return Store(Path(place))


class Store:
    """Runs under one directory, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.exists() and not root.is_dir():
            raise UserError(f"{root}: not a directory; give the directory of the runs")

    def survey(self) -> Survey:
        """Every run; one that cannot be read becomes a problem, not an error."""
        survey = Survey([], [])
        for name in self._names():
            try:
                survey.runs.append(rundir.read_info(self.root / name))
            except UserError as error:
                survey.problems.append(str(error))
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
            runs = self.runs()
            if not runs:
                raise UserError(f"no run in {self.root} yet; the next command: sweep launch GRID")
            return runs[-1]
        return rundir.read_info(self.root / self.find_name(wanted))

    def find_name(self, wanted: str) -> str:
        """The same for a run that may be unreadable: its id only."""
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
        known = f" known: {_some(names)}" if names else f" no run in {self.root} yet"
        raise UserError(f"no run {shown}{nearest(wanted, names) or ';'}{known}")

    def remove(self, run_id: str) -> None:
        """Delete a run; UserError while it is being written."""
        run = self.root / self.find_name(run_id)
        if run.is_symlink():
            run.unlink()
            return
        pid = rundir.holder(run)
        if pid is not None:
            raise UserError(f"{run.name} is being written by process {pid}; stop it first")
        lock = rundir.Lock(run)
        grave = self.root / f".removed-{run.name}-{os.getpid()}"
        run.rename(grave)
        lock.release()
        shutil.rmtree(grave)

    def done(self, run_id: str, rerun_failed: bool = False) -> Callable[[Sequence[str]], NDArray[np.bool_]]:
        """Which points of a run a launch passes over: those with a row, or those that are ok. For `plan`: no lock."""
        ids = rundir.read_ids(self.root / run_id)
        failed = set() if rerun_failed else set(ids.failed)

        def has_row(wanted: Sequence[str]) -> NDArray[np.bool_]:
            tried = np.array([point in failed for point in wanted], bool)
            return np.asarray(tried | ids.ok.has(tables.id_bytes(wanted)))

        return has_row

    def latest_run(self, run_name: str, engine: str = "model") -> RunInfo | None:
        """The run that a launch of this content goes on with: the highest of NAME, NAME-2, NAME-3, ..."""
        for name in self._named(run_name):
            run = rundir.read_info(self.root / name)
            if run.engine == engine:
                return run
        return None

    def open_run(self, grid: GridLike, run_name: str, fresh: bool, provenance: Mapping[str, Any]) -> RunWriter:
        """Go on with the latest run of this name, or start one; `provenance` may say `engine` (else model)."""
        engine = str(provenance.get("engine", "model"))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.root}: {error.strerror}; choose another place with --results") from error
        self._bury()
        found = None if fresh else self.latest_run(run_name, engine)
        name = found.run_id if found else self._create(grid, run_name, engine)
        run = self.root / name
        lock = rundir.Lock(run)
        try:
            document = rundir.read_document(run)
            launch = {"at": datetime.now(UTC).isoformat(), **provenance}
            document["launches"] = [*document["launches"], launch][-_MAX_LAUNCHES:]
            return RunWriter(run, lock, document, resumed=found is not None)
        except BaseException:
            lock.release()
            raise

    def cost_files(self) -> list[Path]:
        """Cost tables that were measured here (`calibrate` writes them)."""
        return sorted((self.root / _COSTS).glob("*.json"))

    def _create(self, grid: GridLike, run_name: str, engine: str) -> str:
        """A new run directory, there at once with its run.json, under the first free name."""
        if not rundir.RUN_NAME.fullmatch(run_name):
            raise UserError(f"{one_line(run_name)!r} is no name for a run: letters, digits, . _ -, a letter first")
        made = self.root / f".new-{run_name}-{os.getpid()}"
        for table in schema.TABLES:
            (made / table).mkdir(parents=True, exist_ok=True)
        rundir.write_document(made, _document(grid, engine))
        number = self._highest(run_name) + 1
        while True:
            name = run_name if number == 1 else f"{run_name}-{number}"
            try:
                made.rename(self.root / name)  # fails where a run is: its directory is not empty
                break
            except OSError:
                if not (self.root / name).exists():
                    raise
            number += 1
        files.sync(self.root)
        return name

    def _names(self) -> list[str]:
        """Directories that are runs, or were before something broke them."""
        try:
            entries = sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.root}: {error.strerror}") from error
        marks = (rundir.DOCUMENT, *schema.TABLES)
        return [e.name for e in entries if rundir.RUN_NAME.fullmatch(e.name) and any((e / m).exists() for m in marks)]

    def _highest(self, run_name: str) -> int:
        """The number of the latest run of a name, 0 if there is none: a fresh one always comes after it."""
        for name in self._named(run_name):
            return int(name[len(run_name) + 1 :] or 1)
        return 0

    def _named(self, run_name: str) -> list[str]:
        """NAME-3, NAME-2, NAME: the latest first."""
        numbers = {}
        for name in self._names():
            match = re.fullmatch(rf"{re.escape(run_name)}(?:-([0-9]{{1,6}}))?", name)
            if match:
                numbers[int(match[1] or 1)] = name
        return [numbers[number] for number in sorted(numbers, reverse=True)]

    def _bury(self) -> None:
        """What a killed `rm` left."""
        for grave in self.root.glob(".removed-*"):
            shutil.rmtree(grave, ignore_errors=True)


def _document(grid: GridLike, engine: str) -> dict[str, Any]:
    from engine import MODEL_VERSION

    now = datetime.now(UTC).isoformat()
    return {
        "schema": schema.RUN_SCHEMA,
        "engine": engine,
        "model_version": MODEL_VERSION,
        "status": "running",
        "created": now,
        "updated": now,
        "counts": {"points": None},
        "grid": {
            "name": grid.name,
            "about": grid.about,
            "source": Path(grid.source).name,
            "repeats": grid.repeats,
            "seed": grid.seed,
            "content": grid.content(),
            "text": grid.text,
            "overrides": list(grid.overrides),
        },
        "launches": [],
        "columns": {
            table: {c.name: {"type": c.type, "unit": c.unit, "meaning": c.meaning} for c in columns}
            for table, columns in schema.TABLES.items()
        },
        "derived": dict(grid.derive),
    }


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
