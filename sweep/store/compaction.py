"""Compaction: neighbouring small parts become one.

The new part is written first; its name makes it replace the small ones (parts.py), which are then deleted. A kill at
any moment leaves either the small parts or the new one committed; the next launch deletes the others.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sweep.storage.storage import Storage
from sweep.store import checked_parts, parts
from sweep.store.parts import Part, PartFile
from sweep.tables import parquet

MOST_POINTS, MOST_BYTES = 65_536, 32 << 20
"""Largest part that compaction makes."""
PART_POINTS, PART_BYTES = MOST_POINTS // 16, MOST_BYTES // 4
"""A part of this size is not small: fast sweeps commit such parts, and they stay."""


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a part: rows of its points file, bytes of all its files."""

    points: int
    bytes: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.points + other.points, self.bytes + other.bytes)

    @property
    def share(self) -> float:
        """The size as a share of the largest part that compaction makes."""
        return max(self.points / MOST_POINTS, self.bytes / MOST_BYTES)

    @property
    def big(self) -> bool:
        return self.points >= PART_POINTS or self.bytes >= PART_BYTES


def compact(run: Storage, sizes: Mapping[Part, Size], check: Callable[[], None]) -> dict[Part, Size]:
    """Merge small parts. Returns the sizes of the parts that there are now.

    `check` is called before each merge is committed: it raises UserError if the run is no longer ours.
    """
    left = dict(sizes)
    for group in groups(sizes):
        wide = merge(run, group, check)
        left[wide] = sum((left.pop(part) for part in group), Size(0, 0))
    return left


def groups(sizes: Mapping[Part, Size]) -> Iterator[list[Part]]:
    """Groups of two and more small neighbours that together are no larger than the largest part."""
    group: list[Part] = []
    total = Size(0, 0)
    for part in sorted(sizes, key=lambda part: part.first):
        size = sizes[part]
        if group and (size.big or (total + size).share > 1):
            if len(group) > 1:
                yield group
            group, total = [], Size(0, 0)
        if not size.big:
            group.append(part)
            total += size
    if len(group) > 1:
        yield group


def merge(run: Storage, group: list[Part], check: Callable[[], None]) -> Part:
    """Write the rows of these parts as one part, then delete them. DamagedError if one is not what was written."""
    layout = parts.read_layout(run)
    files = [checked_parts.read_part(run, layout, part, parts.SIBLINGS) for part in group]
    merged: dict[str, PartFile] = {}
    for table in (*parts.SIBLINGS, parts.POINTS):  # points last, as they keep the stamps of the others
        if data := [of_part[table] for of_part in files if table in of_part]:
            stamps = parts.sizes_and_checksums(merged) if table == parts.POINTS else None
            merged[table] = parts.part_file(parquet.merge(data, stamps))
    wide = parts.write_part(run, (group[0].first, max(part.last for part in group)), merged, check)
    run.delete(
        *(f"{table}/{part.file}" for table in layout.files for part in group if part.file in layout.files[table])
    )
    return wide
