"""PointChunk: points with their ids and columns, as the plan hands them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns
from sweep.grid.point_id import PointIds
from sweep.tables import arrow_tables


@dataclass(frozen=True, slots=True)
class PointChunk:
    """n points to run, in the grid's order.

    `ids`: S20[n]. `columns`: every scenario field, each of length n. `repeat`: int64[n], counted from 0. `derived`: the
    grid's derived columns, Arrow arrays of length n.
    """

    ids: PointIds
    columns: Columns
    repeat: NDArray[np.int64]
    derived: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> "PointChunk":
        """Points [start, stop). The arrays are views of this chunk's."""
        return PointChunk(
            self.ids[start:stop],
            {name: values[start:stop] for name, values in self.columns.items()},
            self.repeat[start:stop],
            {name: values[start:stop] for name, values in self.derived.items()},
        )

    def take(self, indexes: NDArray[np.intp]) -> "PointChunk":
        """A copy of the points at these indexes, in their order."""
        return PointChunk(
            self.ids[indexes],
            {name: values[indexes] for name, values in self.columns.items()},
            self.repeat[indexes],
            {name: values.take(indexes) for name, values in self.derived.items()},
        )

    @staticmethod
    def concat(chunks: "Sequence[PointChunk]") -> "PointChunk":
        """The points of all chunks, in order. A single chunk is returned as it is."""
        if len(chunks) == 1:
            return chunks[0]
        first = chunks[0]
        return PointChunk(
            np.concatenate([chunk.ids for chunk in chunks]),
            {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in first.columns},
            np.concatenate([chunk.repeat for chunk in chunks]),
            {name: arrow_tables.concat_arrays([chunk.derived[name] for chunk in chunks]) for name in first.derived},
        )
