"""Small parts become one: written beside them, then counted in their place by its name, then they are removed.

A kill at any moment leaves either the small ones or the wide one to count (parts.py); the next launch removes the rest.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sweep.store import checked_parts, parquet, parts
from sweep.store.parts import Part, PartFile
from sweep.store.storage import Storage

MOST_POINTS, MOST_BYTES = 65_536, 32 << 20
"""Of a part that is made."""
PART_POINTS, PART_BYTES = MOST_POINTS // 16, MOST_BYTES // 4
"""What has so many is not small: a fast sweep commits such parts, and they stay."""


@dataclass(frozen=True, slots=True)
class Size:
    """Rows of the points part, and bytes of all files."""

    points: int
    bytes: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.points + other.points, self.bytes + other.bytes)

    @property
    def share(self) -> float:
        """Of the largest part that is made."""
        return max(self.points / MOST_POINTS, self.bytes / MOST_BYTES)

    @property
    def big(self) -> bool:
        return self.points >= PART_POINTS or self.bytes >= PART_BYTES


def compact(run: Storage, sizes: Mapping[Part, Size], check: Callable[[], None]) -> dict[Part, Size]:
    """Merge what is small; `check` says, before each merge counts, that the run is still ours."""
    left = dict(sizes)
    for group in groups(sizes):
        wide = merge(run, group, check)
        left[wide] = sum((left.pop(part) for part in group), Size(0, 0))
    return left


def groups(sizes: Mapping[Part, Size]) -> Iterator[list[Part]]:
    """Neighbours that are small and make no more than a full part together."""
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
