"""The compiled passes: which one computes a point, what they are called with, and when they are compiled and loaded."""

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
from engine.model.scenario import Columns, Scenario, columns_of
from engine.numeric.compiled_cache import compiling, is_compiled
from engine.passes import parts, slots, unmap_flushes, walk
from engine.random.binomial import trylock_limits
from engine.reclaim.encode import Encoded, encode, encode_sizes
from engine.reclaim.finish import Tally, blank, named
from engine.reclaim.point_groups import groups_of
from engine.reclaim.records import CONTENT, COUNTERS, OWN, TOTALS, UPPER
from engine.reclaim.rules import encode_rules

POLICIES_PER_PASS = 60
"""Limit of policies in one pass, which stores sets of policies as bits of an int64."""


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


def load_compiled(numbers: Iterable[int]) -> None:
    """Load those passes that are compiled already. `numbers`: indexes in PASSES."""
    for number in numbers:
        if PASSES[number].is_compiled:
            PASSES[number].load()
