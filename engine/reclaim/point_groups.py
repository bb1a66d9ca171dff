"""Groups of points that differ only in the seed: their parameters are worked out once."""

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns
from engine.random.splitmix import GOLDEN


def groups_of(columns: Columns) -> tuple[Columns, NDArray[np.int64]]:
    """The columns of one point of each group, and the number of each point's group, int64[n]."""
    rows = len(columns["seed"])
    bits = [values.view(np.uint64) for name, values in columns.items() if name != "seed"]
    varied = [values for values in bits if (values != values[:1]).any()]
    hashes = np.zeros(rows, np.uint64)
    for values in varied:
        hashes = (hashes ^ values) * GOLDEN
        hashes ^= hashes >> np.uint64(29)
    new = np.ones(rows, bool)
    new[1:] = hashes[1:] != hashes[:-1]
    runs = np.flatnonzero(new)  # a grid's repeats follow each other
    _, first, which = np.unique(hashes[runs], return_index=True, return_inverse=True)
    first, which = runs[first], np.repeat(which, np.diff(np.append(runs, rows)))
    if any((values[first][which] != values).any() for values in varied):  # two groups have the same hash
        first = which = np.arange(rows)
    return {name: values[first] for name, values in columns.items()}, which.astype(np.int64)
