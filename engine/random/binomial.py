"""Probabilities as integers, the same bits on every platform: limits of single events."""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NEVER, MAYBE, ALWAYS = 0, 1, 2
FULL = 1 << 64
CELL_BITS, INSIDE_BITS = 12, 4
CELLS = 1 << CELL_BITS
NONE_INSIDE, SEVERAL_INSIDE = 64, 128
"""A CDF's cells: 12 bits number them, 4 more tell where in one a limit lies; marks that no 4 bits are."""


def limit(p: Fraction) -> tuple[int, int]:
    """(NEVER, MAYBE or ALWAYS; floor(p x 2^64)): the event happens when 64 random bits are below it."""
    if p >= 1:
        return ALWAYS, FULL - 1
    value = p.numerator * FULL // p.denominator
    return (MAYBE, value) if value else (NEVER, 0)


PMD_HELD_SHARE = Fraction(1, 16)
"""A guess: the PMD lock is held for about 50 ns of a 713 ns visit (docs/method.md, section 6)."""


@lru_cache(maxsize=1)
def trylock_limits() -> NDArray[np.uint64]:
    """uint64[701]: limit at which one of m trylocks in one PMD table at one step fails; m above 700 as 700."""
    held, whole = PMD_HELD_SHARE.numerator, PMD_HELD_SHARE.denominator
    limits, free, of = [0], 1, 1  # (1 - held / whole) ^ (m - 1) = free / of
    for _ in range(700):
        limits.append((of - free) * FULL // of)
        free, of = free * (whole - held), of * whole
    return np.array(limits, np.uint64)
