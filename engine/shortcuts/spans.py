"""What a call that is part of a slot cleared: from which page to which, and its flush."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO, first_set, last_set, popcount
from engine.numeric.jit import inner
from engine.walk.tlb import FULL, RANGED, SENT


@inner
def spans_within_words(cleared: Any, zap: Any, down_row: Any) -> tuple[Any, Any]:
    """(calls that cleared something, pages from their first to their last) for calls below 64 pages, all of a block.

    In a call's lane of bits, what is set and what its negative has too are the bits from the lowest up; smearing finds
    those from the highest down. What is in both is the span. down_row: uint64[tables], scratch.
    """
    lowest = ZERO
    for bit in range(0, 64, zap):
        lowest |= ONE << np.uint64(bit)
    highest = lowest << np.uint64(zap - 1)
    some, pages = 0, 0
    for v in range(cleared.shape[0]):
        row = cleared[v]
        for i in range(row.size):
            down_row[i] = row[i]
        far = 1
        while far < zap:
            by, inside = np.uint64(far), ((ONE << np.uint64(zap - far)) - ONE) * lowest
            for i in range(row.size):
                down_row[i] |= (down_row[i] >> by) & inside
            far *= 2
        for i in range(row.size):
            x, down = row[i], down_row[i]
            negative = (highest - (x & ~highest)) ^ (~x & highest)
            some += popcount(down & lowest)
            pages += popcount((x | negative) & down)
    return some, pages


@inner
def span_of_part(cleared: Any, i: Any, part: Any, zap: Any) -> tuple[Any, Any]:
    """(first, last) page that a call cleared in table i, or (0, -1)."""
    if zap < 64:
        at = part * zap
        x = (cleared[at >> 6, i] >> np.uint64(at & 63)) & ((ONE << np.uint64(zap)) - ONE)
        if x == ZERO:
            return 0, -1
        return at + first_set(x), at + last_set(x)
    lo, hi = 0, -1
    for v in range(part * zap >> 6, (part + 1) * zap >> 6):
        x = cleared[v, i]
        if x != ZERO:
            if hi < 0:
                lo = v * 64 + first_set(x)
            hi = v * 64 + last_set(x)
    return lo, hi


@inner
def unflush(account: Any, lo: Any, hi: Any, ceiling: Any) -> None:
    """Take back the flush of pages [lo, hi]: it is counted anew with a table freed in the same call."""
    account[SENT] -= 1
    if hi + 1 - lo > ceiling:
        account[FULL] -= 1
    else:
        account[RANGED] -= hi + 1 - lo
