"""The twin's random choices: docs/method.md, section 2, one draw at a time, in exact integers.

They depend on the scenario and not on the policy, so `Choices` caches them for the runs of all policies.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache
from math import comb, floor

from engine.model.scenario import Scenario, decimal

TWO64 = 1 << 64
MASK = TWO64 - 1
GOLDEN = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """The independent streams of draws (`what` in docs/method.md)."""

    COUNT = 1
    COUNT_LOW = 2
    PLACE = 3
    EXTENT = 4
    CALL = 5
    PIN_COUNT = 6
    PIN_COUNT_LOW = 7
    PIN_PLACE = 8
    REFAULT = 9
    TRYLOCK = 10
    CALL_LOW = 11
    SPAN = 12
    SPAN_LOW = 13
    FIRST = 14
    FIRST_LOW = 15
    PIN_SPAN = 16
    PIN_SPAN_LOW = 17
    PIN_FIRST = 18
    PIN_FIRST_LOW = 19


INSTALLS = (Stream.COUNT, Stream.COUNT_LOW, Stream.SPAN, Stream.SPAN_LOW, Stream.FIRST, Stream.FIRST_LOW, Stream.PLACE)
PINS = (
    Stream.PIN_COUNT, Stream.PIN_COUNT_LOW, Stream.PIN_SPAN, Stream.PIN_SPAN_LOW, Stream.PIN_FIRST,
    Stream.PIN_FIRST_LOW, Stream.PIN_PLACE,
)  # fmt: skip


def mix(z: int) -> int:
    """SplitMix64's finaliser, Stafford's variant 13."""
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & MASK
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def key(seed: int, round_: int, what: Stream) -> int:
    """Return the 64-bit key of a stream in one round."""
    z = mix(seed + GOLDEN & MASK)
    z = mix(z + round_ + GOLDEN & MASK)
    return mix(z + int(what) + GOLDEN & MASK)


def draw(stream_key: int, index: int) -> int:
    """Return 64 uniform bits."""
    return mix(stream_key + (index + 1) * GOLDEN & MASK)


def threshold(p: Fraction) -> int:
    """Return the bound below which a draw means that an event of probability p happens."""
    return floor(p * TWO64)


@lru_cache(maxsize=64)
def binomial_thresholds(n: int, p: Fraction) -> tuple[int, ...]:
    """Return floor(P(X <= j) x 2^64) for j from 0 to n - 1, where X is binomial(n, p)."""
    if p == 1:
        return (0,) * n
    hit, miss = p.numerator, p.denominator - p.numerator
    term, cumulative, denominator = miss**n, 0, p.denominator**n
    thresholds: list[int] = []
    for j in range(n):
        cumulative += term
        thresholds.append((cumulative << 64) // denominator)
        if thresholds[-1] >= MASK:  # the rest of the tail is below 2^-64: all further values round down to this one
            return (*thresholds, *[thresholds[-1]] * (n - j - 1))
        term = term * (n - j) * hit // ((j + 1) * miss)
    return tuple(thresholds)


@lru_cache(maxsize=4096)
def span_thresholds(n: int, k: int) -> tuple[int, ...]:
    """Return floor(P(S <= s) x 2^64) for s from 0 to n - 2, where S is last minus first of k random places out of n.

    (n - s) x C(s - 1, k - 2) subsets have span s: n - s positions of the first place, and k - 2 places between the two.
    """
    if k == 1:
        return (1 << 64,) * (n - 1)
    subsets, inner, cumulative = comb(n, k), 0, 0
    thresholds: list[int] = []
    for s in range(n - 1):
        if s == k - 1:
            inner = 1
        elif s >= k:
            inner = inner * (s - 1) // (s - k + 1)  # C(s - 1, k - 2)
        cumulative += (n - s) * inner
        thresholds.append((cumulative << 64) // subsets)
    return tuple(thresholds)


def wide_draw(high_key: int, low_key: int, index: int) -> int:
    """Return 64 bits: the upper 16 from a draw that four indexes share, the lower 48 from the index's own draw."""
    return (draw(high_key, index >> 2) >> 16 * (index & 3) & 0xFFFF) << 48 | draw(low_key, index) >> 16


def resident_places(keys: list[int], table: int, n: int, k: int) -> set[int]:
    """Return which k of a table's n extents are resident; `keys` are those of INSTALLS or PINS.

    The first and the last are drawn first, then the ones between them.
    """
    _, _, span, span_low, first, first_low, place = keys
    if k in (0, n):
        return set(range(k))
    distance = bisect_right(span_thresholds(n, k), wide_draw(span, span_low, table))
    lowest = wide_draw(first, first_low, table) * (n - distance) >> 64
    between = set(range(lowest + 1, lowest + distance))
    inner = max(k - 2, 0)
    drawn = distinct_places(place, table, n, between, min(inner, len(between) - inner))
    return {lowest, lowest + distance} | (drawn if inner <= len(between) - inner else between - drawn)


def distinct_places(place_key: int, table: int, n: int, allowed: set[int], wanted: int) -> set[int]:
    """Return the first `wanted` distinct places that a table's draws name and that are in `allowed`."""
    bits, places, i = n.bit_length() - 1, set[int](), 0
    while len(places) < wanted:
        hash_bits = draw(place_key, table * 4096 + i)
        for _ in range(64 // bits):
            if len(places) < wanted and hash_bits & n - 1 in allowed:
                places.add(hash_bits & n - 1)
            hash_bits >>= bits
        i += 1
    return places


@dataclass(frozen=True, slots=True)
class Call:
    """One madvise call, number `index` of the grid of calls, over the pages [start, end)."""

    index: int
    start: int
    end: int


class Choices:
    """All random choices of one scenario, drawn when first asked for and cached."""

    def __init__(self, s: Scenario) -> None:
        assert s.cluster is not None
        assert s.zap is not None
        self.s, self.arch = s, s.geometry
        page = self.arch.page_bytes
        self.pages, self.cluster = s.virt // page, s.cluster // page
        self.zap, self.shift = s.zap // page, s.zap_shift // page
        self.grid_calls = -((self.shift - self.pages) // self.zap) if self.shift < self.pages else 0
        self._installs: dict[int, dict[int, list[int]]] = {}
        self._pins: dict[int, list[int]] | None = None
        self._calls: dict[int, list[Call]] = {}
        self._refaults: dict[tuple[int, int], bool] = {}
        self._refault_below = threshold(decimal(s.refault))

    def installs(self, round_: int) -> dict[int, list[int]]:
        """Return the entries that an install writes, by table number; tables without any are left out."""
        if round_ not in self._installs:
            in_tables = self.arch.entries % self.cluster == 0
            self._installs[round_] = self._by_table(round_) if in_tables else self._by_extent(round_)
        return self._installs[round_]

    def pins(self) -> dict[int, list[int]]:
        """Return the entries that hold a guard marker, by table number; the same in every round."""
        if self._pins is None:
            keys = [key(self.s.seed, 0, what) for what in PINS]
            self._pins = dict(self._draw_tables(keys, decimal(self.s.pinned), 1))
        return self._pins

    def calls(self, round_: int) -> list[Call]:
        """Return the calls of a round, in the order in which they are made."""
        if round_ not in self._calls:
            below = threshold(decimal(self.s.coverage))
            ranked = [(self.call_rank(round_, i), i) for i in range(self.grid_calls)]
            ranked = [(rank, i) for rank, i in ranked if rank < below]
            if self.s.order == "random":
                ranked.sort()
            starts = [(i, self.shift + i * self.zap) for _, i in ranked]
            self._calls[round_] = [Call(i, start, min(start + self.zap, self.pages)) for i, start in starts]
        return self._calls[round_]

    def call_rank(self, round_: int, call: int) -> int:
        """Return the 64 bits that decide whether a call is made, and its position in random order."""
        return wide_draw(key(self.s.seed, round_, Stream.CALL), key(self.s.seed, round_, Stream.CALL_LOW), call)

    def refaulted(self, round_: int, page: int) -> bool:
        """Return whether a page that was just cleared is touched again."""
        if self._refault_below == 0:
            return False
        if (round_, page) not in self._refaults:
            stream_key = key(self.s.seed, round_, Stream.REFAULT)
            self._refaults[round_, page] = draw(stream_key, page) < self._refault_below
        return self._refaults[round_, page]

    def trylock_fails(self, round_: int, table: int, trylocks: int) -> bool:
        """Return whether one of `trylocks` attempts in one step fails; 1/16 is the guess of method.md, section 6."""
        below = threshold(1 - Fraction(15, 16) ** (trylocks - 1))
        return draw(key(self.s.seed, round_, Stream.TRYLOCK), table) < below

    def _by_table(self, round_: int) -> dict[int, list[int]]:
        """Draw the resident extents of each table: `cluster` divides a table's span."""
        keys = [key(self.s.seed, round_, what) for what in INSTALLS]
        return dict(self._draw_tables(keys, self.s.installed_share, self.cluster))

    def _draw_tables(self, keys: list[int], p: Fraction, extent: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (table, entries) for extents of `extent` pages, each resident with probability p.

        Entries beyond the end of the VMA and tables without entries are left out.
        """
        entries = self.arch.entries
        n = entries // extent
        cdf = binomial_thresholds(n, p)
        for table in range(-(-self.pages // entries)):
            k = bisect_right(cdf, wide_draw(keys[0], keys[1], table))
            places = resident_places(keys, table, n, k)
            end = self.pages - table * entries
            resident = [x for q in sorted(places) for x in range(q * extent, (q + 1) * extent) if x < end]
            if resident:
                yield table, resident

    def _by_extent(self, round_: int) -> dict[int, list[int]]:
        """Draw the resident extents of the VMA: extents cross the borders of tables."""
        stream_key, below = key(self.s.seed, round_, Stream.EXTENT), threshold(self.s.installed_share)
        resident: dict[int, list[int]] = {}
        for extent in range(-(-self.pages // self.cluster)):
            if draw(stream_key, extent) < below:
                for x in range(extent * self.cluster, min((extent + 1) * self.cluster, self.pages)):
                    table, entry = divmod(x, self.arch.entries)
                    resident.setdefault(table, []).append(entry)
        return resident
