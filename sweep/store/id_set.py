"""IdSet: a set of millions of point ids, 10 bytes each, filled and queried with whole arrays.

An id is 20 hex digits: its first 16 are a uint64 by which the set is sorted, the last 4 a uint16 beside it.
"""

from binascii import unhexlify
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.common.errors import SweepFault
from sweep.grid.point_id import ID_BYTES, PointIds
from sweep.tables import arrow_tables


@dataclass(frozen=True, slots=True, eq=False)
class SortedIds:
    """Sorted ids; equal ones in the order of the input.

    head: uint64[n], the first 16 digits. tail: uint16[n], the last 4. order: int64[n], index of each in the input.
    """

    head: NDArray[np.uint64]
    tail: NDArray[np.uint16]
    order: NDArray[np.intp]

    def is_first(self) -> NDArray[np.bool_]:
        """bool[n] in the order of the input: true for the first of equal ids."""
        new = np.ones(len(self.head), bool)
        new[1:] = (self.head[1:] != self.head[:-1]) | (self.tail[1:] != self.tail[:-1])
        return self.in_input_order(new)

    def select(self, wanted: NDArray[np.bool_]) -> "SortedIds":
        """The ids for which `wanted`, bool[n] in the order of the input, is true."""
        if wanted.all():
            return self
        selected = wanted[self.order]
        new_index = np.cumsum(wanted) - 1
        return SortedIds(self.head[selected], self.tail[selected], new_index[self.order[selected]])

    def in_input_order(self, answers: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Reorder `answers`, bool[n] in sorted order, to the order of the input."""
        reordered = np.empty(len(answers), bool)
        reordered[self.order] = answers
        return reordered


def sort_ids(ids: Any) -> SortedIds:
    """Sort point ids: PointIds, or strings in a list or an Arrow array. SweepFault if one is not a point id."""
    characters = _characters(ids) if isinstance(ids, np.ndarray) else arrow_tables.id_bytes(ids)
    try:
        packed = np.frombuffer(unhexlify(characters.tobytes()), np.uint8).reshape(-1, 10)
    except ValueError as error:
        raise SweepFault("a point id that is not 20 hex digits") from error
    if (characters & 0x60 == 0x40).any():
        raise SweepFault("a point id with capital letters")
    head = np.ascontiguousarray(packed[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    tail = np.ascontiguousarray(packed[:, 8:]).view(">u2").reshape(-1).astype(np.uint16)
    order = np.argsort(head)
    if (head[order[1:]] == head[order[:-1]]).any():
        order = np.lexsort((tail, head))
    return SortedIds(head[order], tail[order], order)


def _characters(ids: PointIds) -> NDArray[np.uint8]:
    return np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), 2 * ID_BYTES)


class IdSet:
    """A set of point ids: two arrays, sorted by `head`.

    Adding copies the set. In a launch of a million points, which adds some thousands at a time, that takes 0.2 s.
    """

    def __init__(self) -> None:
        self._head: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._tail: NDArray[np.uint16] = np.empty(0, np.uint16)

    def __len__(self) -> int:
        return len(self._head)

    def add(self, ids: SortedIds) -> None:
        """Add ids that are not in the set; the caller has checked that."""
        places = np.searchsorted(self._head, ids.head)
        self._head = np.insert(self._head, places, ids.head)
        self._tail = np.insert(self._tail, places, ids.tail)

    def has(self, ids: SortedIds) -> NDArray[np.bool_]:
        """bool[n] in the order of the input: whether the set has the id."""
        found = np.zeros(len(ids.head), bool)
        place = np.searchsorted(self._head, ids.head)
        candidates = np.arange(len(ids.head))
        while len(candidates):  # one pass, but for ids that share their first 16 digits with another
            candidates = candidates[place[candidates] < len(self._head)]
            candidates = candidates[self._head[place[candidates]] == ids.head[candidates]]
            found[candidates] |= self._tail[place[candidates]] == ids.tail[candidates]
            place[candidates] += 1
        return ids.in_input_order(found)
