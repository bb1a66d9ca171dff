"""Blocks of tables, done together step by step, so that the compiler can use vector instructions."""

from typing import Any

import numpy as np

from engine.bits import ONE, ZERO, first_set, popcount
from engine.install import resident_extents
from engine.jit import inner
from engine.keyed import GOLDEN, S48, mix


@inner
def draws(stream: Any, first: Any, stride: Any, out: Any) -> None:
    """draw(stream, first + i x stride) for every i of uint64[*]."""
    for i in range(out.size):
        out[i] = mix(stream + np.uint64(first + i * stride + 1) * GOLDEN)


@inner
def steps_of(cdf: Any, steps: Any, weights: Any) -> Any:
    """The upper 16 bits of a CDF's limits, each once, and how many have them (steps, weights: uint16[*]); how many."""
    n = 0
    for j in range(cdf.size):
        upper = np.uint16(cdf[j] >> S48)
        if n == 0 or steps[n - 1] != upper:
            steps[n], weights[n] = upper, 0
            n += 1
        weights[n - 1] += 1
        if upper == 0xFFFF:
            weights[n - 1] += cdf.size - j - 1
            break
    while n % 4 != 0:  # they are looked at by fours
        steps[n], weights[n] = steps[n - 1], 0
        n += 1
    return n


@inner
def count_extents(upper: Any, steps: Any, weights: Any, n_steps: Any, k: Any, unsure: Any) -> None:
    """Extents of each table, k: uint16[n], by the upper 16 bits of u; unsure: where the lower 48 decide."""
    k[:] = 0
    unsure[:] = 0
    for s in range(0, n_steps, 4):
        s0, s1, s2, s3 = steps[s], steps[s + 1], steps[s + 2], steps[s + 3]
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        for i in range(k.size):
            u = upper[i]
            more = (w0 if u > s0 else 0) + (w1 if u > s1 else 0) + (w2 if u > s2 else 0) + (w3 if u > s3 else 0)
            k[i] += np.uint16(more)
            unsure[i] |= (u == s0) | (u == s1) | (u == s2) | (u == s3)


@inner
def drawn_counts(
    first: Any, places: Any, cdf: Any, guide: Any, steps: Any, weights: Any, n_steps: Any, count: Any, count_low: Any,
    hashes: Any, k: Any, unsure: Any,
) -> None:  # fmt: skip
    """resident_extents of the tables from `first` on, a multiple of 4, as k: uint16[n]; hashes: uint64[n / 4]."""
    draws(count, first >> 2, 1, hashes)
    count_extents(hashes.view(np.uint16), steps, weights, n_steps, k, unsure)
    i = next_flag(unsure, 0)
    while i < k.size:
        k[i] = resident_extents(first + i, places, cdf, guide, count, count_low)
        i = next_flag(unsure, i + 1)


@inner
def next_flag(flags: Any, i: Any) -> Any:
    """The first i or above with flags[i] != 0, or flags.size; uint16[n], n a multiple of 4."""
    words = flags.view(np.uint64)
    for w in range(i >> 2, words.size):
        x = words[w]
        if w == i >> 2:
            x &= ~((ONE << np.uint64(16 * (i & 3))) - ONE)
        if x != ZERO:
            return w * 4 + (first_set(x) >> 4)
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
def list_flagged(flags: Any, listed: Any) -> Any:
    """The places of flags (uint16[n], 0 or 1), in order; how many. No branch: they follow no pattern."""
    m: Any = 0
    for i in range(flags.size):
        listed[m] = i
        m += np.int64(flags[i])
    return m


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
