"""Entry points of the engine: from columns of scenarios to Results. One pass computes all policies."""

import functools
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.compiled_passes import (
    PASSES,
    UNMAP_FLUSHES,
    arguments,
    batches_of_policies,
    general_passes_for,
    geometries,
    passes_for,
)
from engine.model.policy import ALL, Policy
from engine.model.results import Results
from engine.model.scenario import Columns, check
from engine.passes import unmap_flushes
from engine.reclaim.encode import Encoded, encode, encode_sizes
from engine.reclaim.finish import Tally, blank, finish


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
