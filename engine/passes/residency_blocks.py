"""Draws for a block of tables at once, step by step over arrays, so that the compiler can use vector instructions.

The same bits as engine.reclaim.residency gives table by table (docs/method.md, section 2). 16 bits mostly decide a
draw; the tables for which they do not are drawn again, one by one.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ZERO, first_set
from engine.numeric.jit import inner
from engine.random.binomial import CELL_BITS, INSIDE_BITS, MAYBE, SEVERAL_INSIDE
from engine.random.splitmix import (
    GOLDEN,
    LOW_48,
    OF_CALL,
    OF_CALL_LOW,
    OF_COUNT,
    OF_FIRST,
    OF_SPAN,
    S16,
    S48,
    draw,
    mix,
)
from engine.reclaim.residency import outermost, resident_extents

SEVERAL, INSIDE = np.uint16(SEVERAL_INSIDE), np.uint16((1 << INSIDE_BITS) - 1)
ONE_BIT = np.uint64(1)


@inner
def draw_fields(stream: Any, first: Any, hashes: Any) -> None:
    """Write draws first >> 2, ... of a stream to uint64[*]: viewed as uint16, fields first & ~3, ..."""
    z = stream + np.uint64((first >> 2) + 1) * GOLDEN
    for i in range(hashes.size):
        hashes[i] = mix(z + np.uint64(i) * GOLDEN)


@inner
def look_up(cells: Any, cdfs: Any, values: Any, marks: Any) -> None:
    """Replace cell numbers, uint32[n], by what the cells hold: values and marks, uint16[n] (random.inverse_cdf.Cdf)."""
    table = cdfs.cells
    for i in range(cells.size):  # by itself, as it is all loads
        cells[i] = table[np.uint64(cells[i])]
    for i in range(cells.size):
        values[i] = np.uint16(cells[i] >> np.uint32(8))
        marks[i] = np.uint16(cells[i] & np.uint32(0xFF))


@inner
def block_counts(
    first: Any, cdfs: Any, par: Any, streams: Any, hashes: Any, cells: Any, counts: Any, unsure: Any
) -> None:
    """Resident extents of tables first, ..., a multiple of 4: writes counts, uint16[n].

    hashes: uint64[n / 4], cells: uint32[n], unsure: uint16[n]: scratch.
    """
    draw_fields(streams[OF_COUNT], first, hashes)
    upper, base = hashes.view(np.uint16), np.uint32(par.cdf) << np.uint32(CELL_BITS)
    for i in range(counts.size):
        cells[i] = base + (np.uint32(upper[i]) >> np.uint32(INSIDE_BITS))
    look_up(cells, cdfs, counts, unsure)
    for i in range(counts.size):
        u, limit = upper[i] & INSIDE, unsure[i]
        counts[i] += np.uint16(u > limit)
        unsure[i] = (u == limit) | (limit == SEVERAL)
    words = unsure.view(np.uint64)
    for w in range(words.size):
        x = words[w]
        while x != ZERO:
            i = w * 4 + (first_set(x) >> 4)
            x &= x - ONE_BIT
            counts[i] = resident_extents(first + i, cdfs, par.cdf, streams)


@inner
def block_ends(
    first: Any, places: Any, counts: Any, cdfs: Any, par: Any, streams: Any, hashes: Any, others: Any, cells: Any,
    low: Any, high: Any, unsure: Any,
) -> None:  # fmt: skip
    """The outermost resident extents of tables first, ... that have counts, uint16[n]: writes low and high, uint16[n].

    Of any value where counts is 0. hashes, others: uint64[n / 4], cells: uint32[n], unsure: uint16[n]: scratch.
    """
    draw_fields(streams[OF_SPAN], first, hashes)
    draw_fields(streams[OF_FIRST], first, others)
    upper, place = hashes.view(np.uint16), others.view(np.uint16)
    least, most = np.uint16(par.fewest), np.uint16(par.most)
    base = np.uint32(par.spans) << np.uint32(CELL_BITS)
    for i in range(counts.size):
        have = min(max(counts[i], least), most)
        own = np.uint32(upper[i]) >> np.uint32(INSIDE_BITS)
        cells[i] = base + (np.uint32(have) << np.uint32(CELL_BITS)) + own
    look_up(cells, cdfs, high, unsure)
    extents = np.uint16(places)
    for i in range(counts.size):
        u, limit = upper[i] & INSIDE, unsure[i]
        span = np.uint16(high[i] + np.uint16(u > limit))
        starts = np.uint16(extents - span)
        begin = np.uint16((np.uint32(place[i]) * np.uint32(starts)) >> np.uint32(16))
        rest = np.uint16(place[i] * starts)
        is_unsure = (u == limit) | (limit == SEVERAL) | (rest > np.uint16(np.uint16(0) - starts))
        low[i] = begin
        high[i] = np.uint16(begin + span)
        unsure[i] = is_unsure & (counts[i] > 0)
    words = unsure.view(np.uint64)
    for w in range(words.size):
        x = words[w]
        while x != ZERO:
            i = w * 4 + (first_set(x) >> 4)
            x &= x - ONE_BIT
            a, b = outermost(first + i, places, np.int64(counts[i]), cdfs, par.spans, streams)
            low[i], high[i] = a, b


@inner
def block_calls(first: Any, count: Any, par: Any, cover_limit: Any, streams: Any, hashes: Any, made: Any) -> None:
    """Which of calls first, ..., first + count are made: writes 1 or 0 to uint16[count].

    hashes: uint64[count / 4 + 2]: scratch; in random order it holds the upper 16 bits of the keys from first & ~3 on.
    """
    offset = first & 3
    if par.cover == MAYBE or par.random:
        draw_fields(streams[OF_CALL], first, hashes[: (count + offset + 3) >> 2])
    if par.cover != MAYBE:
        for j in range(count):
            made[j] = par.cover > MAYBE
        return
    upper, step, any_unsure = hashes.view(np.uint16), np.uint16(cover_limit >> S48), np.uint16(0)
    for j in range(count):
        made[j] = upper[offset + j] < step
        any_unsure |= np.uint16(upper[offset + j] == step)
    if any_unsure:
        for j in range(count):
            if upper[offset + j] == step:
                made[j] = draw(streams[OF_CALL_LOW], first + j) >> S16 < cover_limit & LOW_48
