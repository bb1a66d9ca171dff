"""The order of the calls of a slot's aligned parts: by address, or by keys of which 16 bits mostly decide.

made, keys: uint16[parts], whether each part's call is made, and the upper 16 bits of its key; first_call: the number of
the first part's call, from which all 64 bits are drawn if need be.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ZERO, first_set, last_set
from engine.numeric.jit import inner
from engine.random.splitmix import OF_CALL, OF_CALL_LOW, call_key


@inner
def comes_later(streams: Any, one: Any, other: Any) -> Any:
    """Whether call `one` is after `other` in random order, by all 64 bits of their keys."""
    a = call_key(streams[OF_CALL], streams[OF_CALL_LOW], one)
    b = call_key(streams[OF_CALL], streams[OF_CALL_LOW], other)
    return a > b or (a == b and one > other)


@inner
def later_calls(made: Any, keys: Any, end: Any, piece: Any, is_random: Any, streams: Any, first_call: Any) -> Any:
    """How many of a slot's first `end` calls are made and come after that of `piece`.

    made, keys (upper 16 bits of call keys): uint16[parts]
    """
    count = np.uint16(0)
    if not is_random:
        for x in range(piece + 1, end):
            count = np.uint16(count + made[x])
        return np.int64(count)
    own, equal = keys[piece], np.uint16(0)
    for x in range(end):
        count = np.uint16(count + (made[x] if keys[x] > own else np.uint16(0)))
        equal = np.uint16(equal + (made[x] if keys[x] == own else np.uint16(0)))
    total = np.int64(count)
    if equal > (made[piece] if piece < end else 0):
        for x in range(end):
            if made[x] and keys[x] == own and x != piece:
                total += comes_later(streams, first_call + x, first_call + piece)
    return total


@inner
def last_call(keys: Any, parts: Any, is_random: Any, streams: Any, first_call: Any) -> Any:
    """The piece of the last call of a slot whose calls are all made."""
    if not is_random:
        return parts - 1
    best = np.int64(0)
    for x in range(1, parts):
        if keys[x] > keys[best] or (keys[x] == keys[best] and comes_later(streams, first_call + x, first_call + best)):
            best = np.int64(x)
    return best


@inner
def last_nonempty(cleared: Any, keys: Any, shift: Any, is_random: Any, streams: Any, first_call: Any) -> Any:
    """The piece of the last call that cleared an entry; cleared: uint64[words], at least one bit set."""
    if not is_random:
        w = cleared.size - 1
        while cleared[w] == ZERO:
            w -= 1
        return np.int64((w * 64 + last_set(cleared[w])) >> shift)
    best = np.int64(-1)
    for w in range(cleared.size):
        x = cleared[w]
        while x != ZERO:
            piece = np.int64((w * 64 + first_set(x)) >> shift)
            end = ((piece + 1) << shift) - w * 64
            x = (x >> np.uint64(end)) << np.uint64(end) if end < 64 else ZERO
            is_tie = best >= 0 and keys[piece] == keys[best]  # of the upper 16 bits
            if is_tie:
                is_later = comes_later(streams, first_call + piece, first_call + best)
            else:
                is_later = best < 0 or keys[piece] > keys[best]
            if is_later:
                best = piece
    return best
