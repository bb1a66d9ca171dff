"""Probabilities as integers: limits of single events, and binomial CDFs, the same bits on every platform."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NEVER, MAYBE, ALWAYS = 0, 1, 2
FULL = 1 << 64
GUIDE = 256
"""A CDF's guide says for each leading byte of u where to begin the search."""


def limit(p: Fraction) -> tuple[int, int]:
    """(NEVER, MAYBE or ALWAYS; floor(p x 2^64)): the event happens when 64 random bits are below it."""
    if p >= 1:
        return ALWAYS, FULL - 1
    value = p.numerator * FULL // p.denominator
    return (MAYBE, value) if value else (NEVER, 0)


@dataclass(frozen=True, slots=True)
class Cdf:
    """Of binomial(n, p). limits: uint64[n], floor(P(X <= j) x 2^64); guide: int64[256]."""

    limits: NDArray[np.uint64]
    guide: NDArray[np.int64]


@lru_cache(maxsize=4096)
def binomial(n: int, p: Fraction) -> Cdf:
    """The CDF in fixed point for 0 < p < 1: each limit is within 1 of the exact floor.

    Weights are built outwards from the mode in 192-bit integers, so neither tail underflows to a wrong value
    that 64 bits could see; 21 ms of exact rationals become about 0.3 ms.
    """
    a, b = p.numerator, p.denominator - p.numerator
    mode = min(n, (n + 1) * a // (a + b))
    weights = [0] * (n + 1)
    weights[mode] = 1 << 192
    for j in range(mode, n):
        weights[j + 1] = weights[j] * (n - j) * a // ((j + 1) * b)
        if not weights[j + 1]:
            break
    for j in range(mode, 0, -1):
        weights[j - 1] = weights[j] * j * b // ((n - j + 1) * a)
        if not weights[j - 1]:
            break
    total, running, limits = sum(weights), 0, []
    for weight in weights[:n]:
        running += weight
        limits.append(min(running * FULL // total, FULL - 1))
    array = np.array(limits, np.uint64)
    starts = np.arange(GUIDE, dtype=np.uint64) << np.uint64(56)
    return Cdf(array, np.searchsorted(array, starts, side="right").astype(np.int64))


PMD_HELD_SHARE = Fraction(1, 16)
"""A guess: the PMD lock is held for about 50 ns of a 713 ns visit (docs/method.md, section 6)."""


@lru_cache(maxsize=1)
def trylock_limits() -> NDArray[np.uint64]:
    """uint64[701]: limit at which one of m trylocks in one PMD table at one step fails; m above 700 as 700."""
    held = [(1 - (1 - PMD_HELD_SHARE) ** max(m - 1, 0)) for m in range(701)]
    return np.array([limit(p)[1] for p in held], np.uint64)
