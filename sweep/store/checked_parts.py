"""Checks of the files of parts against their checksums. Everything that is read from a part is read through here.

A part's name has the CRC-32 of its points file, whose metadata have size and CRC-32 of its outcomes and rounds files. A
single flipped bit in a Parquet file may change numbers without any reader noticing, so every process hashes the files
that it reads, whole: those of 300,000 points are 47 MB, which takes a tenth of a second.
"""

import mmap
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.common import schema
from sweep.common.errors import DamagedError, SweepFault
from sweep.storage.local_storage import LocalStorage
from sweep.storage.parallel import OBJECT_REQUESTS, in_parallel
from sweep.storage.storage import Entry, Storage
from sweep.store import parts
from sweep.store.id_set import SortedIds, sort_ids
from sweep.store.parts import POINTS, SIBLINGS, Layout, Part
from sweep.tables import arrow_tables, parquet


@dataclass(frozen=True, slots=True)
class PartPoints:
    """The points of a part: an Arrow table (point_id, status, attempt), and the sorted keys of the ids."""

    table: arrow_tables.Table
    ids: SortedIds


def check_all(run: Storage, layout: Layout) -> Iterator[tuple[Part, PartPoints | None, str]]:
    """Check all files of all parts. Yields each part with its points, or with None and a line on what is wrong."""
    for part in layout.parts:
        try:
            points = _read_points(run, part, read_part(run, layout, part, SIBLINGS)[POINTS])
        except DamagedError as error:
            yield part, None, str(error)
        except FileNotFoundError:
            yield part, None, f"{run}/{part.file}: is gone"
        else:
            yield part, points, ""


def read_all_points(run: Storage, layout: Layout) -> Iterator[PartPoints | DamagedError]:
    """The points of each part, or what is wrong with its points file. Some dozen files are in memory at a time."""

    def read(part: Part) -> PartPoints | DamagedError:
        try:
            return _read_points(run, part, _read_file(run, part, POINTS))
        except DamagedError as error:
            return error

    for start in range(0, len(layout.parts), OBJECT_REQUESTS):
        yield from in_parallel(run, read, layout.parts[start : start + OBJECT_REQUESTS])


def read_part(run: Storage, layout: Layout, part: Part, tables: Collection[str]) -> dict[str, bytes]:
    """The whole points file of a part, and those of `tables` that it has.

    DamagedError if one of these is not what was written, or the file of another table is gone or of another size.
    """
    wanted = [table for table in SIBLINGS if table in tables and part.file in layout.files[table]]
    reads = in_parallel(run, lambda table: _read_file(run, part, table), [POINTS, *wanted])
    files = dict(zip([POINTS, *wanted], reads, strict=True))
    stamps = parquet.read_metadata(files[POINTS], f"{run}/{POINTS}/{part.file}")
    for table in SIBLINGS:
        name, entry = f"{table}/{part.file}", layout.files[table].get(part.file)
        if part.digest and (entry is not None) != (table in stamps):
            raise DamagedError(f"{run}/{name}: {'is gone' if entry is None else 'was not written with its points'}")
        if entry is None:
            continue
        size, _, checksum = stamps.get(table, "").partition("-")
        if part.digest and size != str(entry.size):
            raise DamagedError(f"{run}/{name}: is not what was written")
        if table not in tables:
            continue
        if not part.digest:  # written before parts had checksums
            parquet.read_table(files[table], f"{run}/{name}")
        elif not parts.has_checksum(files[table], checksum):
            raise DamagedError(f"{run}/{name}: is not what was written")
    return files


def _read_file(run: Storage, part: Part, table: str) -> bytes:
    """A file of a part. DamagedError if it is the points file and is not what was written."""
    name = f"{table}/{part.file}"
    data = run.read(name)
    if table == POINTS and part.digest and not parts.has_checksum(data, part.digest):
        raise DamagedError(f"{run}/{name}: is not what was written")
    return data


def _read_points(run: Storage, part: Part, data: bytes) -> PartPoints:
    name = f"{run}/{POINTS}/{part.file}"
    points = parquet.read_table(data, name, parts.PROGRESS_COLUMNS)
    parquet.check_points(points, name)
    try:
        return PartPoints(points, sort_ids(points.column("point_id")))
    except SweepFault as error:
        raise DamagedError(f"{name}: {error}") from error


class CheckedFiles:
    """The files of one run for SQL. Each is checked before it is first used, and again if its size or time changed.

    `damaged`: the parts that are left out, with a line on what is wrong. Files of an object store are copied to unnamed
    temporary files.
    """

    def __init__(self, run: Storage) -> None:
        self.run, self.layout = run, parts.read_layout(run)
        self.damaged: dict[Part, str] = {}
        self._checked: dict[str, Entry] = {}
        self._copies: dict[str, mmap.mmap] = {}

    def look_again(self) -> bool:
        """Update the listing. Returns whether other parts are committed than before."""
        before, self.layout = self.layout.parts, parts.read_layout(self.run)
        return before != self.layout.parts

    def check(self, tables: Collection[str]) -> bool:
        """Check the files of these tables that were not checked yet. Returns whether there are new `damaged` parts.

        Raises FileNotFoundError if a file was deleted since the listing was read.
        """
        return self._leave_out(
            [
                part
                for part in self.layout.parts
                if part not in self.damaged and not all(self._is_checked(part, table) for table in (*tables, POINTS))
            ],
            lambda part: self._check(part, tables),
        )

    def check_columns(self, tables: Collection[str]) -> bool:
        """`check`, and also the types of the columns of these tables."""
        left = [part for part in self.layout.parts if part not in self.damaged]
        return self.check(tables) or self._leave_out(left, lambda part: self._check_columns(part, tables))

    def paths(self, table: str) -> list[Path]:
        """Paths of the intact files of a table; none if the run is in an object store."""
        return [self.run.path / name for name in self._names(table)] if isinstance(self.run, LocalStorage) else []

    def copies(self, table: str) -> list[Any]:
        """Buffers with the intact files of a table; none if the run is in a directory."""
        return [] if isinstance(self.run, LocalStorage) else [self._copies[name] for name in self._names(table)]

    def _names(self, table: str) -> list[str]:
        counted = [part.file for part in self.layout.parts if part not in self.damaged]
        return [f"{table}/{file}" for file in counted if file in self.layout.files[table]]

    def _is_checked(self, part: Part, table: str) -> bool:
        entry = self.layout.files[table].get(part.file)
        return entry is None or self._checked.get(f"{table}/{part.file}") == entry

    def _leave_out(self, candidates: Sequence[Part], check: Callable[[Part], None]) -> bool:
        """Add the parts for which `check` raises DamagedError to `damaged`. Returns whether there are any."""

        def problem(part: Part) -> str:
            try:
                check(part)
            except DamagedError as error:
                return str(error)
            return ""

        problems = in_parallel(self.run, problem, candidates)
        found = {part: problem for part, problem in zip(candidates, problems, strict=True) if problem}
        self.damaged |= found
        return bool(found)

    def _check(self, part: Part, tables: Collection[str]) -> None:
        for table, data in read_part(self.run, self.layout, part, tables).items():
            name = f"{table}/{part.file}"
            self._checked[name] = self.layout.files[table][part.file]
            if not isinstance(self.run, LocalStorage):
                self._copies[name] = _copy(data)

    def _check_columns(self, part: Part, tables: Collection[str]) -> None:
        for table in tables:
            if part.file in self.layout.files[table]:
                name = f"{table}/{part.file}"
                source = self.run.path / name if isinstance(self.run, LocalStorage) else self._copies[name]
                parquet.check_columns(source, f"{self.run}/{name}", schema.TABLES[table])


def _copy(data: bytes) -> mmap.mmap:
    """The data in an unnamed temporary file, mapped: the kernel can drop its pages from memory."""
    with tempfile.TemporaryFile() as file:
        file.write(data or b"-")
        file.flush()
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
