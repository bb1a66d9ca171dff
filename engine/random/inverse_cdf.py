"""Distributions of whole numbers as integers, the same bits on every platform."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.random import cdf_cells
from engine.random.binomial import CELLS, FULL, NONE_INSIDE


@dataclass(frozen=True)
class Cdf:
    """A distribution of whole numbers: the value for 64 random bits u is low + how many limits are not above u.

    limits: uint64[*], floor(P(X <= j) x 2^64) from j = low on, 0 for all below; cells: uint32[CELLS], for each leading
    12 bits of u the value below (<< 8) and where in the next 4 bits the one limit lies that is inside (or NONE_INSIDE,
    or SEVERAL_INSIDE), so that 16 bits of u mostly tell the value.
    """

    low: int
    limits: NDArray[np.uint64]
    cells: NDArray[np.uint32]

    @cached_property
    def most(self) -> int:
        """No u gives more, but for the last of all 2^64, which may give all there is."""
        return self.low + int(np.count_nonzero(self.limits < np.uint64(FULL - 1)))


class Cdfs(NamedTuple):
    """Many of them, a row each, as compiled code takes them.

    cells: uint32[rows x CELLS]; limits: uint64[*], those of row i from begins[i] to begins[i + 1];
    begins: int64[rows + 1], lows: int64[rows]
    """

    cells: NDArray[np.uint32]
    limits: NDArray[np.uint64]
    begins: NDArray[np.int64]
    lows: NDArray[np.int64]


def cdf_of(low: int, values: list[int]) -> Cdf:
    """From its limits, that of low first."""
    if not values:
        return Cdf(low, np.zeros(0, np.uint64), np.full(CELLS, low << 8 | NONE_INSIDE, np.uint32))
    return _filled(np.array([0] * low + values, np.uint64), LOW=low, COUNT=len(values))


@lru_cache(maxsize=1024)
def binomial(n: int, p: Fraction) -> Cdf:
    """How many of n extents are resident, for 0 < p < 1: each limit is within 1 of the exact floor.

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
    total = sum(weights)
    limits = [min(upto * FULL // total, FULL - 1) for upto in accumulate(weights[:n])]
    low = next((j for j, value in enumerate(limits) if value), n)
    return cdf_of(low, limits[low:])


@lru_cache(maxsize=1024)
def span(n: int, k: int) -> Cdf:
    """How far apart the first and the last of k of n extents lie (0 if k is 0), each limit within 1 of the exact floor.

    P(S <= s) = C(s, k - 1) x ((n - s) k + s - k + 1) / (k C(n, k)): k - 1 others within s places after the first, which
    n - s places can be; or all within the last s.
    """
    return cdf_of(0, []) if k < 2 else _filled(np.zeros(n, np.uint64), N=n, K=k)


def _filled(limits: NDArray[np.uint64], **given: int) -> Cdf:
    """A CDF filled in by compiled code. `given`: values of engine.random.cdf_cells' arguments by name."""
    asked, of_cells = np.zeros(cdf_cells.ASKED, np.int64), np.empty(CELLS, np.uint32)
    for name, value in given.items():
        asked[getattr(cdf_cells, name)] = value
    cdf_cells.fill_cdf(asked, limits, of_cells)
    low, count = int(asked[cdf_cells.LOW]), int(asked[cdf_cells.COUNT])
    return Cdf(low, limits[low : low + count].copy(), of_cells)


@lru_cache(maxsize=1)
def table(counts: tuple[tuple[int, Fraction], ...], ranges: tuple[tuple[int, int, int], ...]) -> Cdfs:
    """Rows of binomial(n, p), at least one row, then for each (n, least, most) of span(n, k) for k from least to most.

    Only the last one is kept: a row takes 16 KiB, and one table may have thousands.
    """
    table.cache_clear()  # not while the next is made either
    sizes = [max(len(counts), 1), *(most + 1 - least for _, least, most in ranges)]
    of_cells, lows = np.empty((sum(sizes), CELLS), np.uint32), np.empty(sum(sizes), np.int64)
    limits: list[NDArray[np.uint64]] = []
    rows = chain(
        (binomial(n, p) for n, p in counts) if counts else (cdf_of(0, []),),
        (span(n, k) for n, least, most in ranges for k in range(least, most + 1)),
    )
    for i, row in enumerate(rows):
        of_cells[i], lows[i] = row.cells, row.low
        limits.append(row.limits)
    begins = np.cumsum([0, *(len(some) for some in limits)])
    return Cdfs(of_cells.ravel(), np.concatenate(limits), begins.astype(np.int64), lows)
