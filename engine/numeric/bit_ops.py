"""Operations on sets of a table's entries, for compiled code.

A set is uint64[W] (`words`). Entry e is bit e % 64 of word e // 64.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from engine.numeric.jit import inner

ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
ZERO = np.uint64(0)
ONE = np.uint64(1)


@intrinsic
def popcount(_: Any, x: Any) -> Any:
    """Return the number of set bits of a uint64, as int64."""
    return types.int64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def first_set(_: Any, x: Any) -> Any:
    """Return the index of the lowest set bit of a uint64, or 64 if it is 0, as int64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), code


@intrinsic
def leading_zeros(_: Any, x: Any) -> Any:
    """Return the number of zero bits above the highest set bit of a uint64, or 64 if it is 0, as int64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctlz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), code


@inner
def last_set(x: Any) -> Any:
    """Return the index of the highest set bit of a uint64, or -1 if it is 0."""
    return 63 - leading_zeros(x)


@inner
def word_mask(word: Any, first: Any, end: Any) -> Any:
    """Return the mask of entries [first, end) in word number `word`. At least one of them must be in that word."""
    lo = max(first - word * 64, 0)
    hi = min(end - word * 64, 64)
    mask = ONES << np.uint64(lo)
    if hi < 64:
        mask &= (ONE << np.uint64(hi)) - ONE
    return mask


@inner
def count_and_ends(words: Any, first: Any, end: Any) -> tuple[Any, Any, Any]:
    """Return (number, first, last) of the entries of the set in [first, end), or (0, -1, -1) if there are none."""
    count, lo, hi = 0, -1, -1
    if end <= first:
        return count, lo, hi
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = words[w] & word_mask(w, first, end)
        if x != ZERO:
            count += popcount(x)
            if lo < 0:
                lo = w * 64 + first_set(x)
            hi = w * 64 + last_set(x)
    return count, lo, hi


@inner
def nth_set(words: Any, first: Any, end: Any, n: Any) -> Any:
    """Return the n-th entry (n >= 1) of the set in [first, end), or -1 if there are fewer."""
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = words[w] & word_mask(w, first, end)
        have = popcount(x)
        if have < n:
            n -= have
            continue
        for _ in range(n - 1):
            x &= x - ONE
        return w * 64 + first_set(x)
    return -1


@inner
def fill_range(words: Any, first: Any, end: Any) -> None:
    """Add the entries [first, end) to the set. Writes `words`."""
    if end > first:
        for w in range(first >> 6, ((end - 1) >> 6) + 1):
            words[w] |= word_mask(w, first, end)


@inner
def clear_range(words: Any, first: Any, end: Any) -> None:
    """Remove the entries [first, end) from the set. Writes `words`."""
    if end > first:
        for w in range(first >> 6, ((end - 1) >> 6) + 1):
            words[w] &= ~word_mask(w, first, end)


@inner
def add_set(words: Any, others: Any) -> Any:
    """Add the entries of the set `others`. Writes `words`; returns how many were not in it before."""
    count = np.int64(0)
    for w in range(words.size):
        count += popcount(others[w] & ~words[w])
        words[w] |= others[w]
    return count


@inner
def first_of(words: Any) -> Any:
    """Return the first entry of a set that is not empty."""
    w = 0
    while words[w] == ZERO:
        w += 1
    return np.int64(w * 64 + first_set(words[w]))
