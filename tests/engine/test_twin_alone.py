"""The twin against values worked out by hand, so that an error common to twin and engine is found."""

from fractions import Fraction
from math import comb

import pytest

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, Results
from engine.model.scenario import Scenario
from tests.twin import walk
from tests.twin.draws import (
    Stream,
    binomial_thresholds,
    distinct_places,
    draw,
    key,
    resident_places,
    span_thresholds,
)

KIB, MIB = 1 << 10, 1 << 20


def figures(results: Results, policy: str) -> dict[str, int]:
    """Return the columns of one policy by name."""
    return dict(zip(COLUMNS, results.values[0, POLICIES.index(policy)].tolist(), strict=True))


def test_draws_are_splitmix64() -> None:
    """Draws with key 0 are the published outputs of SplitMix64, and no two streams share a key."""
    assert [draw(0, i) for i in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert len({key(0, r, what) for r in range(3) for what in Stream}) == 3 * len(Stream)


def test_binomial_thresholds_are_exact() -> None:
    """The thresholds are floors of the exact CDF, also for p = 0, p = 1 and a tail below 2^-64."""
    assert binomial_thresholds(2, Fraction(1, 2)) == (1 << 62, 3 << 62)
    p, n = Fraction(3, 10), 16
    total = Fraction(0)
    for j, got in enumerate(binomial_thresholds(n, p)):
        total += comb(n, j) * p**j * (1 - p) ** (n - j)
        assert got == (total.numerator << 64) // total.denominator
    assert binomial_thresholds(4, Fraction(0)) == (1 << 64,) * 4
    assert binomial_thresholds(4, Fraction(1)) == (0,) * 4
    assert len(binomial_thresholds(512, Fraction(1, 10**6))) == 512


def test_places_come_lowest_bits_first() -> None:
    """Places are read from a draw's lowest bits up; places that are not allowed are skipped."""
    first = draw(5, 7 * 4096)
    assert distinct_places(5, 7, 512, set(range(512)), 2) == {first & 511, first >> 9 & 511}
    assert distinct_places(5, 7, 512, set(range(512)) - {first & 511}, 1) == {first >> 9 & 511}


def test_spans_count_subsets() -> None:
    """2 of 4 places: three pairs with distance 1, two with 2, one with 3; and k places are drawn for every k."""
    assert span_thresholds(4, 2) == (0, 3 * (1 << 64) // 6, 5 * (1 << 64) // 6)
    assert span_thresholds(4, 1) == (1 << 64,) * 3
    assert span_thresholds(4, 4) == (0,) * 3
    for k in range(9):
        places = resident_places([1, 2, 3, 4, 5, 6, 7], 11, 8, k)
        assert len(places) == k
        assert places <= set(range(8))


def test_published_case_scaled() -> None:
    """Commit 6375e95f381e: touch 2 MiB and zap it with MADV_DONTNEED; here 32 times."""
    results = walk.run(Scenario(virt=64 * MIB, sparsity=0.0))
    for policy in POLICIES:
        got = figures(results, policy)
        freed = 0 if policy == "none" else 32
        above = 0 if policy == "munmap" else 1
        assert got["pte_tables_freed"] == freed, policy
        assert got["pte_tables_end"] == 32 - freed, policy
        assert got["vm_pte_kib_peak"] == got["vm_pte_kib_max"] == 34 * 4, policy
        assert got["vm_pte_kib_end"] == 4 * (32 - freed + 2 * above), policy
        assert got["vm_pte_kib_needed_end"] == 0, policy
        assert got["res_bytes_peak"] == 64 * MIB, policy
        assert got["ptes_installed"] == got["ptes_zapped"] == 32 * 512, policy
        assert got["zap_calls"] == got["table_visits"] == 32, policy
    assert figures(results, "merged")["fast_paths"] == figures(results, "seed_inline")["fast_paths"] == 32
    assert figures(results, "second_walk")["ptes_rescanned"] == figures(results, "async")["ptes_rescanned"] == 32 * 512
    assert figures(results, "refcount")["atomics"] == 2 * 32 * 512


def test_calls_shifted_by_a_page_cover_no_slot() -> None:
    """With all calls shifted by a page, only policies that look at single entries free a table."""
    results = walk.run(Scenario(virt=16 * MIB, sparsity=0.0, zap_shift=4 * KIB))
    for policy, tables in (("none", 8), ("second_walk", 8), ("seed_inline", 8), ("merged", 8), ("refcount", 1)):
        got = figures(results, policy)
        assert got["pte_tables_end"] == tables, policy
        assert got["res_bytes_end"] == 4 * KIB, policy
        assert got["pte_tables_empty_end"] == tables - 1, policy
    assert figures(results, "async")["pte_tables_end"] == figures(results, "munmap")["pte_tables_end"] == 1
    assert figures(results, "munmap")["pud_tables_end"] == 1


def test_two_half_calls_never_free_a_table() -> None:
    """Two calls of 1 MiB empty a table that merged keeps and refcount frees."""
    results = walk.run(Scenario(virt=2 * MIB, sparsity=0.0, zap=MIB))
    assert figures(results, "merged")["pte_tables_empty_end"] == 1
    assert figures(results, "refcount")["pte_tables_end"] == 0


def test_slot_cut_off_by_the_end_is_not_whole() -> None:
    """The whole-slot policies keep the last table of a VMA that ends inside its slot."""
    results = walk.run(Scenario(virt=3 * MIB, sparsity=0.0, zap=4 * MIB))
    assert [figures(results, p)["pte_tables_freed"] for p in POLICIES] == [0, 2, 2, 1, 1, 1, 2]


def test_guard_marker_pins_its_table() -> None:
    """A table of guard markers is kept under every policy but munmap, which removes the markers."""
    results = walk.run(Scenario(virt=4 * MIB, sparsity=0.5, pinned=1.0, rounds=2))
    for policy in POLICIES:
        got = figures(results, policy)
        assert got["ptes_installed"] == got["res_bytes_peak"] == 0
        # A freed table each call, stride 2 MiB; the last frees the upper tables too, from the first page on.
        assert got["tlb_invlpgs"] == (3 if policy == "munmap" else 0) * 2
        assert got["pte_tables_allocated"] == (4 if policy == "munmap" else 2)
        assert got["pte_tables_end"] == (0 if policy == "munmap" else 2)
        assert got["ptes_zapped"] == (2048 if policy == "munmap" else 0)
        assert got["vm_pte_kib_needed_end"] == (0 if policy == "munmap" else 16)
    assert figures(results, "refcount")["atomics"] == 1024


def test_gather_fills_after_9678_pages() -> None:
    """The gather is full after 9,678 pages, 18.9 dense tables: the break is on entry 461 of table 18."""
    results = walk.run(Scenario(virt=40 * MIB, sparsity=0.0, zap=40 * MIB, threads=3))
    for policy in POLICIES:
        got = figures(results, policy)
        assert got["force_breaks"] == 1, policy
        assert got["tlb_flushes_full"] == 2, policy
        assert got["tlb_invlpgs"] == (20 if policy == "async" else 0), policy  # the scan's flush has a stride of 2 MiB
        assert got["ipis"] == (6 if policy == "async" else 4), policy
    merged, seed = figures(results, "merged"), figures(results, "seed_inline")
    assert (merged["fast_paths"], merged["slow_paths"], merged["ptes_rescanned"]) == (19, 1, 512)
    assert (seed["fast_paths"], seed["slow_paths"], seed["ptes_rescanned"]) == (19, 1, 462)
    assert (merged["pmd_trylocks"], seed["pmd_trylocks"]) == (19, 20)


@pytest.mark.parametrize(("pages", "breaks", "rescanned"), [(9_677, 0, 0), (9_678, 1, 0), (9_679, 1, 0)])
def test_gather_one_page_less_and_more(pages: int, breaks: int, rescanned: int) -> None:
    """9,678 pages are the fewest that cause a force break."""
    results = walk.run(Scenario(virt=pages * 4 * KIB, sparsity=0.0, zap=40 * MIB))
    assert figures(results, "none")["force_breaks"] == breaks
    assert figures(results, "merged")["ptes_rescanned"] == rescanned  # the broken slot is cut off: not whole


def test_folios_fill_the_gather_by_two_slots() -> None:
    """A run of several pages takes two places of the gather, whatever its length."""
    results = walk.run(Scenario(virt=48 * MIB, sparsity=0.0, zap=48 * MIB, folio=8 * KIB))
    assert figures(results, "none")["force_breaks"] == 1  # after 4 + 19 x 255 folios: 9,698 pages
    assert figures(results, "seed_inline")["ptes_rescanned"] == 9_698 - 18 * 512
    results = walk.run(Scenario(virt=48 * MIB, sparsity=0.0, zap=48 * MIB, folio=64 * KIB))
    assert figures(results, "none")["force_breaks"] == 0


@pytest.mark.parametrize(("pages", "full", "invlpgs"), [(33, 0, 33), (34, 1, 0)])
def test_flush_ceiling(pages: int, full: int, invlpgs: int) -> None:
    """Up to 33 pages are flushed one by one, more by a full flush."""
    got = figures(walk.run(Scenario(virt=pages * 4 * KIB, sparsity=0.0)), "none")
    assert (got["tlb_flushes_full"], got["tlb_invlpgs"]) == (full, invlpgs)


def test_table_batch_holds_509() -> None:
    """A call that frees 510 tables flushes when 509 are held, and once more at its end."""
    results = walk.run(Scenario(virt=1020 * MIB, sparsity=0.98, zap=1020 * MIB, threads=2))
    assert figures(results, "none")["ipis"] == 1
    assert figures(results, "merged")["ipis"] == 2
    assert figures(results, "async")["ipis"] == 1 + 2


def test_refaults_bring_tables_back() -> None:
    """A refault allocates a freed table again, and keeps second_walk from freeing it."""
    results = walk.run(Scenario(virt=4 * MIB, sparsity=0.0, refault=1.0))
    merged, munmap = figures(results, "merged"), figures(results, "munmap")
    assert (merged["pte_tables_allocated"], merged["pte_tables_freed"], merged["fast_paths"]) == (4, 2, 2)
    assert figures(results, "second_walk")["pte_tables_freed"] == 0
    assert figures(results, "second_walk")["ptes_rescanned"] == 2
    assert (munmap["pte_tables_allocated"], munmap["res_bytes_end"]) == (2, 0)


def test_madv_free_frees_nothing_and_flushes_what_was_written() -> None:
    """MADV_FREE clears no entry and frees no table, except under munmap, and flushes pages written since the last."""
    results = walk.run(Scenario(virt=4 * MIB, sparsity=0.0, advice="free", rounds=2))
    for policy in POLICIES[:-1]:
        got = figures(results, policy)
        assert (got["ptes_zapped"], got["pte_tables_freed"], got["ptes_installed"]) == (0, 0, 1024), policy
        assert got["tlb_flushes_full"] == 4, policy
        assert got["fast_paths"] == got["slow_paths"] == 0, policy
    assert figures(results, "munmap")["pte_tables_freed"] == 4


def test_threads_change_counters_only() -> None:
    """Threads change only the columns of locks, paths and scans, and only under seed_inline and merged."""
    one = walk.run(Scenario(virt=128 * MIB, sparsity=0.99, arch="arm64-4k"))
    many = walk.run(Scenario(virt=128 * MIB, sparsity=0.99, arch="arm64-4k", threads=9))
    changed = {"fast_paths", "slow_paths", "pmd_trylocks_failed", "pmd_locks", "pte_locks_extra", "ptes_rescanned"}
    for policy in POLICIES:
        before, after = figures(one, policy), figures(many, policy)
        different = {name for name in COLUMNS if before[name] != after[name]}
        assert different == (changed if policy in ("seed_inline", "merged") else set()), policy
    got = figures(many, "merged")
    assert got["fast_paths"] + got["slow_paths"] == got["pmd_trylocks"] == 64
    assert got["pmd_trylocks_failed"] == got["slow_paths"] == got["ptes_rescanned"] // 512


def test_no_pud_tables_with_64k_pages() -> None:
    """With 64 KiB pages the PUD level is folded."""
    results = walk.run(Scenario(virt=512 * MIB, sparsity=0.999, arch="arm64-64k"))
    assert figures(results, "none")["pud_tables_end"] == 0
    assert figures(results, "none")["vm_pte_kib_end"] == 2 * 64
    assert figures(results, "merged")["vm_pte_kib_end"] == 64
