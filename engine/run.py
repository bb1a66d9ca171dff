"""Entry points of the engine: from columns of scenarios to Results. One pass computes all policies."""

import functools
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.huge_pages import walk as huge
from engine.model.arch import ARCHES
from engine.model.policy import ALL, Policy
from engine.model.results import Results
from engine.model.scenario import ABSENT, Columns, Scenario, check, columns_of
from engine.numeric.compiled_cache import compiling, is_compiled
from engine.passes import parts, slots, unmap_flushes, walk
from engine.random.binomial import trylock_limits
from engine.reclaim.encode import Encoded, encode, encode_sizes
from engine.reclaim.finish import Tally, blank, finish, named
from engine.reclaim.point_groups import groups_of
from engine.reclaim.records import CONTENT, COUNTERS, OWN, TOTALS, UPPER
from engine.reclaim.rules import AFTER_CALL, AT_VISIT, BY_COUNT, encode_rules

POINT_NS = 6_000
"""Fixed time per point: to encode and finish it, and to write its rows."""
POLICIES_PER_PASS = 60
"""Limit of policies in one pass, which stores sets of policies as bits of an int64."""
SMALL_NS = 4_000_000_000
"""CPU time of less work than it takes to compile a pass (6 to 9 s)."""


@dataclass(eq=False)
class Pass:
    """One compiled pass over an address space.

    function: the compiled function; see `arguments`
    scratch_for: allocates its scratch memory for points (PARAMETERS[n]) and rules (RULE[policies])
    fits: returns which points (PARAMETERS[n]) it can compute under these rules (RULE[policies]), as bool[n]
    """

    function: Any
    scratch_for: Callable[[NDArray[np.void], NDArray[np.void]], Any]
    fits: Callable[[NDArray[np.void], NDArray[np.void]], NDArray[np.bool_]]
    is_ready: bool = False

    @property
    def name(self) -> str:
        return str(self.function.py_func.__name__)

    @property
    def is_compiled(self) -> bool:
        """Whether the cache folder has its compiled code."""
        return is_compiled(self.name)

    def load(self) -> None:
        """Load the compiled code, compiling it first if it is not in the cache. Does nothing if it is loaded."""
        with _loading:
            if not self.is_ready:
                columns = columns_of([Scenario(virt=1 << 21, sparsity=0.0)])
                points = encode(columns)
                rules = encode_rules(ALL, ARCHES[0].page_bytes, ARCHES[0].entries)
                with compiling(self.name):
                    self.function(*arguments(self, points, points.par, np.zeros(0, np.int64), rules, blank(points, 7)))
                self.is_ready = True


def fits_all(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.ones(len(par), np.bool_)


WALK, SLOTS, PARTS, HUGE, UNMAP_FLUSHES = range(5)
PASSES = (
    Pass(walk.walk, walk.scratch_for, fits_all),
    Pass(slots.walk_slots, slots.scratch_for, slots.fits),
    Pass(parts.walk_parts, parts.scratch_for, parts.fits),
    Pass(huge.walk_huge, huge.scratch_for, huge.fits),
    Pass(unmap_flushes.add_unmap_flushes, unmap_flushes.scratch_for, unmap_flushes.fits),
)
"""The last one completes what another pass computed."""
_loading = threading.Lock()


def run_batch(columns: Columns, policies: Sequence[Policy] = ALL, general: bool = False) -> Results:
    """Return the results of all points of complete columns (engine.model.scenario.complete). Raises ScenarioError.

    general: as in `tally`; the results are the same
    """
    check(columns)
    points = encode(columns)
    return finish(points, columns, tally(points, policies, general=general), policies)


def run_sharded(columns: Columns, index: int, parts: int) -> Results:
    """Return the results of point number `index`, computed in up to `parts` shards. They equal those of run_batch."""
    one = {name: values[index : index + 1] for name, values in columns.items()}
    return results_of_shards(one, [run_shard(one, first, end) for first, end in shard_ranges(one, parts)])


def shard_ranges(one: Columns, parts: int) -> list[tuple[int, int]]:
    """Return at most `parts` ranges [first, end) of the tables of one point, for run_shard. Raises ScenarioError."""
    check(one)
    return divide_tables(encode_sizes(one)[0], parts)


def run_shard(one: Columns, first: int, end: int, policies: Sequence[Policy] = ALL, general: bool = False) -> Tally:
    """Return the raw counters of tables [first, end) of one point. general: as in `tally`. Raises ScenarioError."""
    check(one)
    return tally(encode(one), policies, first, end, general)


def results_of_shards(one: Columns, tallies: Sequence[Tally], policies: Sequence[Policy] = ALL) -> Results:
    """Return the results of one point from the tallies of all its shards, in any order."""
    return finish(encode(one), one, functools.reduce(operator.add, tallies), policies)


def divide_tables(par: NDArray[np.void], parts: int) -> list[tuple[int, int]]:
    """Return at most `parts` ranges [first, end) of tables that can be computed separately.

    par: PARAMETERS of one point. No border is inside the span of a PUD table (a PMD table where PUDs are folded) or
    inside a call. A point with several threads is not divided, because they move in lock step over all tables.
    """
    tables = int(par["end_table"])
    unit = int(par["pud_span"] or par["pmd_span"])
    entries, zap, shift = int(par["entries"]), int(par["zap"]), int(par["shift"])
    if parts < 2 or par["threads"] > 1:
        return [(0, tables)]
    wanted = [round(i * tables / parts / unit) * unit for i in range(1, parts)]
    borders = sorted(
        {t for t in wanted if 0 < t < tables and (t * entries <= shift or (t * entries - shift) % zap == 0)}
    )
    return list(zip([0, *borders], [*borders, tables], strict=True))


def batches_of_policies(policies: Sequence[Policy]) -> Iterator[Sequence[Policy]]:
    """Yield the policies in order, at most POLICIES_PER_PASS at a time."""
    for first in range(0, len(policies), POLICIES_PER_PASS):
        yield policies[first : first + POLICIES_PER_PASS]


def geometries(
    par: NDArray[np.void], policies: Sequence[Policy]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.void]]]:
    """Yield, for each number of entries per table among the points, bool[n] (the points with it) and the rules.

    par: PARAMETERS[n]. The rules, RULE[policies], are encoded for that table size.
    """
    for arch in {arch.entries: arch for arch in ARCHES}.values():
        has_geometry = par["entries"] == arch.entries
        if has_geometry.any():
            yield has_geometry, encode_rules(policies, arch.page_bytes, arch.entries)


def general_passes_for(par: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the index in PASSES of the general pass for each point, int64[n]: HUGE for huge pages, else WALK."""
    return np.where(par["thp"] != 0, HUGE, WALK)


def passes_for(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the index in PASSES of the fastest pass for each point, int64[n]."""
    return np.select(
        [huge.fits(par, rules), slots.fits(par, rules), parts.fits(par, rules)], [HUGE, SLOTS, PARTS], WALK
    )


def tally(
    points: Encoded, policies: Sequence[Policy] = ALL, first: int = 0, end: int | None = None, general: bool = False
) -> Tally:
    """Return the raw counters of tables [first, end) of every point (default: all tables).

    general: use the general pass (see general_passes_for) even for points that a faster one fits
    """
    par = points.par
    if end is not None:
        par = par.copy()
        par["first_table"], par["end_table"] = first, end
    tallies = [tally_batch(points, par, part, general) for part in batches_of_policies(policies)]
    return functools.reduce(Tally.beside, tallies)


def tally_batch(points: Encoded, par: NDArray[np.void], policies: Sequence[Policy], general: bool) -> Tally:
    """As `tally`, of at most POLICIES_PER_PASS policies and of the tables that par, PARAMETERS[groups], names."""
    out = blank(points, len(policies))
    for has_geometry, rules in geometries(par, policies):
        chosen = np.where(has_geometry, general_passes_for(par) if general else passes_for(par, rules), -1)
        completed = has_geometry & unmap_flushes.fits(par, rules)
        for index, one_pass in enumerate(PASSES):
            groups = np.flatnonzero(completed if index == UNMAP_FLUSHES else chosen == index)
            if groups.size:
                one_pass.load()
                one_pass.function(*arguments(one_pass, points, par, groups, rules, out))
    return out


def arguments(
    one_pass: Pass,
    points: Encoded,
    par: NDArray[np.void],
    groups: NDArray[np.int64],
    rules: NDArray[np.void],
    out: Tally,
) -> tuple[Any, ...]:
    """Return the arguments of a pass (engine.passes.walk.walk) for the points of these groups.

    groups: indexes in `par`; may be empty. out: the pass adds its counters to it
    """
    is_selected = np.zeros(len(par), np.bool_)
    is_selected[groups] = True
    rows = np.flatnonzero(is_selected[points.groups])
    scratch = one_pass.scratch_for(par[groups] if groups.size else par, rules)
    of_points = points.groups, points.seeds, par, points.lim, points.cdfs
    if one_pass is PASSES[UNMAP_FLUSHES]:
        return scratch, rows, *of_points, rules, named(out.counters, COUNTERS)
    inputs = *of_points, trylock_limits(), points.offsets, rules
    records = (
        named(out.upper, UPPER),
        named(out.counters, COUNTERS),
        named(out.contents, CONTENT),
        named(out.totals, TOTALS),
    )
    if one_pass is PASSES[HUGE]:
        return scratch, rows, *inputs, out.tables, out.pages, *records, named(out.own, OWN), out.own_pages
    return scratch, rows, *inputs, out.tables, out.pages, *records


def passes_needed(columns: Columns, policies: Sequence[Policy] = ALL, general: bool = False) -> frozenset[int]:
    """Return the indexes in PASSES of the passes that these points need. general: as in `tally`."""
    par = encode_sizes(groups_of(columns)[0])
    needed = set[int]()
    for part in batches_of_policies(policies):
        for has_geometry, rules in geometries(par, part):
            some = par[has_geometry]
            needed.update((general_passes_for(some) if general else passes_for(some, rules)).tolist())
            needed.update([UNMAP_FLUSHES] if unmap_flushes.fits(some, rules).any() else [])
    return frozenset(needed)


def load(columns: Columns, policies: Sequence[Policy] = ALL, general: bool = False) -> None:
    """Load the passes that these columns need, compiling them if necessary. general: as in `tally`.

    The order depends on the process id, so that several processes compile different passes at the same time.
    """
    for number in sorted(
        passes_needed(columns, policies, general), key=lambda number: (number + os.getpid()) % len(PASSES)
    ):
        PASSES[number].load()


def pays_general(passes: Iterable[int], general_passes: Iterable[int], general_ns: float) -> bool:
    """Whether general passes should compute points that faster ones fit: little work, and fewer passes to compile.

    passes, general_passes: indexes in PASSES of the passes needed; general_ns: CPU time of the general ones
    """
    to_compile, general_to_compile = (
        sum(not PASSES[number].is_compiled for number in numbers) for numbers in (passes, general_passes)
    )
    return general_ns < SMALL_NS and general_to_compile < to_compile


def load_compiled(numbers: Iterable[int]) -> None:
    """Load those passes that are compiled already. `numbers`: indexes in PASSES."""
    for number in numbers:
        if PASSES[number].is_compiled:
            PASSES[number].load()


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
