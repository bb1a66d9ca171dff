"""Clearing the aligned parts of a table that calls cover, word by word instead of part by part."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ONES, ZERO, count_and_ends, first_set, popcount, word_mask
from engine.numeric.jit import inner
from engine.reclaim.gather import flush


@inner
def fill_part_masks(zap: Any, masks: Any) -> None:
    """Write the masks for shifts by 1, 2, 4, ... inside parts of `zap` bits: uint64[6], as many as there are steps.

    A mask has the bits that a right shift of a word leaves in their part.
    """
    lowest = lowest_of_parts(zap)
    part, i, step = ONES >> np.uint64(64 - min(zap, 64)), 0, 1
    while step < min(zap, 64):
        masks[i] = lowest * (part >> np.uint64(step))
        i += 1
        step *= 2


@inner
def lowest_of_parts(zap: Any) -> Any:
    """Return a uint64 with the lowest bit set of each part of `zap` bits (pages); with zap >= 64 only bit 0."""
    lowest = ZERO
    for at in range(0, 64, zap):
        lowest |= ONE << np.uint64(at)
    return lowest


@inner
def clear_small_parts(row: Any, gone: Any, made: Any, zap: Any, masks: Any) -> Any:
    """Clear the parts of up to 64 pages whose calls are made; writes the cleared entries to `gone`, uint64[words].

    Returns (entries cleared, pieces with one, pages from the first to the last of each piece, entries left). Works on
    whole words: in each part of `zap` bits, `below` is all bits up to the last one, and `above` all bits from the first
    one on, by a subtraction that no part borrows from the next.
    """
    in_word, part = 64 // zap, ONES >> np.uint64(64 - zap)
    lowest, steps = lowest_of_parts(zap), first_set(np.uint64(zap))
    highest = lowest << np.uint64(zap - 1)
    count, pieces, spans, kept = np.int64(0), np.int64(0), np.int64(0), ZERO
    for w in range(row.size):
        calls = ZERO
        for j in range(in_word):
            calls |= np.uint64(made[w * in_word + j]) << np.uint64(j * zap)
        calls *= part
        x = row[w] & calls
        row[w] &= ~calls
        kept |= row[w]
        gone[w] = x
        above = x | ((highest - (x & ~highest)) ^ (~x & highest))
        below = x
        for i in range(steps):
            below |= (below >> np.uint64(1 << i)) & masks[i]
        count += popcount(x)
        pieces += popcount(below & lowest)
        spans += popcount(below & above)
    return count, pieces, spans, kept


@inner
def clear_large_parts(row: Any, gone: Any, made: Any, zap: Any, ceiling: Any, flushed: Any) -> Any:
    """As clear_small_parts, for parts that are large enough for a full flush, or several words; counts their flushes.

    Returns (entries cleared, entries left). flushed: COUNTERS
    """
    count, kept = np.int64(0), ZERO
    for w in range(row.size):
        gone[w] = ZERO
    for piece in range(row.size * 64 // zap):
        a = piece * zap
        if made[piece] == 0:
            continue
        n, first, last = count_and_ends(row, a, a + zap)
        if n == 0:
            continue
        count += n
        for w in range(a >> 6, (a + zap - 1 >> 6) + 1):
            inside = word_mask(w, a, a + zap)
            gone[w] |= row[w] & inside
            row[w] &= ~inside
        flush(flushed, first, last + 1, 1, ceiling)
    for w in range(row.size):
        kept |= row[w]
    return count, kept
