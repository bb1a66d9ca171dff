"""From tallies of the kernels to named columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import layout as lay
from engine.arch import ARCHES
from engine.encode import Encoded
from engine.outcome import COLUMNS, ROUND_COLUMNS, Results
from engine.policy import POLICIES
from engine.scenario import Columns

CLASS_OF_POLICY = (0, 1, 2, lay.BY_SLOT, lay.BY_SLOT, lay.BY_SLOT, lay.UNMAPPED)
"""Policies that keep the same tables share a class (engine/walk.py)."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What walks over parts of the same points add up to. Shapes as in engine/walk.py, a row a point."""

    per: NDArray[np.int64]
    work: NDArray[np.int64]
    sums: NDArray[np.int64]
    account: NDArray[np.int64]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.per + other.per, self.work + other.work, self.sums + other.sums, self.account + other.account)


def columns_apart(rows: int, columns: int) -> NDArray[np.int64]:
    """int64[rows, 7, columns] whose columns lie one after the other, as they are written and read."""
    return np.moveaxis(np.zeros((columns, rows, len(POLICIES)), np.int64), 0, 2)


def finish(points: Encoded, columns: Columns, seen: Tally) -> Results:
    """Named columns from tallies."""
    n = len(points.par)
    starts = points.offsets[:-1]
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[columns["arch"]]
    has_ipis = np.array([a.sends_ipis for a in ARCHES])[columns["arch"]]
    counts = np.diff(points.offsets)
    per_page = np.repeat(page, counts)
    zap_lane = np.array([0] * 6 + [1])

    def cumulative(column: int) -> NDArray[np.int64]:
        total = np.cumsum(seen.per[:, column])
        before = np.concatenate([[0], total])[starts]
        return np.asarray(total - np.repeat(before, counts))

    pmd_z, pud_z = cumulative(lay.PMD_NEW), cumulative(lay.PUD_NEW)
    kinds = np.array(CLASS_OF_POLICY)

    def tables(pte_at: int, pmd_m: int, pud_m: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        pte = seen.per[:, pte_at + kinds]
        pmd = np.where(zap_lane, seen.per[:, [pmd_m]], pmd_z[:, None])
        pud = np.where(zap_lane, seen.per[:, [pud_m]], pud_z[:, None])
        return pte, pmd, pud

    rounds = columns_apart(int(points.offsets[-1]), len(ROUND_COLUMNS))
    rounds[:, :, 0] = seen.per[:, lay.PAGES_PEAK + zap_lane] * per_page[:, None]
    rounds[:, :, 1] = seen.per[:, lay.PAGES_END + zap_lane] * per_page[:, None]
    peak = tables(lay.PTE_PEAK, lay.PMD_PEAK_M, lay.PUD_PEAK_M)
    end = tables(lay.PTE_END, lay.PMD_END_M, lay.PUD_END_M)
    rounds[:, :, 2] = sum(peak) * (per_page // 1024)[:, None]
    rounds[:, :, 3] = sum(end) * (per_page // 1024)[:, None]

    last = points.offsets[1:] - 1
    out = columns_apart(n, len(COLUMNS))
    at = {name: i for i, name in enumerate(COLUMNS)}
    for i, name in enumerate(ROUND_COLUMNS):
        out[:, :, at[name]] = rounds[last, :, i]
    out[:, :, at["vm_pte_kib_max"]] = np.maximum.reduceat(np.maximum(rounds[:, :, 2], rounds[:, :, 3]), starts, axis=0)
    need = seen.sums[:, [lay.NEED_PTE, lay.NEED_PMD, lay.NEED_PUD]].sum(axis=1)
    need_m = seen.sums[:, [lay.NEED_PTE_M, lay.NEED_PMD_M, lay.NEED_PUD_M]].sum(axis=1)
    kib = page // 1024
    out[:, :, at["vm_pte_kib_needed_end"]] = np.where(zap_lane, (need_m * kib)[:, None], (need * kib)[:, None])
    for name, values in zip(("pte_tables_end", "pmd_tables_end", "pud_tables_end"), end, strict=True):
        out[:, :, at[name]] = values[last]
    holding = np.where(zap_lane, seen.sums[:, [lay.NEED_PTE_M]], seen.sums[:, [lay.NEED_PTE]])
    out[:, :, at["pte_tables_empty_end"]] = out[:, :, at["pte_tables_end"]] - holding

    def by_lane(name: str, column: int, column_m: int) -> None:
        out[:, :, at[name]] = np.where(zap_lane, seen.sums[:, [column_m]], seen.sums[:, [column]])

    out[:, :, at["zap_calls"]] = seen.sums[:, [lay.CALLS]]
    by_lane("ptes_installed", lay.INSTALLED, lay.INSTALLED_M)
    by_lane("ptes_zapped", lay.ZAPPED, lay.ZAPPED_M)
    by_lane("force_breaks", lay.BREAKS, lay.BREAKS_M)
    for name, column in (
        ("table_visits", lay.VISITS),
        ("pte_tables_allocated", lay.ALLOCATED),
        ("pte_tables_freed", lay.FREED),
        ("ptes_rescanned", lay.RESCANNED),
        ("fast_paths", lay.FAST),
        ("slow_paths", lay.SLOW),
        ("pmd_trylocks", lay.TRYLOCKS),
        ("pmd_trylocks_failed", lay.FAILED),
        ("pmd_locks", lay.PMD_LOCKS),
        ("pte_locks_extra", lay.PTE_LOCKS),
    ):
        out[:, :, at[name]] = seen.work[:, :, column]
    refcount = POLICIES.index("refcount")
    out[:, refcount, at["atomics"]] = seen.sums[:, [lay.INSTALLED, lay.ZAPPED, lay.MARKED]].sum(axis=1)
    flushes = seen.account[:, : len(POLICIES)].copy()
    flushes[:, :-1] += seen.account[:, lay.ZAPPING :]
    out[:, :, at["tlb_flushes_full"]] = flushes[:, :, 0]
    out[:, :, at["tlb_invlpgs"]] = flushes[:, :, 1]
    others = np.where(has_ipis, columns["threads"] - 1, 0)
    out[:, :, at["ipis"]] = flushes[:, :, 2] * others[:, None]
    return Results(out, rounds, counts)
