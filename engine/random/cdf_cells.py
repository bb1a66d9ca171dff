"""CDFs by compiled code: of spans, and the cells of any. Mixed points need hundreds of them before the first is run.

The slow twins are in tests/engine/test_chance.py.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO
from engine.numeric.jit import inner, kernel
from engine.random.binomial import CELL_BITS, CELLS, INSIDE_BITS, NONE_INSIDE, SEVERAL_INSIDE

N, K, LOW, COUNT, ASKED = range(5)
S32, LOW_32 = np.uint64(32), np.uint64(0xFFFFFFFF)
CELL, INSIDE = np.uint64(64 - CELL_BITS), np.uint64(64 - CELL_BITS - INSIDE_BITS)
MOST_INSIDE = np.uint64((1 << INSIDE_BITS) - 1)


@kernel
def fill_cdf(asked: Any, limits: Any, cells: Any) -> None:
    """Cells of a CDF whose limits, asked[COUNT] of them from value asked[LOW] on, begin at limits[asked[LOW]].

    If asked[K] is 2 or more, these are made first: those of the span of asked[K] of asked[N] extents (inverse_cdf.py).
    asked: int64[ASKED]; limits: uint64[*]; cells: uint32[CELLS]
    """
    if asked[K] > 1:
        fill_spans(asked, limits)
    fill_cells(asked[LOW], limits[asked[LOW] : asked[LOW] + asked[COUNT]], cells)


@inner
def fill_spans(asked: Any, limits: Any) -> None:
    """P(S <= s) = C(s, k - 1) x ((n - s) k + s - k + 1) / (k C(n, k)), from s = n - 2 down to where it is below 2^-64.

    a3 to a0 are 128 bits of C(s, k - 1) / (k C(n, k)), 32 each: a product of 32 and 26 bits fits 64.
    """
    n, k = asked[N], asked[K]
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
    asked[LOW], asked[COUNT] = s + 1, n - 2 - s


@inner
def fill_cells(low: Any, limits: Any, cells: Any) -> None:
    """Of each cell how many limits lie up to its beginning, and where in it the one lies that is inside."""
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
