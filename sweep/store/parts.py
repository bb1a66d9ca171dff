"""The parts of a run: which there are, which count, whether they are what was written.

outcomes/part-000001.5f3a9c21.parquet, rounds/..., points/...  The eight digits are the CRC-32 of the points part, which
itself keeps those of the outcomes and rounds parts of its name. A commit writes those two first and the points part
last: a name that points/ lacks does not count. part-000001-000042.<digits> holds the rows of the parts 1 to 42 once it
is there, and those no longer count. So one listing of names says which rows there are, and no file is ever changed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from sweep.common import atomic_write, schema
from sweep.common.errors import UserError
from sweep.store import arrow_tables, parquet
from sweep.store.local_storage import LocalStorage
from sweep.store.storage import Entry, Storage

POINTS = "points"
SIBLINGS = tuple(table for table in schema.TABLES if table != POINTS)
DAMAGED = "damaged"
PROGRESS_COLUMNS = ("point_id", "status", "attempt")
_NAME = re.compile(r"part-([0-9]{6,})(?:-([0-9]{6,}))?(?:\.([0-9a-f]{8}))?\.parquet")
_DIGITS = 8
_LOOKS = 20


@dataclass(frozen=True, slots=True)
class Part:
    """The commits `first` to `last`, usually one; `file` is its name in every table's folder."""

    first: int
    last: int
    digest: str
    file: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts that count, in their order; all parts by table and name; and what does not count, as table/name."""

    parts: tuple[Part, ...]
    files: dict[str, dict[str, Entry]]
    stray: tuple[str, ...]

    def of(self, table: str) -> list[str]:
        """`points/part-000001.5f3a9c21.parquet` and so on: what there is of one table."""
        return [f"{table}/{part.file}" for part in self.parts if part.file in self.files[table]]

    def bytes_of(self, part: Part) -> int:
        return sum(entries[part.file].size for entries in self.files.values() if part.file in entries)

    @property
    def next_number(self) -> int:
        """One more than any part of any table."""
        found = [part.last for entries in self.files.values() for name in entries if (part := _part(name))]
        return 1 + max(found, default=0)


@dataclass(frozen=True, slots=True)
class PartFile:
    """What becomes a file of a part, and its stamp: whoever makes the one makes the other.

    `left`: the temporary file of the run's folder in which the data lie, if they do not come with this.
    """

    data: bytes
    stamp: str
    left: str = ""

    @property
    def size(self) -> int:
        return int(self.stamp.partition("-")[0])

    @property
    def digest(self) -> str:
        return self.stamp.partition("-")[2][:_DIGITS]


def part_file(data: bytes) -> PartFile:
    return PartFile(data, size_and_checksum(data))


def make_files(points: arrow_tables.Table, **others: arrow_tables.Table | None) -> dict[str, PartFile]:
    """The files of a part, by table: of those that have rows, and of points, which keeps the stamps of the others."""
    siblings = {name: part_file(data) for name, table in others.items() if (data := parquet.to_bytes_if_any(table))}
    return siblings | {POINTS: part_file(parquet.to_bytes(points, sizes_and_checksums(siblings)))}


def write_temporary(folder: Path, given: Mapping[str, PartFile]) -> dict[str, PartFile]:
    """The same, with the data in temporary files of the run's folder: it need not go through a pipe to get there."""
    left: dict[str, PartFile] = {}
    try:
        for name, file in given.items():
            left[name] = replace(file, data=b"", left=atomic_write.leave(folder, file.data))
    except OSError:  # the driver will meet with the same, and say so
        LocalStorage(folder).delete(*(file.left for file in left.values()))
        return dict(given)
    return left


def sizes_and_checksums(siblings: Mapping[str, PartFile]) -> dict[str, str]:
    """What a points part keeps."""
    return {table: file.stamp for table, file in siblings.items()}


def read_layout(run: Storage) -> Layout:
    """What lies in a run. Looks again while parts are being merged: a listing may miss what comes and what goes."""
    for _ in range(_LOOKS):
        found = {table: run.child(table).entries() for table in (POINTS, *SIBLINGS)}
        if run.child(POINTS).entries() == found[POINTS]:
            break
    files_of = {table: {e.name: e for e in entries if _part(e.name)} for table, entries in found.items()}
    parts = _counted([part for name in files_of[POINTS] if (part := _part(name))])
    counted = {part.file for part in parts}
    stray = [
        f"{table}/{entry.name}"
        for table, entries in found.items()
        for entry in entries
        if atomic_write.is_temporary(entry.name) or (_part(entry.name) and entry.name not in counted)
    ]
    return Layout(tuple(parts), files_of, tuple(stray))


def _counted(committed: list[Part]) -> list[Part]:
    """Without those whose commits a wider part holds."""
    kept: list[Part] = []
    wide = (0, 0)
    for part in sorted(committed, key=lambda part: (part.first, -part.last, part.file)):
        if part.last <= wide[1] and (part.first, part.last) != wide:
            continue
        kept.append(part)
        wide = max(wide, (part.first, part.last), key=lambda reach: reach[1])
    return kept


def _part(name: str) -> Part | None:
    match = _NAME.fullmatch(name)
    return Part(int(match[1]), int(match[2] or match[1]), match[3] or "", name) if match else None


def write_part(run: Storage, reach: tuple[int, int], given: Mapping[str, PartFile], check: Callable[[], None]) -> Part:
    """Put the files of the commits `reach`; points last, which makes them count. `check` is called just before."""
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
    """Tells damage, as a disk or a copy does it; whoever forges a file can forge any digits too. So they are quick."""
    return f"{crc32(data):08x}"


def has_checksum(data: bytes, told: str) -> bool:
    """Whether these are the digits of the data. The first runs of this form told BLAKE2b's, or the first eight."""
    return told == checksum(data) or blake2b(data, digest_size=16).hexdigest().startswith(told)


def size_and_checksum(data: bytes) -> str:
    """What a points part keeps of another: size and digits."""
    return f"{len(data)}-{checksum(data)}"


def remove_leftovers(run: Storage, *stray: str) -> None:
    """Remove what somebody who was killed left: temporary files, and `stray` ones. For the lock's holder."""
    loose = [entry.name for entry in run.entries() if atomic_write.is_temporary(entry.name)]
    run.delete(*loose, *stray)


def set_aside(run: Storage, layout: Layout, part: Part) -> None:
    """Move a part's files into damaged/, the points part last: until then it counts, and is found again."""
    for table in (*SIBLINGS, POINTS):
        if part.file in layout.files[table]:
            run.move(f"{table}/{part.file}", f"{DAMAGED}/{table}-{part.file}")
