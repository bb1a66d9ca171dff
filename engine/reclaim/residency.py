"""Which pages of a table an install writes (docs/method.md, section 2)."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ONES, ZERO, fill_range, first_set, word_mask
from engine.numeric.jit import inner
from engine.random.binomial import ALWAYS, NEVER
from engine.random.quantile import quantile
from engine.random.splitmix import (
    OF_COUNT,
    OF_COUNT_LOW,
    OF_EXTENT,
    OF_FIRST,
    OF_FIRST_LOW,
    OF_PLACE,
    OF_SPAN,
    OF_SPAN_LOW,
    S16,
    S48,
    draw,
    field,
    scale,
)

S6, LOW_6 = np.uint64(6), np.uint64(63)


@inner
def resident_extents(table: Any, cdfs: Any, row: Any, keys: Any) -> Any:
    """How many of a table's extents are resident."""
    return quantile(cdfs, row, keys[OF_COUNT], keys[OF_COUNT_LOW], table)


@inner
def outermost(table: Any, n: Any, k: Any, cdfs: Any, row: Any, keys: Any) -> tuple[Any, Any]:
    """(first, last) of a table's n extents that is resident, 0 < k of them; row: where k = 0 stands in cdfs."""
    if k == n:
        return 0, n - 1
    span = quantile(cdfs, row + k, keys[OF_SPAN], keys[OF_SPAN_LOW], table)
    starts, w = n - span, np.int64(field(keys[OF_FIRST], table))
    first = w * starts >> 16
    if (w * starts & 0xFFFF) + starts > 0x10000:
        first = scale(np.uint64(w) << S48 | draw(keys[OF_FIRST_LOW], table) >> S16, starts)
    return first, first + span


@inner
def bits_of(n: Any) -> Any:
    """log2 of n, a power of two."""
    bits = 0
    while (1 << bits) < n:
        bits += 1
    return bits


@inner
def place_extents(
    words: Any, seen: Any, table: Any, n: Any, k: Any, extent: Any, cdfs: Any, row: Any, keys: Any
) -> None:
    """Set the entries of k of n extents, each `extent` entries long, in cleared words; `seen` is scratch."""
    if k == 0:
        return
    if k == n:
        fill_range(words, 0, n * extent)
        return
    places = seen if extent > 1 else words
    for w in range((n + 63) >> 6):
        places[w] = ZERO
    first, last = outermost(table, n, k, cdfs, row, keys)
    between, within = last - first - 1, k - 2
    absent = within > between - within
    flip = ONES if absent else ZERO
    if absent:
        fill_range(places, first, last)
    places[first >> 6] |= ONE << np.uint64(first & 63)
    places[last >> 6] |= ONE << np.uint64(last & 63)
    bits = bits_of(n)
    low, shift, fields = np.uint64(n - 1), np.uint64(bits), 64 // max(bits, 1)
    before, reach = np.uint64(first + 1), np.uint64(max(between, 0))
    number, wanted = 0, min(within, between - within)
    while wanted > 0:
        h = draw(keys[OF_PLACE], table * 4096 + number)
        number += 1
        for _ in range(fields):
            q = h & low
            h >>= shift
            word = np.int64(q >> S6)
            old = places[word]
            new = ((old ^ flip) | (np.uint64(q - before < reach) << (q & LOW_6))) ^ flip
            places[word] = new
            wanted -= old != new  # no branch: nobody foresees which places were seen
            if wanted == 0:
                break
    if extent > 1:
        for place in range(n):
            if places[place >> 6] & (ONE << np.uint64(place & 63)) != ZERO:
                fill_range(words, place * extent, (place + 1) * extent)


@inner
def drawn_extents(words: Any, base: Any, valid: Any, cluster: Any, mode: Any, limit: Any, stream: Any) -> Any:
    """Set in cleared `words` the entries of extents that are no whole fraction of a table, one draw each.

    Returns 1 if any is resident, else 0.
    """
    if mode == NEVER:
        return 0
    found = 0
    for e in range(base // cluster, (base + valid - 1) // cluster + 1):
        if mode == ALWAYS or draw(stream, e) < limit:
            fill_range(words, max(e * cluster - base, 0), min((e + 1) * cluster - base, valid))
            found = 1
    return found


@inner
def clear_beyond(words: Any, valid: Any) -> None:
    """Clear the entries beyond the VMA's end."""
    for w in range(valid >> 6, words.size):
        words[w] &= ONES if w * 64 + 64 <= valid else (word_mask(w, 0, valid) if w * 64 < valid else ZERO)


@inner
def install_table(
    words: Any, seen: Any, table: Any, valid: Any, extents: Any, par: Any, lim: Any, cdfs: Any, streams: Any
) -> Any:
    """Write an install's pages of one table into cleared words; returns whether there are any, as 0 or 1.

    valid: pages of the slot inside the VMA; extents: how many of its extents are resident; seen: scratch
    """
    if par.places == 0:
        return drawn_extents(
            words, table * par.entries, valid, par.cluster, par.install, lim.install, streams[OF_EXTENT]
        )
    if extents == 0:
        return 0
    place_extents(words, seen, table, par.places, extents, par.cluster, cdfs, par.spans, streams)
    if valid < par.entries:
        clear_beyond(words, valid)
    return 1


@inner
def touch_again(
    present: Any, zapped: Any, refaulted: Any, a: Any, b: Any, base: Any, stream: Any, always: Any, limit: Any
) -> Any:
    """Draw which just-cleared entries are touched again, and set these in `present`. Returns how many.

    Writes them alone to `refaulted`. Reads and writes only the words with entries in [a, b).
    """
    count = np.int64(0)
    for w in range(a >> 6, ((b - 1) >> 6) + 1):
        x, again = zapped[w], ZERO
        while x != ZERO:
            bit = x & (~x + ONE)
            x ^= bit
            if always or draw(stream, base + w * 64 + first_set(bit)) < limit:
                again |= bit
                count += 1
        refaulted[w] = again
        present[w] |= again
    return count
