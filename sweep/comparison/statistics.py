"""The only module that imports scipy: are the times of run B longer than those of run A, and by how much?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Times = NDArray[np.float64]
"""Times of one group in one run, in nanoseconds: float64[n], all above 0."""

SLOWER, FASTER, SAME, TOO_FEW = "slower", "faster", "not told apart", "too few times"
FALSE_DISCOVERY_RATE = 0.05
"""Expected share of chance results among the groups that are called slower or faster."""
CONFIDENCE = 0.95
_RESAMPLES = 1_999
_BATCH_TIMES = 1_000_000
"""Most times that the bootstrap draws at once, to bound its memory."""


@dataclass(frozen=True, slots=True)
class Shift:
    """The times of B compared with those of A.

    ratio: median of B over median of A; low, high: its 95 % percentile bootstrap interval. delta: Cliff's delta, the
    probability that a time of B is longer than one of A, minus the probability that it is shorter. p: Mann-Whitney,
    two-sided; q: p after Benjamini-Hochberg over all tested pairs. From `low` on None if there are too few times.
    """

    verdict: str
    a_median_ns: float
    b_median_ns: float
    ratio: float
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    p: float | None = None
    q: float | None = None


def compare_times(pairs: Sequence[tuple[Times, Times]]) -> list[Shift]:
    """The shift of each pair (times of A, times of B). Deterministic: the bootstrap's seed is fixed."""
    untested = [_untested(a, b) if too_few(len(a), len(b)) else None for a, b in pairs]
    tested_pairs = [pair for pair, shift in zip(pairs, untested, strict=True) if shift is None]
    tests = [stats.mannwhitneyu(b, a) for a, b in tested_pairs]
    q_values = stats.false_discovery_control([test.pvalue for test in tests])
    tested = (_tested(a, b, test, float(q)) for (a, b), test, q in zip(tested_pairs, tests, q_values, strict=True))
    return [shift or next(tested) for shift in untested]


def too_few(a: int, b: int) -> bool:
    """Whether no difference between `a` and `b` times could be significant, however large it is."""
    return min(a, b) < 2 or _smallest_p(a, b) >= FALSE_DISCOVERY_RATE


def repeats_for(tests: int) -> int:
    """Fewest times in either run with which one different pair among `tests` pairs can be significant."""
    repeats = 2
    while _smallest_p(repeats, repeats) * tests >= FALSE_DISCOVERY_RATE:
        repeats += 1
    return repeats


def _smallest_p(a: int, b: int) -> float:
    """Two-sided p if all times of one side are longer: two of the possible orders are as extreme."""
    return 2 / comb(a + b, a)


def _untested(a: Times, b: Times) -> Shift:
    return Shift(TOO_FEW, float(np.median(a)), float(np.median(b)), float(_median_ratio(b, a)))


def _tested(a: Times, b: Times, test: Any, q: float) -> Shift:
    """Return the shift of a pair. test: the result of its Mann-Whitney test; q: its p after Benjamini-Hochberg."""
    low, high = _interval(a, b)
    is_significant = q < FALSE_DISCOVERY_RATE
    verdict = SLOWER if is_significant and low > 1 else FASTER if is_significant and high < 1 else SAME
    delta = float(2 * test.statistic / (len(a) * len(b)) - 1)
    medians = float(np.median(a)), float(np.median(b))
    return Shift(verdict, *medians, float(_median_ratio(b, a)), low, high, delta, float(test.pvalue), q)


def _interval(a: Times, b: Times) -> tuple[float, float]:
    """Bootstrap interval of the ratio.

    The two sides are drawn in an order that does not depend on which is A, so that swapping them inverts the interval.
    """
    swapped = sorted(a) > sorted(b)
    below, above = (np.sort(b), np.sort(a)) if swapped else (np.sort(a), np.sort(b))
    result = stats.bootstrap(
        (above, below),
        _median_ratio,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH_TIMES // (len(a) + len(b))),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = (float(end) for end in result.confidence_interval)
    return (1 / high, 1 / low) if swapped else (low, high)


def _median_ratio(b: Times, a: Times, axis: int = -1) -> Times:
    return np.asarray(np.median(b, axis=axis) / np.median(a, axis=axis))
