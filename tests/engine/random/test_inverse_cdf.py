"""Random choices: the integers that docs/method.md gives in plain Python, and the right distributions."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from engine.kernel.scenario_pages import ScenarioPages
from engine.model.arch import GIB, MIB
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.random.binomial import (
    ALWAYS,
    CELLS,
    FULL,
    INSIDE_BITS,
    MAYBE,
    NEVER,
    NONE_INSIDE,
    PMD_HELD_SHARE,
    SEVERAL_INSIDE,
    limit,
    trylock_limits,
)
from engine.random.inverse_cdf import Cdf, binomial, cdf_of, span
from engine.random.splitmix import draw, key, scale
from engine.run import run_batch
from tests.twin import draws

MASK = FULL - 1
COLUMN_INDEX = {name: i for i, name in enumerate(COLUMNS)}


@pytest.mark.parametrize(
    ("seed", "round_", "what", "index"), [(0, 0, 1, 0), (7, 3, 5, 123456789), (2**62, 999, 10, 2**45)]
)
def test_draws_equal_the_twins(seed: int, round_: int, what: int, index: int) -> None:
    """Keys and draws in 64-bit arithmetic equal those of the twin's integers."""
    stream_key = draws.key(seed, round_, draws.Stream(what))
    assert key(seed, round_, what) == stream_key
    assert draw(np.uint64(stream_key), index) == draws.draw(stream_key, index)


@pytest.mark.parametrize(("bits", "n"), [(MASK, 2**62), (1 << 63, 1001), (12345, 7), (0xDEADBEEFCAFEF00D, 28_835_840)])
def test_scale_is_a_wide_product(bits: int, n: int) -> None:
    """scale returns the upper 64 bits of the 128-bit product."""
    assert scale(np.uint64(bits), n) == bits * n >> 64


@pytest.mark.parametrize("n", [1, 2, 32, 512])
@pytest.mark.parametrize("p", [Fraction(1, 10), Fraction(1, 2), Fraction(590, 56320), Fraction(999, 1000)])
def test_binomial_is_within_one_of_exact(n: int, p: Fraction) -> None:
    """Each limit of the binomial CDF differs by at most 1 from the floor of the exact value times 2^64."""
    limits = all_limits(binomial(n, p))
    exact = draws.binomial_thresholds(n, p)
    assert all(abs(got - min(wanted, MASK)) <= 1 for got, wanted in zip(limits, exact, strict=False))
    assert all(wanted >= MASK for wanted in exact[len(limits) :])


@pytest.mark.parametrize("n", [2, 8, 32, 512])
def test_spans_are_within_one_of_exact(n: int) -> None:
    """Each limit of the span CDF differs by at most 1 from the floor of the exact value times 2^64."""
    for k in range(1, n + 1):
        limits = all_limits(span(n, k))
        exact = draws.span_thresholds(n, k)
        assert all(abs(got - wanted) <= 1 for got, wanted in zip(limits, exact, strict=False))
        assert all(wanted >= MASK for wanted in exact[len(limits) :])


@pytest.mark.parametrize(("n", "k"), [(32, 1), (32, 2), (32, 32), (512, 3), (512, 40), (2048, 5), (8192, 80)])
def test_cells_agree_with_limits(n: int, k: int) -> None:
    """A cell that decides by 16 bits decides as all 64 would, and one that asks for more bits needs them."""
    cdf = span(n, k)
    for upper in np.random.default_rng(1).integers(0, 1 << 16, 500).tolist():
        cell = int(cdf.cells[upper >> INSIDE_BITS])
        mark, inside = cell & 0xFF, upper & (1 << INSIDE_BITS) - 1
        range_ = [np.uint64(upper << 48 | v) for v in (0, (1 << 48) - 1)]
        ends = (cdf.low + np.searchsorted(cdf.limits, range_, "right")).tolist()
        if mark != SEVERAL_INSIDE and mark != inside:
            assert ends == [(cell >> 8) + (inside > mark)] * 2
        elif mark == inside:
            assert ends[0] in (cell >> 8, (cell >> 8) + 1)
            assert ends[1] == (cell >> 8) + 1


def slow_span(n: int, k: int) -> list[int]:
    """Return the limits from 0 on by the recurrence of engine.random.cdf_cells, in integers of any size."""
    share, ways, downwards = FULL * FULL // n, n + k - 1, list[int]()
    for above in range(n - 1, k - 1, -1):
        share = share * (above - k + 1) // above
        downwards.append(share * ways >> 64)
        ways += k - 1
    return [0] * (k - 1) + downwards[::-1]


def slow_cells(limits: list[int]) -> list[int]:
    """Return each cell: the number of limits up to its start, and its mark."""
    cells, size = [], FULL // CELLS
    for first in range(0, FULL, size):
        inside = [limit for limit in limits if first < limit < first + size]
        mark = (inside[0] - first) * 16 // size if len(inside) == 1 else SEVERAL_INSIDE if inside else NONE_INSIDE
        cells.append(sum(limit <= first for limit in limits) << 8 | mark)
    return cells


def all_limits(cdf: Cdf) -> list[int]:
    """Return the limits with the zeros that the Cdf leaves out."""
    limits: list[int] = cdf.limits.tolist()
    return [0] * cdf.low + limits


@pytest.mark.parametrize("n", [2, 3, 8, 32, 512])
def test_spans_equal_integer_arithmetic(n: int) -> None:
    """The compiled span limits, made of 32-bit digits, equal those of Python integers, and no zero is stored."""
    for k in range(2, n + 1):
        assert all_limits(span(n, k)) == slow_span(n, k)
        assert 0 not in span(n, k).limits
    assert all_limits(span(n, 1)) == all_limits(span(n, 0)) == []


@pytest.mark.parametrize(("n", "k"), [(2048, 2), (2048, 1024), (8192, 3), (8192, 700), (8192, 8191), (8192, 8192)])
def test_spans_of_large_tables(n: int, k: int) -> None:
    """The span limits are equal too for the 2,048 and 8,192 entries of arm64's tables."""
    assert all_limits(span(n, k)) == slow_span(n, k)


def test_cells_equal_counting() -> None:
    """Cells equal counted ones, also with limits at and beside a cell's border, at the ends, and without limits."""
    border = 5 << 52
    cdfs = [cdf_of(3, [border - 1, border, border + 1, FULL - 1]), cdf_of(0, [1 << 48, 1 << 52]), cdf_of(7, [])]
    cdfs += [span(32, 5), span(512, 2), binomial(8, Fraction(1, 3)), binomial(512, Fraction(1, 10))]
    for cdf in cdfs:
        assert cdf.cells.tolist() == slow_cells(all_limits(cdf))


@pytest.mark.parametrize("sparsity", [0.8, 0.5, 0.2])
@pytest.mark.slow
def test_all_sets_of_places_are_equally_likely(sparsity: float) -> None:
    """With 8 extents per table, all choices of k resident ones are equally frequent, for every k."""
    tables = 32_768
    scenario = Scenario(virt=tables * 2 * MIB, sparsity=sparsity, cluster=256 * 1024, seed=3)
    resident = np.zeros(tables, np.int64)  # a bit per extent
    for first, end in ScenarioPages(scenario).installs(0).tolist():
        for extent in range(first // 64, end // 64):
            resident[extent >> 3] |= 1 << (extent & 7)
    for k in range(1, 8):
        sets = [s for s in range(256) if s.bit_count() == k]
        counts = np.bincount(resident, minlength=256)[sets]
        if counts.sum() > 10 * len(sets):
            assert stats.chisquare(counts).pvalue > 1e-4


def test_limit() -> None:
    """Probabilities 0 and 1 are certain; others have a 64-bit limit."""
    assert limit(Fraction(0)) == (NEVER, 0)
    assert limit(Fraction(1)) == (ALWAYS, MASK)
    assert limit(Fraction(1, 2)) == (MAYBE, 1 << 63)
    assert trylock_limits()[1] == 0
    assert trylock_limits()[2] == FULL // 16
    assert trylock_limits().tolist() == [limit(1 - (1 - PMD_HELD_SHARE) ** max(m - 1, 0))[1] for m in range(701)]


@pytest.mark.parametrize(("sparsity", "cluster_kib"), [(0.99, 4), (0.999, 64), (0.9, 512), (0.95, 2048), (0.9, 8192)])
def test_closed_form_of_empty_tables(sparsity: float, cluster_kib: int) -> None:
    """A table is empty with probability sparsity^(S / cluster), or sparsity for clusters above its span S."""
    tables = 131_072
    scenario = Scenario(virt=tables * 2 * MIB, sparsity=sparsity, cluster=cluster_kib * 1024, seed=11)
    kept = int(run_batch(columns_of([scenario])).values[0, 0, COLUMN_INDEX["pte_tables_end"]])
    extents = tables if cluster_kib <= 2048 else tables * 2048 // cluster_kib
    expected = sparsity ** max(2048 / cluster_kib, 1)
    empty = (tables - kept) * extents // tables
    assert stats.binomtest(empty, extents, expected).pvalue > 1e-4


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.999])
def test_resident_share(sparsity: float) -> None:
    """The installed share of pages is 1 - sparsity, also for clusters that cross the borders of slots."""
    for cluster in (4096, 12288, 3 * MIB):
        pages = GIB // 4096
        row = run_batch(columns_of([Scenario(virt=GIB, sparsity=sparsity, cluster=cluster, seed=5)])).values[0, 0]
        extents = -(-GIB // cluster)
        sigma = (sparsity * (1 - sparsity) / extents) ** 0.5
        assert abs(row[COLUMN_INDEX["ptes_installed"]] / pages - (1 - sparsity)) < 5 * sigma


@pytest.mark.slow
def test_all_places_are_equally_likely() -> None:
    """Calls over random halves of tables zap that share of the resident pages."""
    for sparsity in (0.99, 0.3):
        scenario = Scenario(virt=16 * GIB, sparsity=sparsity, zap=MIB, zap_shift=MIB, coverage=0.5, seed=9)
        row = run_batch(columns_of([scenario])).values[0, 0]
        zapped = int(row[COLUMN_INDEX["ptes_zapped"]])
        called = int(row[COLUMN_INDEX["zap_calls"]]) / (16 * GIB // MIB)
        assert abs(zapped / int(row[COLUMN_INDEX["ptes_installed"]]) - called) < 0.01
