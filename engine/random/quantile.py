"""Draws from a CDF in compiled code: 64 random bits, of which 16 usually decide (docs/method.md, section 2)."""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.random.binomial import CELLS, INSIDE_BITS, SEVERAL_INSIDE
from engine.random.splitmix import S16, S48, draw, field


@inner
def quantile(cdfs: Any, row: Any, high: Any, low: Any, index: Any) -> Any:
    """Return draw number `index` from row `row` of `cdfs` (engine.random.inverse_cdf.Cdfs).

    high, low: keys of the streams that supply the upper 16 and the lower 48 of the 64 random bits
    """
    return quantile_of(field(high, index), cdfs, row, low, index)


@inner
def quantile_of(upper: Any, cdfs: Any, row: Any, low: Any, index: Any) -> Any:
    """Return the value of a CDF for 64 random bits, given the upper 16 as a uint64.

    The lower 48 bits, number `index` of stream `low`, are drawn only if the upper ones do not decide.
    """
    cell = np.int64(cdfs.cells[row * CELLS + np.int64(upper >> np.uint64(INSIDE_BITS))])
    inside, mark = np.int64(upper) & ((1 << INSIDE_BITS) - 1), cell & 0xFF
    value = (cell >> 8) + (inside > mark)
    if inside != mark and mark != SEVERAL_INSIDE:
        return value
    u = upper << S48 | draw(low, index) >> S16
    begin, least = cdfs.begins[row], cdfs.lows[row]
    if mark != SEVERAL_INSIDE:  # only this limit can be above or below u
        return value + (cdfs.limits[begin + value - least] <= u)
    size = cdfs.begins[row + 1] - begin
    value = least
    while size > 0:
        half = size >> 1
        if cdfs.limits[begin + half] <= u:
            begin += half + 1
            value += half + 1
            size -= half + 1
        else:
            size = half
    return value
