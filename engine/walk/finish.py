"""From tallies of the kernels to named columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import Columns
from engine.walk import columns as lay
from engine.walk.encode import Encoded

CLASS_OF_POLICY = (0, 1, 2, lay.BY_SLOT, lay.BY_SLOT, lay.BY_SLOT, lay.UNMAPPED)
"""Policies that keep the same tables share a class (engine/walk/walk.py)."""
CLASSES = lay.UNMAPPED + 1
ByClass = Sequence[NDArray[np.int64]]
WORK_AT = (
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
)
"""Columns that stand in `work` as they are."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What walks over parts of the same points add up to. Shapes as in engine/walk/walk.py, a row a point."""

    per: NDArray[np.int64]
    work: NDArray[np.int64]
    sums: NDArray[np.int64]
    account: NDArray[np.int64]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.per + other.per, self.work + other.work, self.sums + other.sums, self.account + other.account)


def columns_apart(rows: int, columns: int) -> NDArray[np.int64]:
    """int64[rows, 7, columns], not filled, whose columns lie one after the other, as they are written and read."""
    return np.moveaxis(np.empty((columns, rows, len(POLICIES)), np.int64), 0, 2)


def finish(points: Encoded, columns: Columns, seen: Tally) -> Results:
    """Named columns from tallies."""
    counts = np.diff(points.offsets)
    several = bool((counts > 1).any())
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[columns["arch"]]
    out = columns_apart(len(points.kinds), len(COLUMNS))
    at = {name: i for i, name in enumerate(COLUMNS)}

    def by_lane(name: str, zapping: NDArray[np.int64], under_munmap: NDArray[np.int64]) -> None:
        put_lanes(out[:, :, at[name]], zapping, under_munmap)

    state = out[:, :, : len(ROUND_COLUMNS)]  # which COLUMNS begin with: of one round, the round's are the point's
    rounds = columns_apart(len(seen.per), len(ROUND_COLUMNS)) if several else state
    last = points.offsets[1:] - 1 if several else slice(None)
    tables_end = by_round(points.offsets, np.repeat(page, counts) if several else page, seen.per, rounds)
    if several:
        state[:] = rounds[last]
        most = np.maximum(rounds[:, :, 2], rounds[:, :, 3])
        out[:, :, at["vm_pte_kib_max"]] = np.maximum.reduceat(most, points.offsets[:-1], axis=0)
    else:
        np.maximum(rounds[:, :, 2], rounds[:, :, 3], out=out[:, :, at["vm_pte_kib_max"]])
    for name, by_class in zip(("pte_tables_end", "pmd_tables_end", "pud_tables_end"), tables_end, strict=True):
        put_classes(out[:, :, at[name]], [values[last] for values in by_class])
    sums = np.ascontiguousarray(seen.sums.T)
    need = sums[lay.NEED_PTE] + sums[lay.NEED_PMD] + sums[lay.NEED_PUD]
    need_m = sums[lay.NEED_PTE_M] + sums[lay.NEED_PMD_M] + sums[lay.NEED_PUD_M]
    by_lane("vm_pte_kib_needed_end", need * (page // 1024), need_m * (page // 1024))
    full = lanes(sums[lay.NEED_PTE], sums[lay.NEED_PTE_M])
    empty = [values[last] - held for values, held in zip(tables_end[0], full, strict=True)]
    put_classes(out[:, :, at["pte_tables_empty_end"]], empty)

    by_lane("zap_calls", sums[lay.CALLS], sums[lay.CALLS])
    by_lane("ptes_installed", sums[lay.INSTALLED], sums[lay.INSTALLED_M])
    by_lane("ptes_zapped", sums[lay.ZAPPED], sums[lay.ZAPPED_M])
    by_lane("force_breaks", sums[lay.BREAKS], sums[lay.BREAKS_M])
    for name, column in WORK_AT:
        out[:, :, at[name]] = seen.work[:, :, column]
    refcount = POLICIES.index("refcount")
    out[:, :, at["atomics"]] = 0
    out[:, refcount, at["atomics"]] = sums[lay.INSTALLED] + sums[lay.ZAPPED] + sums[lay.MARKED]
    for i, name in enumerate(("tlb_flushes_full", "tlb_invlpgs", "ipis")):
        own, munmap = seen.account[:, : len(POLICIES), i], POLICIES.index("munmap")
        np.add(own, seen.account[:, lay.ZAPPING, i, None], out=out[:, :, at[name]])
        out[:, munmap, at[name]] = own[:, munmap]
    others = np.array([a.sends_ipis for a in ARCHES])[columns["arch"]] * (columns["threads"] - 1)
    out[:, :, at["ipis"]] *= others[:, None]
    return Results(out, rounds, counts)


def by_round(
    offsets: NDArray[np.int64], page: NDArray[np.int64], per: NDArray[np.int64], out: NDArray[np.int64]
) -> tuple[ByClass, ...]:
    """PTE, PMD and PUD tables at the ends of all rounds, of each class; out: ROUND_COLUMNS, int64[rounds, 7, 4].

    offsets: int64[n + 1], where a point's rounds begin; page: int64[rounds], bytes; per: int64[rounds, lay.PER]
    """
    columns, kib = np.ascontiguousarray(per.T), page // 1024

    def cumulative(column: int) -> NDArray[np.int64]:
        total = np.cumsum(columns[column])
        before = np.append(0, total)[offsets[:-1]]
        return np.asarray(total - np.repeat(before, np.diff(offsets)))

    pmd, pud = (columns[at] if len(per) == len(offsets) - 1 else cumulative(at) for at in (lay.PMD_NEW, lay.PUD_NEW))
    for i, at in enumerate((lay.PAGES_PEAK, lay.PAGES_END)):
        put_lanes(out[:, :, i], columns[at] * page, columns[at + 1] * page)
    ends: tuple[ByClass, ...] = ()
    moments = (lay.PTE_PEAK, lay.PMD_PEAK_M, lay.PUD_PEAK_M), (lay.PTE_END, lay.PMD_END_M, lay.PUD_END_M)
    for i, (pte, pmd_m, pud_m) in enumerate(moments):
        ends = list(columns[pte : pte + CLASSES]), lanes(pmd, columns[pmd_m]), lanes(pud, columns[pud_m])
        put_classes(out[:, :, 2 + i], [(a + b + c) * kib for a, b, c in zip(*ends, strict=True)])
    return ends


def lanes(zapping: NDArray[np.int64], under_munmap: NDArray[np.int64]) -> ByClass:
    """What is the same under all zapping policies, by class."""
    return [zapping] * (CLASSES - 1) + [under_munmap]


def put_lanes(out: NDArray[np.int64], zapping: NDArray[np.int64], under_munmap: NDArray[np.int64]) -> None:
    """out: int64[n, 7], filled with what all zapping policies and what munmap has: int64[n] each."""
    put_classes(out, lanes(zapping, under_munmap))


def put_classes(out: NDArray[np.int64], by_class: ByClass) -> None:
    """out: int64[n, 7], filled with what the policies of each class have: int64[n] each."""
    for policy, number in enumerate(CLASS_OF_POLICY):
        out[:, policy] = by_class[number]
