"""Operations on a table's entries as bits: words are uint64[W], entry e is bit e % 64 of word e // 64."""

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
    """Bits set in a uint64, as int64."""
    return types.int64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def first_set(_: Any, x: Any) -> Any:
    """Place of the lowest set bit of a uint64 (64 if none), as int64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), code


@intrinsic
def leading(_: Any, x: Any) -> Any:
    """Zero bits above the highest set bit of a uint64 (64 if none), as int64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctlz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), code


@inner
def last_set(x: Any) -> Any:
    """Place of the highest set bit of a uint64 (-1 if none)."""
    return 63 - leading(x)


@inner
def window(word: Any, first: Any, end: Any) -> Any:
    """Bits of word number `word` that lie in entries [first, end), which must meet it."""
    lo = max(first - word * 64, 0)
    hi = min(end - word * 64, 64)
    mask = ONES << np.uint64(lo)
    if hi < 64:
        mask &= (ONE << np.uint64(hi)) - ONE
    return mask


@inner
def survey(words: Any, first: Any, end: Any) -> tuple[Any, Any, Any]:
    """(how many, first, last) entries set in [first, end); (0, -1, -1) if none."""
    count, lo, hi = 0, -1, -1
    if end <= first:
        return count, lo, hi
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = words[w] & window(w, first, end)
        if x != ZERO:
            count += popcount(x)
            if lo < 0:
                lo = w * 64 + first_set(x)
            hi = w * 64 + last_set(x)
    return count, lo, hi


@inner
def nth(words: Any, first: Any, end: Any, n: Any) -> Any:
    """The n-th (from 1) entry set in [first, end), which must have that many."""
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = words[w] & window(w, first, end)
        have = popcount(x)
        if have < n:
            n -= have
            continue
        for _ in range(n - 1):
            x &= x - ONE
        return w * 64 + first_set(x)
    return -1


@inner
def fill(words: Any, first: Any, end: Any) -> None:
    """Set the entries [first, end)."""
    if end > first:
        for w in range(first >> 6, ((end - 1) >> 6) + 1):
            words[w] |= window(w, first, end)


@inner
def clear(words: Any, first: Any, end: Any) -> None:
    """Clear the entries [first, end)."""
    if end > first:
        for w in range(first >> 6, ((end - 1) >> 6) + 1):
            words[w] &= ~window(w, first, end)
