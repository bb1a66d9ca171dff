"""Points that several sections measure."""

from typing import Any

import numpy as np

from engine.model.arch import GIB, KIB, MIB, TIB
from engine.model.scenario import FIELD, Columns, Scenario, columns_of, complete

RANDOM = FIELD["order"].choices.index("random")
VIRT, RES = 55 * TIB, 590 * GIB
TABLE = 2 * MIB


def large(quick: bool = False, **fields: Any) -> Columns:
    """Return the server process, VIRT 55t and RES 590g, or if `quick` a 512th of it."""
    part = 512 if quick else 1
    return columns_of([Scenario(**({"virt": VIRT // part, "res": RES // part} | fields))])


def tables_of(columns: Columns) -> int:
    """Return the number of slots in the address spaces, on x86-64."""
    return int((-(-columns["virt"] // TABLE)).sum())


def small(count: int, partial: bool = False) -> Columns:
    """Return `count` points of 1 GiB: ten sparsities, five coverages; `partial`: 64 KiB calls, four rounds."""
    row = np.arange(count)
    given = {
        "virt": np.full(count, GIB),
        "sparsity": (90 + row % 10) / 100,
        "coverage": (5 + row // 10 % 5) / 10,
        "seed": row,
    }
    if partial:
        given |= {"zap": np.full(count, 64 * KIB), "rounds": np.full(count, 4), "order": np.full(count, RANDOM)}
    return complete(given, count)
