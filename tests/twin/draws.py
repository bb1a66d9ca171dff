"""The twin's random choices: docs/method.md, section 2, draw by draw and exact.

They belong to the scenario, not to a policy, so `Choices` keeps what it has drawn for the seven runs.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import comb, floor

from engine.model.scenario import Scenario, decimal

TWO64 = 1 << 64
MASK = TWO64 - 1
GOLDEN = 0x9E3779B97F4A7C15


class What(IntEnum):
    """What is drawn; each has a stream of its own."""

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


INSTALLS = (What.COUNT, What.COUNT_LOW, What.SPAN, What.SPAN_LOW, What.FIRST, What.FIRST_LOW, What.PLACE)
PINS = (
    What.PIN_COUNT, What.PIN_COUNT_LOW, What.PIN_SPAN, What.PIN_SPAN_LOW, What.PIN_FIRST, What.PIN_FIRST_LOW,
    What.PIN_PLACE,
)  # fmt: skip


def mix(z: int) -> int:
    """SplitMix64's finaliser, Stafford's variant 13."""
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & MASK
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def key(seed: int, round_: int, what: What) -> int:
    """The key of one stream."""
    z = mix(seed + GOLDEN & MASK)
    z = mix(z + round_ + GOLDEN & MASK)
    return mix(z + int(what) + GOLDEN & MASK)


def draw(stream: int, index: int) -> int:
    """64 bits, uniform."""
    return mix(stream + (index + 1) * GOLDEN & MASK)


def threshold(p: Fraction) -> int:
    """An event of probability p happens when a draw is below this."""
    return floor(p * TWO64)


@lru_cache(maxsize=64)
def binomial_thresholds(n: int, p: Fraction) -> tuple[int, ...]:
    """floor(P(X <= j) x 2^64) for j from 0 to n - 1, X being binomial(n, p), in whole numbers throughout."""
    if p == 1:
        return (0,) * n
    hit, miss = p.numerator, p.denominator - p.numerator
    term, total, whole = miss**n, 0, p.denominator**n
    out: list[int] = []
    for j in range(n):
        total += term
        out.append((total << 64) // whole)
        if out[-1] >= MASK:  # what is left of the tail is below 2^-64: it rounds down to the same
            return (*out, *[out[-1]] * (n - j - 1))
        term = term * (n - j) * hit // ((j + 1) * miss)
    return tuple(out)


@lru_cache(maxsize=4096)
def span_thresholds(n: int, k: int) -> tuple[int, ...]:
    """floor(P(S <= s) x 2^64) for s from 0 to n - 2, S being the distance from first to last of k of n extents.

    Counted by span: with k - 2 of the s - 1 places between them, and n - s places where both can begin.
    """
    ways = [n if k == 1 else 0] + [(n - s) * comb(s - 1, k - 2) if k > 1 else 0 for s in range(1, n)]
    return tuple((sum_ << 64) // comb(n, k) for sum_ in accumulate(ways[:-1]))


def wide_draw(high: int, low: int, index: int) -> int:
    """64 bits: 16 of a hash that four indexes share, 48 of one's own."""
    return (draw(high, index >> 2) >> 16 * (index & 3) & 0xFFFF) << 48 | draw(low, index) >> 16


def resident_places(streams: list[int], table: int, n: int, k: int) -> set[int]:
    """Which k of a table's n extents are resident: the outermost two first, then those between them."""
    _, _, span, span_low, first, first_low, place = streams
    if k in (0, n):
        return set(range(k))
    apart = bisect_right(span_thresholds(n, k), wide_draw(span, span_low, table))
    a = wide_draw(first, first_low, table) * (n - apart) >> 64
    between = set(range(a + 1, a + apart))
    within = max(k - 2, 0)
    seen = distinct_places(place, table, n, between, min(within, len(between) - within))
    return {a, a + apart} | (seen if within <= len(between) - within else between - seen)


def distinct_places(stream: int, table: int, n: int, allowed: set[int], wanted: int) -> set[int]:
    """The first `wanted` distinct places of a table's hashes that are allowed."""
    bits, seen, i = n.bit_length() - 1, set[int](), 0
    while len(seen) < wanted:
        bag = draw(stream, table * 4096 + i)
        for _ in range(64 // bits):
            if len(seen) < wanted and bag & n - 1 in allowed:
                seen.add(bag & n - 1)
            bag >>= bits
        i += 1
    return seen


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the grid that is made: pages [start, end)."""

    index: int
    start: int
    end: int


class Choices:
    """All that chance decides in one scenario."""

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
        """Entries that an install writes, table by table; a table without any is left out."""
        if round_ not in self._installs:
            in_tables = self.arch.entries % self.cluster == 0
            self._installs[round_] = self._by_table(round_) if in_tables else self._by_extent(round_)
        return self._installs[round_]

    def pins(self) -> dict[int, list[int]]:
        """Entries that hold a guard marker, table by table; the same in every round."""
        if self._pins is None:
            streams = [key(self.s.seed, 0, w) for w in PINS]
            self._pins = dict(self._drawn_tables(streams, decimal(self.s.pinned), 1))
        return self._pins

    def calls(self, round_: int) -> list[Call]:
        """The calls made in a round, in the order in which they are made."""
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
        """The 64 bits by which a call is made or not, and takes its place in random order."""
        return wide_draw(key(self.s.seed, round_, What.CALL), key(self.s.seed, round_, What.CALL_LOW), call)

    def refaulted(self, round_: int, page: int) -> bool:
        """Whether a page just cleared is touched again."""
        if self._refault_below == 0:
            return False
        if (round_, page) not in self._refaults:
            stream = key(self.s.seed, round_, What.REFAULT)
            self._refaults[round_, page] = draw(stream, page) < self._refault_below
        return self._refaults[round_, page]

    def trylock_fails(self, round_: int, table: int, trylocks: int) -> bool:
        """Whether a trylock among so many at one step fails; 1/16 is method.md's guess (section 6)."""
        below = threshold(1 - Fraction(15, 16) ** (trylocks - 1))
        return draw(key(self.s.seed, round_, What.TRYLOCK), table) < below

    def _by_table(self, round_: int) -> dict[int, list[int]]:
        streams = [key(self.s.seed, round_, w) for w in INSTALLS]
        return dict(self._drawn_tables(streams, self.s.installed_share, self.cluster))

    def _drawn_tables(self, streams: list[int], p: Fraction, extent: int) -> Iterator[tuple[int, list[int]]]:
        """Tables that get extents of so many pages, with the entries these hold up to the VMA's end."""
        entries = self.arch.entries
        n = entries // extent
        cdf = binomial_thresholds(n, p)
        for table in range(-(-self.pages // entries)):
            k = bisect_right(cdf, wide_draw(streams[0], streams[1], table))
            places = resident_places(streams, table, n, k)
            room = self.pages - table * entries
            held = [x for q in sorted(places) for x in range(q * extent, (q + 1) * extent) if x < room]
            if held:
                yield table, held

    def _by_extent(self, round_: int) -> dict[int, list[int]]:
        stream, below = key(self.s.seed, round_, What.EXTENT), threshold(self.s.installed_share)
        out: dict[int, list[int]] = {}
        for extent in range(-(-self.pages // self.cluster)):
            if draw(stream, extent) < below:
                for x in range(extent * self.cluster, min((extent + 1) * self.cluster, self.pages)):
                    table, entry = divmod(x, self.arch.entries)
                    out.setdefault(table, []).append(entry)
        return out
