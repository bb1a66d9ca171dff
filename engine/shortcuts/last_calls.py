"""Which of a table's calls comes last, in the order of a round: it frees the table, and later ones do not meet it."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO, first_set
from engine.numeric.jit import inner
from engine.random.splitmix import call_key
from engine.shortcuts.spans import span_of_part


@inner
def last_calls(cleared: Any, zap: Any, by_key: Any, keys: Any, has: Any, best: Any, last: Any) -> None:
    """Of each table the last call in order that cleared something (last: uint16[n], 0 if none), best: its key."""
    lane = (ONE << np.uint64(zap & 63)) - ONE if zap < 64 else ~ZERO
    best[:], last[:] = 0, 0
    for p in range(keys.shape[0]):
        has[:] = 0
        for v in range(p * zap >> 6, ((p + 1) * zap + 63) >> 6):
            row, bits = cleared[v], lane << np.uint64((p * zap) & 63)
            for i in range(has.size):
                has[i] |= np.uint16((row[i] & bits) != ZERO)
        number = np.uint16(p)
        if by_key:
            key_row = keys[p]
            for i in range(has.size):
                x, high, at = key_row[i], best[i], last[i]
                later = (has[i] != 0) & (x >= high)
                best[i] = x if later else high
                last[i] = number if later else at
        else:
            for i in range(has.size):
                last[i] = number if has[i] != 0 else last[i]


@inner
def count_late(keys: Any, made: Any, by_key: Any, best: Any, last: Any, late: Any, equal: Any) -> None:
    """Of each table the calls made after the last that cleared something; equal: those with its upper 16 bits."""
    late[:], equal[:] = 0, 0
    for p in range(made.shape[0]):
        key_row, row = keys[p], made[p]
        if by_key:
            for i in range(late.size):
                late[i] += row[i] if key_row[i] > best[i] else np.uint16(0)
                equal[i] += row[i] if key_row[i] == best[i] else np.uint16(0)
        else:
            for i in range(late.size):
                late[i] += row[i] if last[i] < p else np.uint16(0)


@inner
def last_made(keys: Any, best: Any, last: Any, equal: Any) -> None:
    """Of each table the call with the highest key, and how many share its upper 16 bits."""
    best[:], last[:], equal[:] = 0, 0, 0
    for p in range(keys.shape[0]):
        row, number = keys[p], np.uint16(p)
        for i in range(best.size):
            x, high, at, same = row[i], best[i], last[i], equal[i]
            best[i] = max(x, high)
            last[i] = number if x >= high else at
            equal[i] = np.uint16(1) if x > high else np.uint16(same + (x == high))


@inner
def last_of(cleared: Any, i: Any, zap: Any, by_key: Any, keys: Any, made: Any) -> tuple[Any, Any, Any]:
    """The same of table i alone: (last call that cleared something, calls made after it, those with its upper bits)."""
    part, best = 0, np.uint16(0)
    for v in range(cleared.shape[0]):
        x = cleared[v, i]
        while x != ZERO:
            p = (v * 64 + first_set(x)) // zap
            if by_key:
                part = p if keys[p, i] >= best else part
                best = max(best, keys[p, i])
            else:
                part = p
            end = (p + 1) * zap - v * 64
            x = ZERO if end >= 64 else (x >> np.uint64(end)) << np.uint64(end)
    late: Any = 0
    same: Any = 0
    for p in range(made.shape[0]):
        if by_key:
            late += made[p, i] if keys[p, i] > best else np.uint16(0)
            same += made[p, i] if keys[p, i] == best else np.uint16(0)
        else:
            late += made[p, i] if p > part else np.uint16(0)
    return part, late, same


@inner
def last_by_full_key(
    cleared: Any, i: Any, zap: Any, made: Any, stream: Any, low: Any, first: Any, any_call: Any
) -> tuple[Any, Any]:
    """(the last made call in order that cleared something, or of any_call the last made; made calls after it)."""
    parts = made.shape[0]
    best, best_key = -1, ZERO
    for p in range(parts):
        if made[p, i] and (any_call or span_of_part(cleared, i, p, zap)[1] >= 0):
            full = call_key(stream, low, first + p)
            if best < 0 or full >= best_key:
                best, best_key = p, full
    late = 0
    for p in range(parts):
        full = call_key(stream, low, first + p)
        late += made[p, i] != 0 and (full > best_key or (full == best_key and p > best))
    return best, late
