"""Which pages of a table an install writes (docs/method.md, section 2)."""

from typing import Any

import numpy as np

from engine.bits import ONE, ONES, ZERO, fill, window
from engine.chance import ALWAYS, NEVER
from engine.jit import inner
from engine.keyed import LOW_48, S16, S48, draw, field

S6, S56, LOW_6 = np.uint64(6), np.uint64(56), np.uint64(63)


@inner
def resident_extents(table: Any, n: Any, cdf: Any, guide: Any, count: Any, count_low: Any) -> Any:
    """How many of a table's n extents are resident: inverse binomial CDF, exact to 64 bits.

    Four tables share a hash; the 48 lower bits are drawn only where the upper 16 do not decide.
    """
    upper = field(count, table) << S48
    k = guide[np.int64(upper >> S56)]
    while k < n and cdf[k] <= upper:
        k += 1
    if k < n and cdf[k] <= (upper | LOW_48):
        u = upper | (draw(count_low, table) >> S16)
        while k < n and cdf[k] <= u:
            k += 1
    return k


@inner
def place_extents(words: Any, seen: Any, table: Any, n: Any, k: Any, extent: Any, stream: Any) -> None:
    """Set the entries of k of n extents, each `extent` entries long, in cleared words; `seen` is scratch."""
    if k == 0:
        return
    if k == n:
        fill(words, 0, n * extent)
        return
    wanted = min(k, n - k)
    absent = wanted < k
    bits = 0
    while (1 << bits) < n:
        bits += 1
    fields = 64 // bits
    low = np.uint64(n - 1)
    shift = np.uint64(bits)
    places = seen if extent > 1 else words
    for w in range((n + 63) >> 6):
        places[w] = ZERO
    number = 0
    while wanted > 0:
        h = draw(stream, table * 4096 + number)
        number += 1
        for _ in range(fields):
            q = h & low
            h >>= shift
            word = np.int64(q >> S6)
            old = places[word]
            new = old | (ONE << (q & LOW_6))
            places[word] = new
            wanted -= old != new  # no branch: nobody foresees which places were seen
            if wanted == 0:
                break
    if absent:
        for w in range((n + 63) >> 6):
            places[w] ^= window(w, 0, n)
    if extent > 1:
        for place in range(n):
            if places[place >> 6] & (ONE << np.uint64(place & 63)) != ZERO:
                fill(words, place * extent, (place + 1) * extent)


@inner
def drawn_extents(words: Any, base: Any, valid: Any, cluster: Any, mode: Any, limit: Any, stream: Any) -> Any:
    """Extents that are no whole fraction of a table, one draw each, into cleared words. Returns 1 if any."""
    if mode == NEVER:
        return 0
    found = 0
    for e in range(base // cluster, (base + valid - 1) // cluster + 1):
        if mode == ALWAYS or draw(stream, e) < limit:
            fill(words, max(e * cluster - base, 0), min((e + 1) * cluster - base, valid))
            found = 1
    return found


@inner
def cut(words: Any, valid: Any) -> None:
    """Clear the entries beyond the VMA's end."""
    for w in range(valid >> 6, words.size):
        words[w] &= ONES if w * 64 + 64 <= valid else (window(w, 0, valid) if w * 64 < valid else ZERO)
