"""The only room with scipy: are the times of B longer than those of A, by how much, and how sure is that?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Times = NDArray[np.float64]

SLOWER, FASTER, SAME, TOO_FEW = "slower", "faster", "not told apart", "too few times"
FALSE_SHARE = 0.05
"""Of the pairs that are called slower or faster, the share that may be so by chance."""
CONFIDENCE = 0.95
_RESAMPLES = 1_999
_BATCH = 1_000_000
"""Times drawn at once, to bound memory."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Times of B against times of A.

    ratio: B's median over A's; low, high: its bootstrap interval (percentiles, 95 %). delta: Cliff's, the chance that a
    time of B is longer than one of A less the chance that it is shorter. p: Mann-Whitney, two-sided; q: p after
    Benjamini-Hochberg over all pairs that were tested. None where there are too few times.
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


def shifts(pairs: Sequence[tuple[Times, Times]]) -> list[Shift]:
    """What became of each pair (times of A, times of B), all above 0. The same pairs give the same answer."""
    found = [_untested(a, b) if too_few(len(a), len(b)) else None for a, b in pairs]
    tested = [pair for pair, done in zip(pairs, found, strict=True) if done is None]
    tests = [stats.mannwhitneyu(b, a) for a, b in tested]
    q_values = stats.false_discovery_control([test.pvalue for test in tests])
    judged = (_tested(a, b, test, float(q)) for (a, b), test, q in zip(tested, tests, q_values, strict=True))
    return [done or next(judged) for done in found]


def too_few(a: int, b: int) -> bool:
    """Whether so many times could not differ significantly even if all of one were longer than all of the other."""
    return min(a, b) < 2 or _least_p(a, b) >= FALSE_SHARE


def repeats_for(tests: int) -> int:
    """With how many times on either side one pair among so many tests can be told apart, if no other pair differs."""
    repeats = 2
    while _least_p(repeats, repeats) * tests >= FALSE_SHARE:
        repeats += 1
    return repeats


def _least_p(a: int, b: int) -> float:
    """Two-sided: one order out of all, and its mirror image."""
    return 2 / comb(a + b, a)


def _untested(a: Times, b: Times) -> Shift:
    return Shift(TOO_FEW, float(np.median(a)), float(np.median(b)), float(_ratio(b, a)))


def _tested(a: Times, b: Times, test: Any, q: float) -> Shift:
    low, high = _interval(a, b)
    sure = q < FALSE_SHARE
    verdict = SLOWER if sure and low > 1 else FASTER if sure and high < 1 else SAME
    delta = float(2 * test.statistic / (len(a) * len(b)) - 1)
    medians = float(np.median(a)), float(np.median(b))
    return Shift(verdict, *medians, float(_ratio(b, a)), low, high, delta, float(test.pvalue), q)


def _interval(a: Times, b: Times) -> tuple[float, float]:
    """Of the ratio. Drawn in one order, whichever of the two is A: B against A is the mirror image of A against B."""
    turned = sorted(a) > sorted(b)
    below, above = (np.sort(b), np.sort(a)) if turned else (np.sort(a), np.sort(b))
    drawn = stats.bootstrap(
        (above, below),
        _ratio,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH // (len(a) + len(b))),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = (float(end) for end in drawn.confidence_interval)
    return (1 / high, 1 / low) if turned else (low, high)


def _ratio(b: Times, a: Times, axis: int = -1) -> Times:
    return np.asarray(np.median(b, axis=axis) / np.median(a, axis=axis))
