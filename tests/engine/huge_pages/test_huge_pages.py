"""Huge pages: flushes as kernels counted them, and what becomes of slots under each policy."""

import pytest

from engine.compiled_passes import HUGE, passes_needed
from engine.model.arch import GIB, KIB, MIB
from engine.model.policy import BUILT_IN, POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch


def outcomes(scenario: Scenario) -> dict[str, dict[str, int]]:
    """Return all columns under each policy."""
    values = run_batch(columns_of([scenario])).values[0]
    return {policy: dict(zip(COLUMNS, row.tolist(), strict=True)) for policy, row in zip(POLICIES, values, strict=True)}


@pytest.mark.parametrize(
    ("zap", "flushes", "full", "single"),
    [
        (4 * KIB, 16_384 + 32, 32, 16_384),
        (64 * KIB, 1_024 + 32, 32, 16_384),
        (MIB, 64 + 32, 96, 0),
        (2 * MIB, 32, 0, 32),
        (3 * MIB, 22 + 11, 33, 0),
        (4 * MIB, 16, 0, 32),
        (16 * MIB, 4, 0, 32),
        (64 * MIB, 1, 0, 32),
    ],
)
def test_flushes_as_counted_in_kernels(zap: int, flushes: int, full: int, single: int) -> None:
    """Zapping 64 MiB of huge pages flushes as a kprobe on flush_tlb_mm_range counted in Linux 6.16 and 7.3."""
    scenario = Scenario(virt=64 * MIB, sparsity=0.0, zap=zap, thp="always", threads=2)
    merged = outcomes(scenario)["merged"]
    assert (merged["ipis"], merged["tlb_flushes_full"], merged["tlb_invlpgs"]) == (flushes, full, single)
    assert merged["thp_splits"] == (32 if zap < 2 * MIB else 11 if zap == 3 * MIB else 0)


def test_freeing_tables_brings_huge_pages_back() -> None:
    """A few pages written in each of 64 slots: where halves left a table they bring pages, elsewhere 2 MiB each."""
    halves, whole = (
        outcomes(Scenario(virt=128 * MIB, sparsity=0.98, thp="always", rounds=2, zap=zap)) for zap in (MIB, 2 * MIB)
    )
    full = 128 * MIB
    assert {policy: row["res_bytes_peak"] for policy, row in whole.items()} == dict.fromkeys(POLICIES, full)
    eager = [policy for policy, row in halves.items() if row["res_bytes_peak"] == full]
    assert eager == ["refcount", "async", "munmap"]
    assert halves["merged"] == halves["none"] | {"atomics": 0}
    assert halves["merged"]["res_bytes_peak"] < full // 20
    assert halves["refcount"]["anon_huge_kib_peak"] == 128 * KIB


def test_thp_never_has_no_huge_pages() -> None:
    """Without huge pages their columns are 0, and a point takes another pass."""
    scenario = Scenario(virt=GIB, sparsity=0.5)
    assert {row["thp_faults"] + row["anon_huge_kib_peak"] for row in outcomes(scenario).values()} == {0}
    assert HUGE not in passes_needed(columns_of([scenario]))
    assert passes_needed(columns_of([Scenario(virt=GIB, sparsity=0.5, thp="always")])) == {HUGE}


def test_unmapping_rules_share_nothing_with_zapping_ones() -> None:
    """A policy has the rows that it has alone, also where it is the first of a batch."""
    columns = columns_of([Scenario(virt=10 * MIB, sparsity=0.9, zap=MIB, coverage=0.7, rounds=3, thp="always")])
    together = run_batch(columns).values[0]
    for order in (("munmap", "refcount"), ("merged", "munmap")):
        rows = run_batch(columns, [BUILT_IN[name] for name in order]).values[0]
        assert [rows[0].tolist(), rows[1].tolist()] == [together[POLICIES.index(name)].tolist() for name in order]
