"""Blocks of tables, done together step by step, so that the compiler can use vector instructions."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO, first_set, popcount
from engine.numeric.jit import inner
from engine.random.binomial import CELL_BITS, CELLS, INSIDE_BITS, SEVERAL_INSIDE
from engine.random.splitmix import GOLDEN, OF_COUNT, OF_FIRST, OF_SPAN, mix
from engine.walk import columns as lay
from engine.walk.residency import outermost, resident_extents

SEVERAL = np.uint16(SEVERAL_INSIDE)
TWO, THREE = np.uint64(2), np.uint64(3)


@inner
def draws(stream: Any, first: Any, stride: Any, out: Any) -> None:
    """draw(stream, first + i x stride) for every i of uint64[*]."""
    z, step = stream + np.uint64(first + 1) * GOLDEN, np.uint64(stride) * GOLDEN
    for i in range(out.size):
        out[i] = mix(z + np.uint64(i) * step)


@inner
def look_up(cells: Any, cdfs: Any, value: Any, mark: Any) -> None:
    """What the numbered cells say; cells: uint32[n], value and mark: uint16[n] (engine.random.inverse_cdf.Cdf)."""
    table = cdfs.cells
    for i in range(cells.size):  # a loop of its own: it is all loads
        cells[i] = table[np.uint64(cells[i])]
    for i in range(cells.size):
        value[i] = np.uint16(cells[i] >> np.uint32(8))
        mark[i] = np.uint16(cells[i] & np.uint32(0xFF))


@inner
def drawn_counts(first: Any, cdfs: Any, row: Any, keys: Any, hashes: Any, cells: Any, k: Any, unsure: Any) -> None:
    """engine.walk.residency.resident_extents of the tables from `first` on, a multiple of 4: k: uint16[tables].

    hashes: uint64[tables / 4], cells: uint32[tables] and unsure: uint16[tables] are scratch.
    """
    draws(keys[OF_COUNT], first >> 2, 1, hashes)
    upper, base = hashes.view(np.uint16), np.uint32(row) << np.uint32(CELL_BITS)
    for i in range(k.size):
        cells[i] = base + (np.uint32(upper[i]) >> np.uint32(INSIDE_BITS))
    look_up(cells, cdfs, k, unsure)
    inside = np.uint16((1 << INSIDE_BITS) - 1)
    for i in range(k.size):
        u, limit = upper[i] & inside, unsure[i]
        k[i] += np.uint16(u > limit)
        unsure[i] = (u == limit) | (limit == SEVERAL)
    i = next_flag(unsure, 0)
    while i < k.size:
        k[i] = resident_extents(first + i, cdfs, row, keys)
        i = next_flag(unsure, i + 1)


@inner
def mostly_enough(par: Any, cdfs: Any, enough: Any) -> Any:
    """The least k whose span is `enough` but for draws in its first cell; spans grow with k."""
    least, end = par[lay.LEAST], par[lay.MOST] + 1
    while least < end:
        k = (least + end) >> 1
        if np.int64(cdfs.cells[((par[lay.SPANS] + k) << CELL_BITS) + 1]) >> 8 >= enough:
            end = k
        else:
            least = k + 1
    return least


@inner
def drawn_ends(
    first: Any, n: Any, k: Any, easy: Any, enough: Any, crowd: Any, par: Any, cdfs: Any, keys: Any, hashes: Any,
    others: Any, cells: Any, lo: Any, hi: Any, unsure: Any,
) -> None:  # fmt: skip
    """engine.walk.residency.outermost of the tables from `first` on, a multiple of 4, that have k: uint16[tables].

    lo, hi: uint16[tables], of any value where k is 0, and only roughly true where easy is not 0 and both the true span
    and what they say are `enough`; crowd: mostly_enough, or more. hashes, others: uint64[tables / 4],
    cells: uint32[tables], unsure: scratch.
    """
    if n == 1:
        lo[:], hi[:] = 0, 0
        return
    draws(keys[OF_SPAN], first >> 2, 1, hashes)
    draws(keys[OF_FIRST], first >> 2, 1, others)
    upper, place = hashes.view(np.uint16), others.view(np.uint16)
    least, most, row = np.uint16(par[lay.LEAST]), np.uint16(par[lay.MOST]), par[lay.SPANS]
    base, many, zero = np.uint32(row) << np.uint32(CELL_BITS), np.uint16(crowd), np.uint16(0)
    for i in range(k.size):
        have = min(max(k[i], least), most)
        # Where the first cell but one says enough, any does: one for each k stays in the first cache.
        own = np.uint16(upper[i] >> np.uint16(INSIDE_BITS))
        one = np.uint16((have << np.uint16(4)) & np.uint16(CELLS - 1) | np.uint16(1))
        cell = one if (easy[i] != zero) & (k[i] >= many) & (own != zero) else own
        cells[i] = base + (np.uint32(have) << np.uint32(CELL_BITS)) + np.uint32(cell)
    look_up(cells, cdfs, hi, unsure)
    ends_of(n, k, upper, place, easy, enough, unsure, lo, hi)
    settle_ends(first, n, k, cdfs, row, keys, unsure, cells.view(np.uint16), lo, hi)


@inner
def ends_of(n: Any, k: Any, upper: Any, place: Any, easy: Any, enough: Any, mark: Any, lo: Any, hi: Any) -> None:
    """hi: spans as looked up; becomes the last extent, lo the first; mark: 1 where the lower 48 bits decide.

    Where easy is not 0, and the span is enough either way, it does not matter.
    """
    inside, all_of, far = np.uint16((1 << INSIDE_BITS) - 1), np.uint16(n), np.uint16(enough)
    for i in range(k.size):
        v, limit, short = upper[i] & inside, mark[i], hi[i]
        span = np.uint16(short + (v > limit))
        starts = np.uint16(all_of - span)
        first = np.uint16((np.uint32(place[i]) * np.uint32(starts)) >> np.uint32(16))
        rest = np.uint16(place[i] * starts)
        unsure = (v == limit) | (limit == SEVERAL) | (rest > np.uint16(np.uint16(0) - starts))
        matters = (k[i] > 0) & ((easy[i] == 0) | (short < far))
        lo[i] = first
        hi[i] = np.uint16(first + span)
        mark[i] = unsure & matters


@inner
def settle_ends(
    first: Any, n: Any, k: Any, cdfs: Any, row: Any, keys: Any, flags: Any, listed: Any, lo: Any, hi: Any
) -> None:
    """The same, exactly, of the tables that are flagged; listed: uint16[n / 4], scratch."""
    words = flags.view(np.uint64)
    m = np.int64(0)
    for w in range(words.size):  # no branch: they follow no pattern
        listed[m] = w
        m += np.int64(words[w] != ZERO)
    for at in range(m):
        word = np.int64(listed[at])
        x = words[word]
        while x != ZERO:
            i = word * 4 + (first_set(x) >> 4)
            x &= x - ONE
            low, high = outermost(first + i, n, np.int64(k[i]), cdfs, row, keys)
            lo[i], hi[i] = low, high


@inner
def next_flag(flags: Any, i: Any) -> Any:
    """The first i or above with flags[i] != 0, or flags.size; uint16[n], n a multiple of 4."""
    words = flags.view(np.uint64)
    # Unsigned, as Numba takes each index that might be negative for one from the end, and looks.
    w, n, four, eight = np.uint64(i >> 2), np.uint64(words.size), np.uint64(4), np.uint64(8)
    if w < n:
        x = words[w] & ~((ONE << np.uint64(16 * (i & 3))) - ONE)
        if x != ZERO:
            return np.int64(w * four) + (first_set(x) >> 4)
        w += ONE
    while w + eight <= n:  # mostly there is none: 32 at once
        x = words[w] | words[w + ONE] | words[w + TWO] | words[w + THREE]
        w += four
        if x | words[w] | words[w + ONE] | words[w + TWO] | words[w + THREE] != ZERO:
            w -= four
            break
        w += four
    while w < n:
        if words[w] != ZERO:
            return np.int64(w * four) + (first_set(words[w]) >> 4)
        w += ONE
    return flags.size


@inner
def nth_flag(flags: Any, n: Any) -> Any:
    """The place of the n-th (from 1) flag set; there must be that many."""
    words = flags.view(np.uint64)
    for w in range(words.size):
        x = words[w]
        have = popcount(x)
        if have >= n:
            for _ in range(n - 1):
                x &= x - ONE
            return w * 4 + (first_set(x) >> 4)
        n -= have
    return -1


@inner
def copy(values: Any, out: Any) -> None:
    """out[:] = values, uint16[n] each; the assignment would allocate, to word its complaint about shapes."""
    for i in range(out.size):
        out[i] = values[i]


@inner
def total_of(values: Any) -> Any:
    """The sum of uint16[n], n up to 8,192."""
    out = np.uint32(0)
    for i in range(values.size):
        out = np.uint32(out + values[i])
    return np.int64(out)


@inner
def most_of(values: Any) -> Any:
    """The largest of uint16[n]."""
    out = np.uint16(0)
    for i in range(values.size):
        out = max(out, values[i])
    return np.int64(out)
