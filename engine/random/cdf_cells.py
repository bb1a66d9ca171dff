"""Compiled code that computes the limits of span CDFs and the cells of any CDF (engine.random.inverse_cdf.Cdf).

It is compiled because a batch of different points needs hundreds of CDFs before its first point can run.
The slow twins are slow_span and slow_cells in tests/engine/random/test_inverse_cdf.py.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO
from engine.numeric.jit import inner, kernel
from engine.random.binomial import CELL_BITS, CELLS, INSIDE_BITS, NONE_INSIDE, SEVERAL_INSIDE

N, K, LOW, COUNT, ARGUMENTS = range(5)
"""Indexes of fill_cdf's integer arguments, and their number."""
S32, LOW_32 = np.uint64(32), np.uint64(0xFFFFFFFF)
CELL, INSIDE = np.uint64(64 - CELL_BITS), np.uint64(64 - CELL_BITS - INSIDE_BITS)
MOST_INSIDE = np.uint64((1 << INSIDE_BITS) - 1)


@kernel
def fill_cdf(arguments: Any, limits: Any, cells: Any) -> None:
    """Write the cells of a CDF into `cells`, uint32[CELLS].

    arguments: int64[ARGUMENTS]. LOW: the lowest value with a non-zero limit; COUNT: the number of limits from there on.
        If K is 2 or more, the CDF is that of the span of K of N extents (inverse_cdf.span): its limits are computed
        first, and LOW and COUNT are written.
    limits: uint64[*], the limit of each value; read, or written at [LOW, LOW + COUNT) if K is 2 or more
    """
    if arguments[K] > 1:
        fill_spans(arguments, limits)
    fill_cells(arguments[LOW], limits[arguments[LOW] : arguments[LOW] + arguments[COUNT]], cells)


@inner
def fill_spans(arguments: Any, limits: Any) -> None:
    """Write the limits of the span CDF into `limits`, and LOW and COUNT into `arguments`.

    P(S <= s) = C(s, k - 1) x ((n - s) k + s - k + 1) / (k C(n, k)), from s = n - 2 down to the last one above 2^-64.
    a3 to a0 are a 128-bit fraction C(s, k - 1) / (k C(n, k)) in digits of 32 bits, so that the product of a digit and
    a factor of up to 26 bits fits 64 bits.
    """
    n, k = arguments[N], arguments[K]
    by = np.uint64(n)
    rest = ONE << S32
    a3, rest = rest // by, rest % by
    a2, rest = (rest << S32) // by, (rest << S32) % by
    a1, rest = (rest << S32) // by, (rest << S32) % by
    a0 = (rest << S32) // by
    ways = np.uint64(n + k - 1)
    s = n - 2
    while s >= k - 1:
        by, more = np.uint64(s + 1), np.uint64(s + 2 - k)
        b0 = a0 * more
        b1 = a1 * more + (b0 >> S32)
        b2 = a2 * more + (b1 >> S32)
        b3 = a3 * more + (b2 >> S32)
        a3, rest = b3 // by, b3 % by
        part = rest << S32 | b2 & LOW_32
        a2, rest = part // by, part % by
        part = rest << S32 | b1 & LOW_32
        a1, rest = part // by, part % by
        a0 = (rest << S32 | b0 & LOW_32) // by
        b1 = a1 * ways + (a0 * ways >> S32)
        b2 = a2 * ways + (b1 >> S32)
        value = (a3 * ways + (b2 >> S32)) << S32 | b2 & LOW_32
        if value == ZERO:
            break
        limits[s] = value
        ways += np.uint64(k - 1)
        s -= 1
    arguments[LOW], arguments[COUNT] = s + 1, n - 2 - s


@inner
def fill_cells(low: Any, limits: Any, cells: Any) -> None:
    """Write a packed uint32 for each cell, a range of 2^CELL draws, to `cells`.

    Upper 24 bits: the value at the start of the cell, which is `low` plus the number of limits that are not above it.
    Lower 8 bits: whether a limit is inside the cell, and where (the marks of engine.random.binomial).
    """
    upto, below, count = 0, 0, limits.size
    for cell in range(CELLS):
        while upto < count and limits[upto] <= np.uint64(cell) << CELL:
            upto += 1
        while below < count and limits[below] >> CELL <= np.uint64(cell):
            below += 1
        mark: Any = NONE_INSIDE if below == upto else SEVERAL_INSIDE
        if below == upto + 1:
            mark = np.int64(limits[upto] >> INSIDE & MOST_INSIDE)
        cells[cell] = np.uint32((low + upto) << 8 | mark)
