"""Forecast of the CPU time of points and of the passes that they need."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.compiled_passes import (
    PASSES,
    UNMAP_FLUSHES,
    batches_of_policies,
    general_passes_for,
    geometries,
    passes_for,
)
from engine.model.policy import ALL, Policy
from engine.model.scenario import ABSENT, Columns
from engine.passes import unmap_flushes
from engine.reclaim.encode import encode_sizes
from engine.reclaim.point_groups import groups_of
from engine.reclaim.rules import AFTER_CALL, AT_VISIT, BY_COUNT

POINT_NS = 6_000
"""Fixed time per point: to encode and finish it, and to write its rows."""
SMALL_NS = 4_000_000_000
"""CPU time of less work than it takes to compile a pass (6 to 9 s)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected CPU time of n points.

    ns: float64[n], nanoseconds. A first estimate for batching, which is corrected by the measured times of batches.
    passes: indexes in PASSES of the passes that the points need
    general_ns, general_passes: likewise if the general passes compute them (see `pays_general`)
    """

    ns: NDArray[np.float64]
    passes: frozenset[int]
    general_ns: NDArray[np.float64]
    general_passes: frozenset[int]


def forecast(columns: Columns, policies: Sequence[Policy] = ALL) -> Forecast:
    """Return the expected CPU time of each point, and the passes that are needed."""
    columns, group = groups_of(columns)
    par = encode_sizes(columns)
    entries, rounds, zap = par["entries"], par["rounds"], par["zap"]
    p = np.where(columns["res"] != ABSENT, columns["res"] / columns["virt"], 1 - columns["sparsity"])
    places = np.maximum(par["places"], 1)
    placed = 2.0 * np.minimum(p, 1 - p) * places * (places > 1)
    touched = 1 - (1 - p) ** places
    calls = np.maximum(entries / zap, 1)
    keeps_pages = (columns["coverage"] < 1) & (rounds > 1) & (places > 1)  # pages left by a round need single entries
    spans = par["cluster"] > entries
    by_slots = np.where(spans, 4.6, 2.2 + 2.4 * touched * (places > 1))  # extents that span slots are looked up
    # To see whether a PMD table exists, munmap looks at one extent after the other until one has pages.
    extents = par["pmd_span"] / np.maximum(par["cluster"] // entries, 1)
    looked_at = np.where(p > 0, (1 - (1 - p) ** extents) / np.maximum(p, 1e-12), extents)
    by_upper = np.where(spans & (columns["coverage"] == 1), 1 + 50 * looked_at / par["pmd_span"], 0)
    by_slots += np.where(zap > entries, 25 * touched, 0) + np.where(keeps_pages, 15 + 1.5 * placed, 0)
    by_slots += np.where(columns["threads"] > 1, 10 * touched, 0)
    by_parts = 20 + touched * 130 + 1.5 * placed + 0.5 * calls
    by_walk = 250 + placed + 28 * calls + 5.0 * p * entries * (columns["refault"] > 0)
    by_huge = 300 + placed + 60 * np.minimum(calls, 32) + 5.0 * p * entries * (columns["refault"] > 0)
    only_whole = (zap % entries == 0) & (par["shift"] % entries == 0) & (par["free"] == 0) & (columns["refault"] == 0)
    by_huge = np.where(only_whole & (columns["pinned"] == 0), 60, by_huge)
    table_ns, general_table_ns, passes = np.zeros(len(par)), np.zeros(len(par)), set[int]()
    general = general_passes_for(par)
    general_passes = set[int](np.unique(general).tolist())
    for part in batches_of_policies(policies):
        number, reading = np.zeros(len(par), np.int64), np.zeros(len(par))
        for has_geometry, rules in geometries(par, part):
            number[has_geometry] = passes_for(par[has_geometry], rules)
            reading[has_geometry] = reading_rules(par[has_geometry], rules)
            if (unmaps := unmap_flushes.fits(par[has_geometry], rules)).any():
                passes.add(UNMAP_FLUSHES)
                general_passes.add(UNMAP_FLUSHES)
                table_ns[has_geometry] += by_upper[has_geometry] * unmaps
        walking = by_walk + 10 * len(part) + 15 * reading * calls
        table_ns += np.choose(number, (walking, by_slots, by_parts + 150 * touched * (reading > 0), by_huge))
        general_table_ns += np.choose(general, (walking, by_slots, by_parts, by_huge))
        passes.update(np.unique(number).tolist())
    ns, general_ns = (
        np.asarray(par["end_table"] * rounds * of_table + POINT_NS, np.float64)
        for of_table in (table_ns, general_table_ns)
    )
    return Forecast(ns[group], frozenset(passes), general_ns[group], frozenset(general_passes))


def reading_rules(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.int64]:
    """Return how many of the rules, RULE[policies], read entries after calls below a slot's size, int64[n]."""
    reads = np.isin(rules["when"], (AT_VISIT, AFTER_CALL)) & (rules["proof"] != BY_COUNT)
    smallest = np.minimum(par["zap"], par["entries"] - 1)
    return np.asarray((reads[None] & (rules["least"][None] <= smallest[:, None])).sum(axis=1))


def pays_general(passes: Iterable[int], general_passes: Iterable[int], general_ns: float) -> bool:
    """Whether general passes should compute points that faster ones fit: little work, and fewer passes to compile.

    passes, general_passes: indexes in PASSES of the passes needed; general_ns: CPU time of the general ones
    """
    to_compile, general_to_compile = (
        sum(not PASSES[number].is_compiled for number in numbers) for numbers in (passes, general_passes)
    )
    return general_ns < SMALL_NS and general_to_compile < to_compile
