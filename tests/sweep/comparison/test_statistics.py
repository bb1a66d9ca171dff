"""The statistics of measured times, on artificial times with a known difference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.comparison import statistics
from sweep.comparison.statistics import FASTER, SAME, SLOWER, TOO_FEW, Shift, Times, compare_times

MIRRORED = {SLOWER: FASTER, FASTER: SLOWER, SAME: SAME, TOO_FEW: TOO_FEW}
times = st.lists(st.integers(1, 10**9), min_size=1, max_size=12).map(lambda values: np.array(values, np.float64))


def drawn(seed: int, count: int, median_ns: float = 1e6) -> Times:
    """`count` times with 5 % of noise."""
    return np.asarray(median_ns * np.exp(np.random.default_rng(seed).normal(0, 0.05, count)))


def compare_pair(a: Times, b: Times) -> Shift:
    return compare_times([(a, b)])[0]


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, SLOWER), (1 / 1.3, FASTER), (1.0, SAME)])
def test_a_known_shift_is_found(factor: float, verdict: str) -> None:
    """A known factor between the times is recognised: the ratio is close to it, and the interval contains it."""
    shift = compare_pair(drawn(1, 20), drawn(2, 20, 1e6 * factor))
    assert shift.verdict == verdict
    assert shift.low is not None
    assert shift.high is not None
    assert shift.low <= factor <= shift.high
    assert shift.ratio == pytest.approx(factor, rel=0.05)
    assert shift.b_median_ns / shift.a_median_ns == shift.ratio


def test_all_longer_is_a_delta_of_one() -> None:
    """Four times that are all longer than four others: effect size and p as counted by hand."""
    shift = compare_pair(np.array([1.0, 2, 3, 4]), np.array([11.0, 12, 13, 14]))
    assert (shift.ratio, shift.delta, shift.verdict) == (5.0, 1.0, SLOWER)
    assert shift.p == shift.q == pytest.approx(2 / 70)


def test_noise_alone_is_no_difference() -> None:
    """Of two hundred pairs that do not differ none is called slower, because false discoveries are controlled."""
    pairs = [(drawn(i, 10), drawn(1000 + i, 10)) for i in range(200)]
    shifts = compare_times(pairs)
    assert {shift.verdict for shift in shifts} == {SAME}
    assert sum(shift.p is not None and shift.p < statistics.FALSE_DISCOVERY_RATE for shift in shifts) > 3
    assert compare_times([*pairs, (drawn(1, 10), drawn(2, 10, 2e6))])[-1].verdict == SLOWER


@pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 3), (1, 100), (2, 7)])
def test_too_few_times_have_no_verdict(a: int, b: int) -> None:
    """With too few times there is only the ratio, however far apart they are."""
    shift = compare_pair(drawn(1, a), drawn(2, b, 9e6))
    assert (shift.verdict, shift.low, shift.high, shift.delta, shift.p, shift.q) == (TOO_FEW, *[None] * 5)
    assert shift.ratio == pytest.approx(9, rel=0.2)


@pytest.mark.parametrize("tests", [1, 2, 10, 40])
def test_repeats_for_is_the_fewest_that_suffice(tests: int) -> None:
    """One slower pair among equal ones is recognised with this number of repeats, and with one less it is not."""
    for repeats, verdict in ((statistics.repeats_for(tests), SLOWER), (statistics.repeats_for(tests) - 1, SAME)):
        same = drawn(1, repeats)
        shifts = compare_times([(same, same)] * (tests - 1) + [(same, same * 9)])
        assert shifts[-1].verdict in (verdict, TOO_FEW if verdict == SAME else verdict)


@given(st.lists(times, min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_times_against_themselves_do_not_differ(groups: list[Times]) -> None:
    """The same times on both sides have a ratio of 1 and no verdict."""
    for shift in compare_times([(group, group[::-1]) for group in groups]):
        assert (shift.ratio, shift.delta or 0) == (1, 0)
        assert shift.verdict in (SAME, TOO_FEW)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_b_against_a_is_the_mirror_image(pairs: list[tuple[Times, Times]]) -> None:
    """Swapping the sides inverts verdict, ratio, interval and delta, and keeps p and q."""
    pairs = [(a, b) for a, b in pairs if sorted(a) != sorted(b)]
    for here, there in zip(compare_times(pairs), compare_times([(b, a) for a, b in pairs]), strict=True):
        assert there.verdict == MIRRORED[here.verdict]
        assert (there.p, there.q) == (here.p, here.q)
        assert there.ratio == pytest.approx(1 / here.ratio)
        if here.delta is not None:
            assert there.delta == pytest.approx(-here.delta)
            assert (there.low, there.high) == pytest.approx((1 / (here.high or 1), 1 / (here.low or 1)))
