"""Which calls meet a table, which of them are made, and in which order (docs/method.md, section 2)."""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.random.binomial import MAYBE, NEVER
from engine.random.splitmix import FIELD, LOW_48, OF_CALL, OF_CALL_LOW, S16, S48, draw


@inner
def calls_made(order: Any, keys: Any, par: Any, cover_limit: Any, streams: Any, begin: Any, end: Any) -> Any:
    """Write the calls in [begin, end) that are made to `order`, in their order; returns how many.

    Writes their keys to `keys` too if the order is random. 16 bits of a key mostly decide whether a call is made.
    """
    if par.cover == NEVER:
        return np.int64(0)
    count, hashed = np.int64(0), np.uint64(0)
    step, rest = np.uint64(cover_limit) >> S48, np.uint64(cover_limit) & LOW_48
    for c in range(begin, end):
        if par.cover == MAYBE or par.random:
            if c == begin or c & 3 == 0:  # four calls share a hash
                hashed = draw(streams[OF_CALL], c >> 2)
            upper = (hashed >> np.uint64(16 * (c & 3))) & FIELD
            if par.cover == MAYBE and (
                upper > step or (upper == step and draw(streams[OF_CALL_LOW], c) >> S16 >= rest)
            ):
                continue
            if par.random:
                keys[count] = upper << S48 | draw(streams[OF_CALL_LOW], c) >> S16
        order[count] = c
        count += 1
    if par.random and count > 1:
        sort_calls(order, keys, count)
    return count


@inner
def sort_calls(order: Any, keys: Any, count: Any) -> None:
    """Sort the first `count` calls by key, then number (Shell's sort: there are only a few)."""
    gap = count >> 1
    while gap > 0:
        for x in range(gap, count):
            k, c, y = keys[x], order[x], x
            while y >= gap and (keys[y - gap] > k or (keys[y - gap] == k and order[y - gap] > c)):
                keys[y], order[y] = keys[y - gap], order[y - gap]
                y -= gap
            keys[y], order[y] = k, c
        gap >>= 1
