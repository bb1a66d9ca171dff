"""Whole numbers from a CDF: 64 random bits decide, of which 16 are mostly enough (docs/method.md, section 2)."""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.random.binomial import CELLS, INSIDE_BITS, SEVERAL_INSIDE
from engine.random.splitmix import S16, S48, draw, field


@inner
def quantile(cdfs: Any, row: Any, high: Any, low: Any, index: Any) -> Any:
    """The value of a row (engine.random.inverse_cdf.Cdfs) for the index-th bits of streams high and low."""
    return quantile_of(field(high, index), cdfs, row, low, index)


@inner
def quantile_of(upper: Any, cdfs: Any, row: Any, low: Any, index: Any) -> Any:
    """The same with the upper 16 bits at hand; the 48 lower ones are drawn only where these do not decide."""
    cell = np.int64(cdfs.cells[row * CELLS + np.int64(upper >> np.uint64(INSIDE_BITS))])
    inside, mark = np.int64(upper) & ((1 << INSIDE_BITS) - 1), cell & 0xFF
    value = (cell >> 8) + (inside > mark)
    if inside != mark and mark != SEVERAL_INSIDE:
        return value
    u = upper << S48 | draw(low, index) >> S16
    begin, least = cdfs.begins[row], cdfs.lows[row]
    if mark != SEVERAL_INSIDE:  # one limit in question
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
