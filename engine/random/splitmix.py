"""Counter-based random bits: every choice is a pure function of (seed, round, stream, index).

SplitMix64's finaliser (Stafford's variant 13) over a Weyl sequence: Steele, Lea, Flood, OOPSLA 2014.
"""

from typing import Any

import numpy as np

from engine.numeric.jit import shared

COUNT, COUNT_LOW, PLACE, EXTENT, CALL = 1, 2, 3, 4, 5
PIN_COUNT, PIN_COUNT_LOW, PIN_PLACE, REFAULT, TRYLOCK, CALL_LOW = 6, 7, 8, 9, 10, 11
SPAN, SPAN_LOW, FIRST, FIRST_LOW = 12, 13, 14, 15
PIN_SPAN, PIN_SPAN_LOW, PIN_FIRST, PIN_FIRST_LOW = 16, 17, 18, 19
INSTALLS = (COUNT, COUNT_LOW, SPAN, SPAN_LOW, FIRST, FIRST_LOW, PLACE, EXTENT, CALL, CALL_LOW)
PINS = (PIN_COUNT, PIN_COUNT_LOW, PIN_SPAN, PIN_SPAN_LOW, PIN_FIRST, PIN_FIRST_LOW, PIN_PLACE)
(
    OF_COUNT,
    OF_COUNT_LOW,
    OF_SPAN,
    OF_SPAN_LOW,
    OF_FIRST,
    OF_FIRST_LOW,
    OF_PLACE,
    OF_EXTENT,
    OF_CALL,
    OF_CALL_LOW,
    STREAMS,
) = range(11)
"""Index of each stream's key in a row of streams_of. The first seven are also the indexes in pins_of."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
LOW_32, LOW_48 = np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFFFFFF)
S16, S48, FIELD = np.uint64(16), np.uint64(48), np.uint64(0xFFFF)


@shared
def mix(z: Any) -> Any:
    """Return SplitMix64's finaliser of a uint64: a bijection on uint64."""
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@shared
def key(seed: Any, round_: Any, what: Any) -> Any:
    """Return the uint64 key of one stream. `what`: the stream's number, such as COUNT."""
    z = mix(np.uint64(seed) + GOLDEN)
    z = mix(z + np.uint64(round_) + GOLDEN)
    return mix(z + np.uint64(what) + GOLDEN)


@shared
def streams_of(seed: Any, rounds: Any) -> Any:
    """Return the keys of a scenario's streams, uint64[rounds, STREAMS]."""
    out = np.empty((rounds, STREAMS), np.uint64)
    fill_streams(seed, rounds, out)
    return out


@shared
def fill_streams(seed: Any, rounds: Any, out: Any) -> None:
    """Write the keys of a scenario's streams into `out`, uint64[rounds, STREAMS]."""
    of_seed = mix(np.uint64(seed) + GOLDEN)
    for r in range(rounds):
        of_round = mix(of_seed + np.uint64(r) + GOLDEN)
        for i, what in enumerate(INSTALLS):
            out[r, i] = mix(of_round + np.uint64(what) + GOLDEN)


@shared
def pins_of(seed: Any) -> Any:
    """Return the keys of the streams of pinned pages, uint64[7]. Pages are pinned once, in round 0."""
    out = np.empty(OF_PLACE + 1, np.uint64)
    fill_pins(seed, out)
    return out


@shared
def fill_pins(seed: Any, out: Any) -> None:
    """Write the keys of the streams of pinned pages (round 0) into `out`, uint64[7]."""
    for i, what in enumerate(PINS):
        out[i] = key(seed, 0, what)


@shared
def draw(stream: Any, index: Any) -> Any:
    """Return 64 random bits, number `index` of a stream, as uint64."""
    return mix(stream + np.uint64(index + 1) * GOLDEN)


@shared
def field(stream: Any, index: Any) -> Any:
    """Return 16 random bits, number `index` of a stream, as uint64. One hash yields four of them, lowest bits first."""
    return (draw(stream, index >> 2) >> np.uint64(16 * (index & 3))) & FIELD


@shared
def call_key(stream: Any, low: Any, call: Any) -> Any:
    """Return the 64 bits that decide whether a call is made and where it is in random order.

    stream, low: keys of the streams CALL (upper 16 bits) and CALL_LOW (lower 48 bits)
    """
    return field(stream, call) << S48 | draw(low, call) >> S16


@shared
def scale(bits: Any, n: Any) -> Any:
    """Return floor(bits x n / 2^64) as int64, for uint64 `bits` and 0 <= n < 2^63."""
    a = np.uint64(n)
    lo_lo = (bits & LOW_32) * (a & LOW_32)
    hi_lo = (bits >> S32) * (a & LOW_32)
    lo_hi = (bits & LOW_32) * (a >> S32)
    cross = (lo_lo >> S32) + (hi_lo & LOW_32) + lo_hi
    return np.int64((hi_lo >> S32) + (cross >> S32) + (bits >> S32) * (a >> S32))
