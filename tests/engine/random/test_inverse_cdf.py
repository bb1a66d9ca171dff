"""Random choices: integers that a plain-Python reading of docs/method.md gives too, and the right distributions."""

from fractions import Fraction
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from scipy import stats

from engine.kernel.scenario_pages import Realisation
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

MASK = FULL - 1
GOLDEN = 0x9E3779B97F4A7C15
AT = {name: i for i, name in enumerate(COLUMNS)}


def slow_mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize(
    ("seed", "round_", "what", "index"), [(0, 0, 1, 0), (7, 3, 5, 123456789), (2**62, 999, 10, 2**45)]
)
def test_draw_is_the_published_one(seed: int, round_: int, what: int, index: int) -> None:
    """key and draw are what docs/method.md says, in 64-bit arithmetic."""
    z = slow_mix(seed + GOLDEN & MASK)
    z = slow_mix(z + round_ + GOLDEN & MASK)
    stream = slow_mix(z + what + GOLDEN & MASK)
    assert key(seed, round_, what) == stream
    assert draw(np.uint64(stream), index) == slow_mix(stream + (index + 1) * GOLDEN & MASK)


@pytest.mark.parametrize(("bits", "n"), [(MASK, 2**62), (1 << 63, 1001), (12345, 7), (0xDEADBEEFCAFEF00D, 28_835_840)])
def test_scale_is_a_wide_product(bits: int, n: int) -> None:
    """scale is the upper half of a 128-bit product."""
    assert scale(np.uint64(bits), n) == bits * n >> 64


@pytest.mark.parametrize("n", [1, 2, 32, 512])
@pytest.mark.parametrize("p", [Fraction(1, 10), Fraction(1, 2), Fraction(590, 56320), Fraction(999, 1000)])
def test_binomial_is_within_one_of_exact(n: int, p: Fraction) -> None:
    """Each limit is the exact CDF's floor, give or take one in 2^64."""
    running = Fraction(0)
    cdf = binomial(n, p)
    for j, got in enumerate([0] * cdf.low + cdf.limits.tolist()):
        running += comb(n, j) * p**j * (1 - p) ** (n - j)
        assert abs(got - min(running * FULL // 1, MASK)) <= 1


@pytest.mark.parametrize("n", [2, 8, 32, 512])
def test_spans_are_within_one_of_exact(n: int) -> None:
    """Each limit is the exact CDF's floor, give or take one in 2^64; the CDF counts subsets by their span."""
    for k in range(1, n + 1):
        cdf = span(n, k)
        got = [0] * cdf.low + cdf.limits.tolist() + [FULL] * (n - 1 - cdf.low - len(cdf.limits))
        ways = [n if k == 1 else 0] + [(n - s) * comb(s - 1, k - 2) if k > 1 else 0 for s in range(1, n)]
        assert sum(ways) == comb(n, k)
        exact = [running * FULL // comb(n, k) for running in accumulate(ways[:-1])]
        assert all(abs(a - b) <= 1 for a, b in zip(got, exact, strict=True))


@pytest.mark.parametrize(("n", "k"), [(32, 1), (32, 2), (32, 32), (512, 3), (512, 40), (2048, 5), (8192, 80)])
def test_cells_agree_with_limits(n: int, k: int) -> None:
    """What a cell says of 16 bits holds for all 64, and where it says that more are needed, they are."""
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
    """Limits from 0 on, in whole numbers of any size, as engine.random.cdf_cells makes them in 128 bits."""
    share, ways, downwards = FULL * FULL // n, n + k - 1, list[int]()
    for above in range(n - 1, k - 1, -1):
        share = share * (above - k + 1) // above
        downwards.append(share * ways >> 64)
        ways += k - 1
    return [0] * (k - 1) + downwards[::-1]


def slow_cells(limits: list[int]) -> list[int]:
    """Of each cell how many limits lie up to its beginning, and its mark."""
    cells, size = [], FULL // CELLS
    for first in range(0, FULL, size):
        inside = [limit for limit in limits if first < limit < first + size]
        mark = (inside[0] - first) * 16 // size if len(inside) == 1 else SEVERAL_INSIDE if inside else NONE_INSIDE
        cells.append(sum(limit <= first for limit in limits) << 8 | mark)
    return cells


def said(cdf: Cdf) -> list[int]:
    limits: list[int] = cdf.limits.tolist()
    return [0] * cdf.low + limits


@pytest.mark.parametrize("n", [2, 3, 8, 32, 512])
def test_spans_are_those_of_whole_numbers(n: int) -> None:
    """Compiled code counts in pieces of 32 bits; to the bit, and no limit that is 0 is kept but what `low` says."""
    for k in range(2, n + 1):
        assert said(span(n, k)) == slow_span(n, k)
        assert 0 not in span(n, k).limits
    assert said(span(n, 1)) == said(span(n, 0)) == []


@pytest.mark.parametrize(("n", "k"), [(2048, 2), (2048, 1024), (8192, 3), (8192, 700), (8192, 8191), (8192, 8192)])
def test_spans_of_large_tables_are_too(n: int, k: int) -> None:
    """arm64's tables have up to 8,192 entries."""
    assert said(span(n, k)) == slow_span(n, k)


def test_cells_are_what_counting_says() -> None:
    """Of spans, of binomials, and where limits lie on a cell's border, beside it, at the ends, or there are none."""
    border = 5 << 52
    made = [cdf_of(3, [border - 1, border, border + 1, FULL - 1]), cdf_of(0, [1 << 48, 1 << 52]), cdf_of(7, [])]
    made += [span(32, 5), span(512, 2), binomial(8, Fraction(1, 3)), binomial(512, Fraction(1, 10))]
    for cdf in made:
        assert cdf.cells.tolist() == slow_cells(said(cdf))


@pytest.mark.parametrize("sparsity", [0.8, 0.5, 0.2])
def test_every_set_of_places_is_as_likely(sparsity: float) -> None:
    """Of 8 extents a table, each choice of k comes as often as any other, for every k."""
    tables = 32_768
    scenario = Scenario(virt=tables * 2 * MIB, sparsity=sparsity, cluster=256 * 1024, seed=3)
    seen = np.zeros(tables, np.int64)
    for first, end in Realisation(scenario).installs(0).tolist():
        for extent in range(first // 64, end // 64):
            seen[extent >> 3] |= 1 << (extent & 7)
    for k in range(1, 8):
        sets = [s for s in range(256) if s.bit_count() == k]
        found = np.bincount(seen, minlength=256)[sets]
        if found.sum() > 10 * len(sets):
            assert stats.chisquare(found).pvalue > 1e-4


def test_limit() -> None:
    """Shares 0 and 1 are certain; between them 64 bits decide."""
    assert limit(Fraction(0)) == (NEVER, 0)
    assert limit(Fraction(1)) == (ALWAYS, MASK)
    assert limit(Fraction(1, 2)) == (MAYBE, 1 << 63)
    assert trylock_limits()[1] == 0
    assert trylock_limits()[2] == FULL // 16
    assert trylock_limits().tolist() == [limit(1 - (1 - PMD_HELD_SHARE) ** max(m - 1, 0))[1] for m in range(701)]


@pytest.mark.parametrize(("sparsity", "cluster_kib"), [(0.99, 4), (0.999, 64), (0.9, 512), (0.95, 2048), (0.9, 8192)])
def test_closed_form_of_empty_tables(sparsity: float, cluster_kib: int) -> None:
    """A table is all none with probability sparsity^(S / cluster), or sparsity for clusters above S."""
    tables = 131_072
    scenario = Scenario(virt=tables * 2 * MIB, sparsity=sparsity, cluster=cluster_kib * 1024, seed=11)
    held = int(run_batch(columns_of([scenario])).values[0, 0, AT["pte_tables_end"]])
    draws = tables if cluster_kib <= 2048 else tables * 2048 // cluster_kib
    expected = sparsity ** max(2048 / cluster_kib, 1)
    empty = (tables - held) * draws // tables
    assert stats.binomtest(empty, draws, expected).pvalue > 1e-4


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.999])
def test_resident_share(sparsity: float) -> None:
    """The share of pages installed is 1 - sparsity, for even spread and for clusters that straddle tables."""
    for cluster in (4096, 12288, 3 * MIB):
        pages = GIB // 4096
        row = run_batch(columns_of([Scenario(virt=GIB, sparsity=sparsity, cluster=cluster, seed=5)])).values[0, 0]
        extents = -(-GIB // cluster)
        sigma = (sparsity * (1 - sparsity) / extents) ** 0.5
        assert abs(row[AT["ptes_installed"]] / pages - (1 - sparsity)) < 5 * sigma


def test_every_place_is_as_likely() -> None:
    """Which pages of a table are resident is uniform: zap half of each table and half of the pages go."""
    for sparsity in (0.99, 0.3):
        scenario = Scenario(virt=16 * GIB, sparsity=sparsity, zap=MIB, zap_shift=MIB, coverage=0.5, seed=9)
        row = run_batch(columns_of([scenario])).values[0, 0]
        gone = int(row[AT["ptes_zapped"]])
        made = int(row[AT["zap_calls"]]) / (16 * GIB // MIB)
        assert abs(gone / int(row[AT["ptes_installed"]]) - made) < 0.01
