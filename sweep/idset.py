"""A set of point ids for millions of them: 10 bytes an id, asked and filled by whole arrays.

An id is 20 hex digits: its first 16 as a sorted uint64, the last 4 beside it, so that membership is exact. Arrays of
falling sizes, each merged into the one before it once it is half as large: adding stays cheap however it is done.
"""

import numpy as np
from numpy.typing import NDArray

from sweep.errors import SweepFault

_VALUE = np.full(256, 255, np.uint8)
_VALUE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class IdSet:
    """Ids come as uint8[n, 20], the characters (tables.id_bytes makes them)."""

    def __init__(self) -> None:
        self._levels: list[tuple[NDArray[np.uint64], NDArray[np.uint16]]] = []

    def __len__(self) -> int:
        return sum(len(head) for head, _ in self._levels)

    def add(self, ids: NDArray[np.uint8]) -> None:
        """Add ids that are not in the set; the caller has asked."""
        level = _split(ids)
        if not len(level[0]):
            return
        while self._levels and len(self._levels[-1][0]) <= 2 * len(level[0]):
            head, tail = self._levels.pop()
            level = np.concatenate([head, level[0]]), np.concatenate([tail, level[1]])
        order = np.argsort(level[0], kind="stable")
        self._levels.append((level[0][order], level[1][order]))

    def has(self, ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """bool[n], true where the set has the id."""
        head, tail = _split(ids)
        found = np.zeros(len(head), bool)
        for heads, tails in self._levels:
            place = np.searchsorted(heads, head)
            open_ = np.arange(len(head))
            while len(open_):  # once, but for ids that share their first 16 digits
                inside = place[open_] < len(heads)
                open_ = open_[inside]
                open_ = open_[heads[place[open_]] == head[open_]]
                found[open_] |= tails[place[open_]] == tail[open_]
                place[open_] += 1
        return found


def _split(ids: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    """The first 16 digits as a number, and the last 4."""
    digits = _VALUE[ids]
    if (digits == 255).any():
        raise SweepFault("a point id that is not 20 hex digits")
    packed = (digits[:, 0::2] << 4) | digits[:, 1::2]
    head = np.ascontiguousarray(packed[:, :8]).view(">u8").reshape(-1)
    tail = np.ascontiguousarray(packed[:, 8:]).view(">u2").reshape(-1)
    return head.astype(np.uint64), tail.astype(np.uint16)
