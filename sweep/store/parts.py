"""Parts of a run: their names, which of them are committed, and how one is written.

A part is up to three files of one name: outcomes/part-000001.5f3a9c21.parquet, rounds/..., points/... The eight
digits are the CRC-32 of the points file, whose metadata have size and CRC-32 of the other two. A commit writes the
points file last: a name that is not in points/ is not committed. part-000001-000042.<crc> replaces the parts 1 to 42
from the moment it is there. So a listing of names tells which rows are committed, and no file is ever changed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from sweep.common import atomic_write, schema
from sweep.common.errors import UserError
from sweep.storage.local_storage import LocalStorage
from sweep.storage.parallel import in_parallel
from sweep.storage.storage import Entry, Storage
from sweep.tables import arrow_tables, parquet

POINTS = "points"
SIBLINGS = tuple(table for table in schema.TABLES if table != POINTS)
DAMAGED = "damaged"
PROGRESS_COLUMNS = ("point_id", "status", "attempt")
"""The columns of points that tell what a launch has still to run."""
_NAME = re.compile(r"part-([0-9]{6,})(?:-([0-9]{6,}))?(?:\.([0-9a-f]{8}))?\.parquet")
_CHECKSUM_DIGITS = 8
_MAX_LISTINGS = 20


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of the commits `first` to `last`, usually one. `file`: name of its files in every table's folder.

    `digest`: CRC-32 of its points file in hex; empty for parts of early versions, which have none.
    """

    first: int
    last: int
    digest: str
    file: str


@dataclass(frozen=True, slots=True)
class Layout:
    """A listing of a run: the committed parts in order; all files by table and name; and leftovers, as table/name."""

    parts: tuple[Part, ...]
    files: dict[str, dict[str, Entry]]
    stray: tuple[str, ...]

    def of(self, table: str) -> list[str]:
        """The committed files of one table, such as `points/part-000001.5f3a9c21.parquet`."""
        return [f"{table}/{part.file}" for part in self.parts if part.file in self.files[table]]

    def bytes_of(self, part: Part) -> int:
        """Size of the part's files together."""
        return sum(entries[part.file].size for entries in self.files.values() if part.file in entries)

    @property
    def next_number(self) -> int:
        """The number of the next commit: above that of every file, committed or not."""
        found = [part.last for entries in self.files.values() for name in entries if (part := _parse_name(name))]
        return 1 + max(found, default=0)


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file of a part that is to be written: its bytes, and `SIZE-CHECKSUM` of them.

    `left`: name of the temporary file in the run's folder that has the bytes; then `data` is empty.
    """

    data: bytes
    stamp: str
    left: str = ""

    @property
    def size(self) -> int:
        return int(self.stamp.partition("-")[0])

    @property
    def digest(self) -> str:
        return self.stamp.partition("-")[2][:_CHECKSUM_DIGITS]


def part_file(data: bytes) -> PartFile:
    """These bytes with their size and checksum."""
    return PartFile(data, size_and_checksum(data))


def make_files(points: arrow_tables.Table, **others: arrow_tables.Table | None) -> dict[str, PartFile]:
    """Make the files of one part, by table, none for a table without rows. points has the checksums of the others."""
    siblings = {name: part_file(data) for name, table in others.items() if (data := parquet.to_bytes_if_any(table))}
    return siblings | {POINTS: part_file(parquet.to_bytes(points, sizes_and_checksums(siblings)))}


def write_temporary(folder: Path, given: Mapping[str, PartFile]) -> dict[str, PartFile]:
    """Write the bytes of `given` to temporary files in the run's folder, so that they need not go through a pipe.

    Returns `given` with the names of these files; unchanged if they cannot be written.
    """
    left: dict[str, PartFile] = {}
    try:
        for name, file in given.items():
            left[name] = replace(file, data=b"", left=atomic_write.leave(folder, file.data))
    except OSError:  # the driver will get the same error, and report it
        LocalStorage(folder).delete(*(file.left for file in left.values()))
        return dict(given)
    return left


def sizes_and_checksums(siblings: Mapping[str, PartFile]) -> dict[str, str]:
    """The metadata of a points file: `SIZE-CHECKSUM` of each other file of the part, by table."""
    return {table: file.stamp for table, file in siblings.items()}


def read_layout(run: Storage) -> Layout:
    """List the files of a run.

    Lists again if parts were merged meanwhile, because the listings of two tables may then not fit together.
    """
    for _ in range(_MAX_LISTINGS):
        tables = (POINTS, *SIBLINGS)
        listings = in_parallel(run, lambda table: run.child(table).entries(), tables)
        found = dict(zip(tables, listings, strict=True))
        if run.child(POINTS).entries() == found[POINTS]:
            break
    files_of = {table: {e.name: e for e in entries if _parse_name(e.name)} for table, entries in found.items()}
    parts = _committed([part for name in files_of[POINTS] if (part := _parse_name(name))])
    counted = {part.file for part in parts}
    stray = [
        f"{table}/{entry.name}"
        for table, entries in found.items()
        for entry in entries
        if atomic_write.is_temporary(entry.name) or (_parse_name(entry.name) and entry.name not in counted)
    ]
    return Layout(tuple(parts), files_of, tuple(stray))


def _committed(committed: list[Part]) -> list[Part]:
    """`committed` in order, without the parts whose commits a wider part contains."""
    kept: list[Part] = []
    wide = (0, 0)
    for part in sorted(committed, key=lambda part: (part.first, -part.last, part.file)):
        if part.last <= wide[1] and (part.first, part.last) != wide:
            continue
        kept.append(part)
        wide = max(wide, (part.first, part.last), key=lambda reach: reach[1])
    return kept


def _parse_name(name: str) -> Part | None:
    match = _NAME.fullmatch(name)
    return Part(int(match[1]), int(match[2] or match[1]), match[3] or "", name) if match else None


def write_part(run: Storage, reach: tuple[int, int], given: Mapping[str, PartFile], check: Callable[[], None]) -> Part:
    """Write the files of the part with the commits `reach`, points last, which commits it.

    `check` is called just before that: it raises UserError if the run is no longer ours.
    """
    digest = given[POINTS].digest
    numbers = "-".join(f"{number:06d}" for number in dict.fromkeys(reach))
    part = Part(*reach, digest, f"part-{numbers}.{digest}.parquet")
    for table in SIBLINGS:
        if table in given:
            _put(run, f"{table}/{part.file}", given[table])
    check()
    _put(run, f"{POINTS}/{part.file}", given[POINTS])
    return part


def _put(run: Storage, name: str, file: PartFile) -> None:
    if not file.left:
        run.put(name, file.data)
        return
    try:
        run.move(file.left, name)
    except FileNotFoundError as error:
        raise UserError(f"{run}/{file.left}: was removed just now; launch again: what was committed is kept") from error


def checksum(data: bytes) -> str:
    """CRC-32 in hex. It finds damage by disks and copies; against forgery no checksum beside the file would help."""
    return f"{crc32(data):08x}"


def has_checksum(data: bytes, expected: str) -> bool:
    """Whether `expected` is the checksum of the data. Early runs have BLAKE2b's 32 digits, or the first eight."""
    return expected == checksum(data) or blake2b(data, digest_size=16).hexdigest().startswith(expected)


def size_and_checksum(data: bytes) -> str:
    """`SIZE-CHECKSUM`."""
    return f"{len(data)}-{checksum(data)}"


def remove_leftovers(run: Storage, *stray: str) -> None:
    """Delete what killed processes left: temporary files, and the `stray` ones. Only for the holder of the lock."""
    loose = [entry.name for entry in run.entries() if atomic_write.is_temporary(entry.name)]
    run.delete(*loose, *stray)


def set_aside(run: Storage, layout: Layout, part: Part) -> None:
    """Move the files of a part to damaged/, points last: after a kill in between the part is found again."""
    for table in (*SIBLINGS, POINTS):
        if part.file in layout.files[table]:
            run.move(f"{table}/{part.file}", f"{DAMAGED}/{table}-{part.file}")
