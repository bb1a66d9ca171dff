"""Probabilities of single events as 64-bit integers, equal on every platform, and the constants of CDF cells."""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NEVER, MAYBE, ALWAYS = 0, 1, 2
FULL = 1 << 64
CELL_BITS, INSIDE_BITS = 12, 4
CELLS = 1 << CELL_BITS
NONE_INSIDE, SEVERAL_INSIDE = 64, 128
"""Cells of a CDF (engine.random.inverse_cdf.Cdf). The leading CELL_BITS of a number select its cell.

The mark of a cell is the next INSIDE_BITS of the only limit inside it, or NONE_INSIDE or SEVERAL_INSIDE.
"""


def limit(p: Fraction) -> tuple[int, int]:
    """Return (NEVER, MAYBE or ALWAYS; floor(p x 2^64), at most 2^64 - 1) for an event of probability p.

    With MAYBE, the event happens if 64 random bits are below the second value.
    """
    if p >= 1:
        return ALWAYS, FULL - 1
    value = p.numerator * FULL // p.denominator
    return (MAYBE, value) if value else (NEVER, 0)


PMD_HELD_SHARE = Fraction(1, 16)
"""Share of a visit during which the PMD lock is held. A guess: 50 ns of 713 ns (docs/method.md, section 6)."""


@lru_cache(maxsize=1)
def trylock_limits() -> NDArray[np.uint64]:
    """Return the 64-bit limits of the probability that a trylock fails, uint64[701].

    Index m: number of threads that try the lock of one PMD table in one step. Use index 700 for larger m.
    """
    held, whole = PMD_HELD_SHARE.numerator, PMD_HELD_SHARE.denominator
    limits, free, of = [0], 1, 1  # (1 - held / whole) ^ (m - 1) = free / of
    for _ in range(700):
        limits.append((of - free) * FULL // of)
        free, of = free * (whole - held), of * whole
    return np.array(limits, np.uint64)
