"""A set of point ids for millions of them: 10 bytes an id, asked and filled by whole arrays.

An id is 20 hex digits: its first 16 as a sorted uint64, the last 4 beside it, so that membership is exact. Arrays of
falling sizes, each merged into the one before it once it is half as large: adding stays cheap however it is done.
"""

from binascii import unhexlify
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.common.errors import SweepFault
from sweep.grid.point_id import ID_BYTES, PointIds
from sweep.store import arrow_tables


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Ids in their order, equal ones as they were given. uint64[n] and uint16[n]; `order`, int64[n]: where each was."""

    head: NDArray[np.uint64]
    tail: NDArray[np.uint16]
    order: NDArray[np.intp]

    def first(self) -> NDArray[np.bool_]:
        """bool[n], as they were given: true for the first of equal ids."""
        new = np.ones(len(self.head), bool)
        new[1:] = (self.head[1:] != self.head[:-1]) | (self.tail[1:] != self.tail[:-1])
        return self.as_given(new)

    def where(self, wanted: NDArray[np.bool_]) -> "Keys":
        """Those for which bool[n], as they were given, is true."""
        if wanted.all():
            return self
        here = wanted[self.order]
        places = np.cumsum(wanted) - 1
        return Keys(self.head[here], self.tail[here], places[self.order[here]])

    def as_given(self, answers: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool[n] in the order of ids, in the order in which they were given."""
        given = np.empty(len(answers), bool)
        given[self.order] = answers
        return given


def keys(ids: Any) -> Keys:
    """Of Ids, or of text in a list or an Arrow array. SweepFault if one is none."""
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
    return Keys(head[order], tail[order], order)


def _characters(ids: PointIds) -> NDArray[np.uint8]:
    return np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), 2 * ID_BYTES)


class IdSet:
    def __init__(self) -> None:
        self._levels: list[tuple[NDArray[np.uint64], NDArray[np.uint16]]] = []

    def __len__(self) -> int:
        return sum(len(head) for head, _ in self._levels)

    def add(self, ids: Keys) -> None:
        """Add ids that are not in the set; the caller has asked."""
        head, tail = ids.head, ids.tail
        if not len(head):
            return
        while self._levels and len(self._levels[-1][0]) <= 2 * len(head):
            before, beside = self._levels.pop()
            head, tail = np.concatenate([before, head]), np.concatenate([beside, tail])
            order = np.argsort(head, kind="stable")  # which is quick where sorted pieces are merged
            head, tail = head[order], tail[order]
        self._levels.append((head, tail))

    def has(self, ids: Keys) -> NDArray[np.bool_]:
        """bool[n], as they were given, true where the set has the id."""
        found = np.zeros(len(ids.head), bool)
        for heads, tails in self._levels:
            place = np.searchsorted(heads, ids.head)
            open_ = np.arange(len(ids.head))
            while len(open_):  # once, but for ids that share their first 16 digits
                inside = place[open_] < len(heads)
                open_ = open_[inside]
                open_ = open_[heads[place[open_]] == ids.head[open_]]
                found[open_] |= tails[place[open_]] == ids.tail[open_]
                place[open_] += 1
        return ids.as_given(found)
