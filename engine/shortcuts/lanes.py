"""Calls of 16 pages (64 KiB), four to a word of a table: a call's pages are 16 bits, as are the upper bits of its key.

Four calls share a hash. So the hashes of a block are laid out as its pages are, one word of every table after the
other, and whole rows of 16 bits tell which calls are made, what they clear, which of them is the last.
All of keys, made, cleared, present: uint64[8, tables]; made holds all pages of the calls that are made.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ONES, ZERO, first_set, popcount, window
from engine.numeric.jit import inner
from engine.random.splitmix import FIELD, LOW_48, S16, S32, S48, draw
from engine.shortcuts.residency_blocks import draws

PAGES, CALLS, WORDS = 16, 32, 8
"""Of a call; of a table, and its words."""
LANES = 4
FULL, NONE = np.uint16(0xFFFF), np.uint16(0)
LOWEST, HIGHEST = np.uint64(0x0001000100010001), np.uint64(0x8000800080008000)
"""Bits of the four lanes of a word."""
NUMBERS = np.uint64(0x0003000200010000)
PAIR, EVERY_OTHER = np.uint64(0x0000000100000001), np.uint64(0x0000FFFF0000FFFF)
SCRATCH = 4
"""Rows of words that lane_last needs."""


@inner
def lane_keys(stream: Any, first: Any, keys: Any) -> None:
    """The upper 16 bits of each call's key; first: the block's first call, a multiple of 4."""
    for v in range(WORDS):
        draws(stream, (first >> 2) + v, WORDS, keys[v])


@inner
def lane_made(keys: Any, limit: Any, stream_low: Any, first: Any, made: Any) -> None:
    """The calls whose key is below the limit."""
    step = np.uint16(limit >> S48)
    steps = (limit >> S48) * LOWEST
    for v in range(WORDS):
        row, out = keys[v], made[v].view(np.uint16)
        upper = row.view(np.uint16)
        for j in range(out.size):
            out[j] = FULL if upper[j] < step else NONE
        unsure = ZERO
        for i in range(row.size):
            x = row[i] ^ steps  # a lane is zero if the lower bits decide
            unsure |= (x - LOWEST) & ~x & HIGHEST
        if unsure != ZERO:
            for i in range(row.size):
                x = row[i] ^ steps
                if (x - LOWEST) & ~x & HIGHEST != ZERO:
                    for j in range(i * LANES, i * LANES + LANES):
                        if upper[j] == step:
                            call = first + i * CALLS + v * LANES + (j & 3)
                            out[j] = FULL if draw(stream_low, call) >> S16 < limit & LOW_48 else NONE


@inner
def lane_unmake(made: Any, i: Any, pages: Any) -> None:
    """No call is made of the first so many pages of table i."""
    for v in range(min((pages + 63) >> 6, WORDS)):
        made[v, i] &= ~window(v, 0, pages)


@inner
def lane_clear(present: Any, made: Any, cleared: Any) -> None:
    """Move what the calls clear from present to cleared."""
    for v in range(WORDS):
        row, calls, out = present[v], made[v], cleared[v]
        for i in range(row.size):
            out[i] = row[i] & calls[i]
        for i in range(row.size):
            row[i] ^= out[i]


@inner
def lane_count(made: Any, pages: Any, n_made: Any) -> None:
    """Calls made of each table: uint16[tables]; pages: int64[tables], scratch."""
    pages[:] = 0
    for v in range(WORDS):
        row = made[v]
        for i in range(pages.size):
            pages[i] += popcount(row[i])
    for i in range(pages.size):
        n_made[i] = pages[i] >> 4


@inner
def lane_spans(cleared: Any, span: Any) -> tuple[Any, Any]:
    """engine.shortcuts.spans.spans_within_words; span: uint64[tables], scratch."""
    some, pages, out = np.int64(0), 0, span.view(np.uint16)
    for v in range(WORDS):
        row = cleared[v].view(np.uint16)
        calls = NONE
        for j in range(out.size):
            x = row[j]
            down = np.uint16(x | (x >> np.uint16(1)))
            down = np.uint16(down | (down >> np.uint16(2)))
            down = np.uint16(down | (down >> np.uint16(4)))
            down = np.uint16(down | (down >> np.uint16(8)))
            out[j] = down & np.uint16(x | np.uint16(NONE - x))
            calls = np.uint16(calls + (x != NONE))
        some += np.int64(calls)
        for i in range(span.size):
            pages += popcount(span[i])
    return some, pages


@inner
def highest_lane(lanes: Any) -> None:
    """The highest of each word's four lanes in place of all of them; uint64[tables]."""
    for i in range(lanes.size):
        x = lanes[i]
        low, high = max(x & FIELD, (x >> S16) & FIELD), max((x >> S32) & FIELD, x >> S48)
        lanes[i] = max(low, high) * LOWEST


@inner
def add_lanes(lanes: Any, out: Any) -> None:
    """The sum of each word's four lanes: uint16[tables]; lanes: uint64[tables] is left with others."""
    for i in range(lanes.size):
        x = lanes[i] + (lanes[i] >> S32)
        lanes[i] = x + (x >> S16)
    for i in range(lanes.size):
        out[i] = np.uint16(lanes[i] & FIELD)


@inner
def lane_last(cleared: Any, by_key: Any, keys: Any, made: Any, scratch: Any, last: Any, late: Any, equal: Any) -> None:
    """engine.shortcuts.last_calls.last_calls and count_late, without the keys; scratch: uint64[SCRATCH, tables]."""
    scratch[:] = ZERO
    top, at, after, same = (
        scratch[0].view(np.uint16), scratch[1].view(np.uint16), scratch[2].view(np.uint16), scratch[3].view(np.uint16)
    )  # fmt: skip
    if by_key:
        for v in range(WORDS):
            row, upper = cleared[v].view(np.uint16), keys[v].view(np.uint16)
            for j in range(top.size):
                top[j] = max(top[j], upper[j] if row[j] != NONE else NONE)
        highest_lane(scratch[0])
    for v in range(WORDS):
        row, upper, number = cleared[v].view(np.uint16), keys[v].view(np.uint16), np.uint16(v + 1)
        if by_key:
            for j in range(at.size):
                at[j] = number if (row[j] != NONE) & (upper[j] == top[j]) else at[j]
        else:
            for j in range(at.size):
                at[j] = number if row[j] != NONE else at[j]
    numbered = scratch[1]
    for i in range(numbered.size):  # 4 x word + lane, from 4 on; of lanes that have none, less
        numbered[i] = (numbered[i] << np.uint64(2)) + NUMBERS
    highest_lane(numbered)
    for v in range(WORDS):
        calls, upper = made[v].view(np.uint16), keys[v].view(np.uint16)
        if by_key:
            for j in range(after.size):
                after[j] += np.uint16((calls[j] != NONE) & (upper[j] > top[j]))
            for j in range(same.size):
                same[j] += np.uint16((calls[j] != NONE) & (upper[j] == top[j]))
        else:
            row, own = made[v], scratch[3]
            for i in range(own.size):
                own[i] = (np.uint64(4 * v + 4) * LOWEST + NUMBERS) & row[i]
            for j in range(after.size):
                after[j] += np.uint16(same[j] > at[j])
    if not by_key:
        scratch[3][:] = ZERO
    for i in range(last.size):
        last[i] = np.uint16(max(numbered[i] & FIELD, np.uint64(4)) - np.uint64(4))
    add_lanes(scratch[2], late)
    add_lanes(scratch[3], equal)


@inner
def lane_last_of(cleared: Any, i: Any, by_key: Any, keys: Any, made: Any) -> tuple[Any, Any, Any]:
    """engine.shortcuts.last_calls.last_of."""
    part, best = np.int64(0), ZERO
    for v in range(WORDS):
        x, upper = cleared[v, i], keys[v, i]
        while x != ZERO:
            lane = first_set(x) >> 4
            key = (upper >> np.uint64(PAGES * lane)) & FIELD
            later = (key >= best) | (not by_key)
            part = v * LANES + lane if later else part
            best = key if later else best
            x = (x >> np.uint64(PAGES * lane + 15) >> ONE) << np.uint64(PAGES * lane + 15) << ONE
    late, same = np.int64(0), np.int64(0)
    above, upto = (FIELD - best) * PAIR, (FIELD + ONE - best) * PAIR  # a carry tells which keys are higher
    for v in range(WORDS):
        x, calls = keys[v, i], made[v, i]
        if by_key:
            for _ in range(2):
                low, some = x & EVERY_OTHER, calls & PAIR
                higher = popcount(((low + above) >> S16) & some)
                late += higher
                same += popcount(((low + upto) >> S16) & some) - higher
                x >>= S16
                calls >>= S16
        else:
            late += popcount(calls & ~window_upto(part * PAGES + PAGES - v * 64)) >> 4
    return part, late, same


@inner
def window_upto(bits: Any) -> Any:
    """The lowest so many bits of a word; none below 0, all above 64."""
    return ZERO if bits <= 0 else ONES if bits >= 64 else (ONE << np.uint64(bits)) - ONE


@inner
def spell_made(made: Any, i: Any, rows: Any) -> None:
    """The calls made of table i, a row each: uint16[CALLS, tables]."""
    for call in range(CALLS):
        rows[call, i] = np.uint16((made[call >> 2, i] >> np.uint64(PAGES * (call & 3))) & ONE)
