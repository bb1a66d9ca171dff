"""Cumulative distribution functions (CDFs) of integers, as 64-bit integers that are equal on every platform."""

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
    """The CDF of an integer X >= 0. 64 random bits u select the value low + (number of limits that are not above u).

    low: the lowest value whose limit is not 0
    limits: uint64[*], floor(P(X <= j) x 2^64) for j = low, low + 1, ...
    cells: uint32[CELLS]. The cell of u's leading 12 bits holds the value at the cell's start << 8, and a mark: the next
        4 bits of the only limit inside the cell, or NONE_INSIDE or SEVERAL_INSIDE. With it, 16 bits of u usually
        determine the value.
    """

    low: int
    limits: NDArray[np.uint64]
    cells: NDArray[np.uint32]

    @cached_property
    def most(self) -> int:
        """The highest value that any u selects, except possibly u = 2^64 - 1, which selects the highest of all."""
        return self.low + int(np.count_nonzero(self.limits < np.uint64(FULL - 1)))


class Cdfs(NamedTuple):
    """Several CDFs, one per row, as arrays for compiled code.

    cells: uint32[rows x CELLS]
    limits: uint64[*], those of row i at [begins[i], begins[i + 1])
    begins: int64[rows + 1]; lows: int64[rows], Cdf.low of each row
    """

    cells: NDArray[np.uint32]
    limits: NDArray[np.uint64]
    begins: NDArray[np.int64]
    lows: NDArray[np.int64]


def cdf_of(low: int, values: list[int]) -> Cdf:
    """Return the Cdf with these limits, beginning with that of `low`. Without limits its only value is `low`."""
    if not values:
        return Cdf(low, np.zeros(0, np.uint64), np.full(CELLS, low << 8 | NONE_INSIDE, np.uint32))
    return _filled(np.array([0] * low + values, np.uint64), LOW=low, COUNT=len(values))


@lru_cache(maxsize=1024)
def binomial(n: int, p: Fraction) -> Cdf:
    """Return the CDF of the number of resident extents among n, each resident with probability p, 0 < p < 1.

    Each limit is within 1 of the exact floor. Weights are computed outwards from the mode in 192-bit integers, so the
    underflow of either tail is far below 64 bits. This takes about 0.3 ms; exact fractions take 21 ms.
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
    """Return the CDF of the distance between the first and the last of k of n extents (0 for k < 2).

    Each limit is within 1 of the exact floor. P(S <= s) = C(s, k - 1) x ((n - s) k + s - k + 1) / (k C(n, k)): either
    the first extent is at one of n - s positions, with k - 1 others among the s after it, or all are among the last s.
    """
    return cdf_of(0, []) if k < 2 else _filled(np.zeros(n, np.uint64), N=n, K=k)


def _filled(limits: NDArray[np.uint64], **given: int) -> Cdf:
    """Return the Cdf that cdf_cells.fill_cdf computes. `given`: its integer arguments by name; `limits` is written."""
    arguments, cells = np.zeros(cdf_cells.ARGUMENTS, np.int64), np.empty(CELLS, np.uint32)
    for name, value in given.items():
        arguments[getattr(cdf_cells, name)] = value
    cdf_cells.fill_cdf(arguments, limits, cells)
    low, count = int(arguments[cdf_cells.LOW]), int(arguments[cdf_cells.COUNT])
    return Cdf(low, limits[low : low + count].copy(), cells)


@lru_cache(maxsize=1)
def table(counts: tuple[tuple[int, Fraction], ...], ranges: tuple[tuple[int, int, int], ...]) -> Cdfs:
    """Return the CDFs that a batch needs, as rows.

    counts: (n, p) of the first rows, binomial(n, p); if empty, there is one row whose only value is 0
    ranges: (n, least, most) of the rows that follow, span(n, k) for each k from least to most (inclusive)

    Only one result is cached, because a row takes 16 KiB and a result may have thousands of rows.
    """
    table.cache_clear()  # frees the previous result before the next one is allocated
    sizes = [max(len(counts), 1), *(most + 1 - least for _, least, most in ranges)]
    cells, lows = np.empty((sum(sizes), CELLS), np.uint32), np.empty(sum(sizes), np.int64)
    limits: list[NDArray[np.uint64]] = []
    rows = chain(
        (binomial(n, p) for n, p in counts) if counts else (cdf_of(0, []),),
        (span(n, k) for n, least, most in ranges for k in range(least, most + 1)),
    )
    for i, row in enumerate(rows):
        cells[i], lows[i] = row.cells, row.low
        limits.append(row.limits)
    begins = np.cumsum([0, *(len(row_limits) for row_limits in limits)])
    return Cdfs(cells.ravel(), np.concatenate(limits), begins.astype(np.int64), lows)
