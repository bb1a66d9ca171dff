"""The engine's entry points: columns of scenarios in, results out; one pass over an address space for all policies."""

import functools
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES
from engine.model.policy import ALL, Policy
from engine.model.results import Results
from engine.model.scenario import ABSENT, Columns, Scenario, check, columns_of
from engine.numeric.compiled_cache import compiling, is_compiled
from engine.random.binomial import trylock_limits
from engine.reclaim import parts, slots, walk
from engine.reclaim.encode import Encoded, encode, encode_sizes
from engine.reclaim.finish import Tally, blank, finish, named
from engine.reclaim.point_groups import groups_of
from engine.reclaim.records import COUNTERS, LANE, TOTALS, UPPER
from engine.reclaim.rules import encode_rules

ROW_NS = 6_000
"""Time of a point of no size: to encode and finish it, and to write its rows."""
POLICIES_PER_PASS = 60
"""A pass has a bit for each policy in int64."""


@dataclass(eq=False)
class Pass:
    """One way over an address space: a compiled function, its scratch memory, and the points it is for.

    fits: which points (PARAMETERS[n]) under which rules (RULE[policies])
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
        """Whether some process of this machine has compiled it."""
        return is_compiled(self.name)

    def load(self) -> None:
        """Load its code, compiling it if no process of this machine has."""
        with _loading:
            if not self.is_ready:
                columns = columns_of([Scenario(virt=1 << 21, sparsity=0.0)])
                points = encode(columns)
                rules = encode_rules(ALL, ARCHES[0].page_bytes, ARCHES[0].entries)
                with compiling(self.name):
                    self.function(*arguments(self, points, points.par, np.zeros(0, np.int64), rules, blank(points, 7)))
                self.is_ready = True


def any_point(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.ones(len(par), np.bool_)


WALK, SLOTS, PARTS = range(3)
PASSES = (
    Pass(walk.walk, walk.scratch_for, any_point),
    Pass(slots.walk_slots, slots.scratch_for, slots.fits),
    Pass(parts.walk_parts, parts.scratch_for, parts.fits),
)
_loading = threading.Lock()


def run_batch(columns: Columns, policies: Sequence[Policy] = ALL) -> Results:
    """Outcomes of complete columns (engine.model.scenario.complete), each point by itself. Raises ScenarioError."""
    check(columns)
    points = encode(columns)
    first, *others = [finish(points, columns, tally(points, some), some) for some in batches_of_policies(policies)]
    if not others:
        return first
    values, rounds = ([getattr(results, name) for results in (first, *others)] for name in ("values", "rounds"))
    return Results(np.concatenate(values, axis=1), np.concatenate(rounds, axis=1), first.round_counts)


def run_sharded(columns: Columns, index: int, parts: int) -> Results:
    """One point, judged in up to `parts` shards: the same bits as run_batch."""
    one = {name: values[index : index + 1] for name, values in columns.items()}
    return gathered(one, [run_shard(one, first, end) for first, end in cuts(one, parts)])


def cuts(one: Columns, parts: int) -> list[tuple[int, int]]:
    """Ranges of tables of one point, at most `parts`, that run_shard may judge apart."""
    check(one)
    return shards(encode_sizes(one)[0], parts)


def run_shard(one: Columns, first: int, end: int, policies: Sequence[Policy] = ALL) -> Tally:
    """The tally of tables [first, end) of one point."""
    check(one)
    return tally(encode(one), policies, first, end)


def gathered(one: Columns, tallies: Sequence[Tally], policies: Sequence[Policy] = ALL) -> Results:
    """The outcome of one point from the tallies of all its shards, in any order."""
    return finish(encode(one), one, functools.reduce(operator.add, tallies), policies)


def shards(par: NDArray[np.void], parts: int) -> list[tuple[int, int]]:
    """Ranges of tables, at most `parts`, that can be judged apart. par: PARAMETERS of one point.

    A cut must not go through a PUD table (or a PMD table where PUDs are folded) nor through a call; threads above 1
    share their steps, so such a point stays whole.
    """
    tables = int(par["end_table"])
    unit = int(par["pud_span"] or par["pmd_span"])
    entries, zap, shift = int(par["entries"]), int(par["zap"]), int(par["shift"])
    if parts < 2 or par["threads"] > 1:
        return [(0, tables)]
    wanted = [round(i * tables / parts / unit) * unit for i in range(1, parts)]
    cuts = sorted({t for t in wanted if 0 < t < tables and (t * entries <= shift or (t * entries - shift) % zap == 0)})
    return list(zip([0, *cuts], [*cuts, tables], strict=True))


def batches_of_policies(policies: Sequence[Policy]) -> Iterator[Sequence[Policy]]:
    for first in range(0, len(policies), POLICIES_PER_PASS):
        yield policies[first : first + POLICIES_PER_PASS]


def geometries(
    par: NDArray[np.void], policies: Sequence[Policy]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.void]]]:
    """Of each table size among these points: which points have it, and the rules for it, RULE[policies]."""
    for arch in {arch.entries: arch for arch in ARCHES}.values():
        alike = par["entries"] == arch.entries
        if alike.any():
            yield alike, encode_rules(policies, arch.page_bytes, arch.entries)


def passes_for(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.int64]:
    """The number of the pass that each point takes: int64[n]."""
    return np.select([slots.fits(par, rules), parts.fits(par, rules)], [SLOTS, PARTS], WALK)


def tally(
    points: Encoded, policies: Sequence[Policy] = ALL, first: int = 0, end: int | None = None, general: bool = False
) -> Tally:
    """Judge tables [first, end) of every point (default: all). general: by the general pass whatever fits."""
    par = points.par
    if end is not None:
        par = par.copy()
        par["first_table"], par["end_table"] = first, end
    out = blank(points, len(policies))
    for alike, rules in geometries(par, policies):
        chosen = np.where(alike, WALK if general else passes_for(par, rules), -1)
        for number, one_pass in enumerate(PASSES):
            groups = np.flatnonzero(chosen == number)
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
    """The arguments of a pass (engine.reclaim.walk.walk) for the points of some groups, or of none."""
    wanted = np.zeros(len(par), np.bool_)
    wanted[groups] = True
    rows = np.flatnonzero(wanted[points.groups])
    scratch = one_pass.scratch_for(par[groups] if groups.size else par, rules)
    given = (points.groups, points.seeds, par, points.lim, points.cdfs, trylock_limits(), points.offsets, rules)
    records = (
        named(out.upper, UPPER),
        named(out.counters, COUNTERS),
        named(out.lanes, LANE),
        named(out.totals, TOTALS),
    )
    return scratch, rows, *given, out.tables, out.pages, *records


def passes_needed(columns: Columns, policies: Sequence[Policy] = ALL) -> frozenset[int]:
    """The numbers of the passes that these points take."""
    par = encode_sizes(groups_of(columns)[0])
    return frozenset(
        int(number) for alike, rules in geometries(par, policies) for number in passes_for(par[alike], rules)
    )


def load(columns: Columns) -> None:
    """Load the passes that these columns need; processes begin with different ones, to compile them at once."""
    for number in sorted(passes_needed(columns), key=lambda number: (number + os.getpid()) % len(PASSES)):
        PASSES[number].load()


def load_compiled(numbers: Iterable[int]) -> None:
    """Load those of these passes that need no compiling."""
    for number in numbers:
        if PASSES[number].is_compiled:
            PASSES[number].load()


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected CPU nanoseconds, float64[n]: a first guess for batching, corrected by what batches really take.

    `kernels`: the passes that the points need, by their numbers.
    """

    ns: NDArray[np.float64]
    kernels: frozenset[int]


def forecast(columns: Columns, policies: Sequence[Policy] = ALL) -> Forecast:
    """Expected CPU time of each point, and the passes that are needed."""
    columns, group = groups_of(columns)
    par = encode_sizes(columns)
    entries, rounds, zap = par["entries"], par["rounds"], par["zap"]
    p = np.where(columns["res"] != ABSENT, columns["res"] / columns["virt"], 1 - columns["sparsity"])
    places = np.maximum(par["places"], 1)
    placed = 2.0 * np.minimum(p, 1 - p) * places * (places > 1)
    touched = 1 - (1 - p) ** places
    calls = np.maximum(entries / zap, 1)
    keeps = (columns["coverage"] < 1) & (rounds > 1) & (places > 1)  # what is left needs entries
    by_slots = 4 + np.where(zap > entries, 25 * touched, 0) + np.where(keeps, 15 + 1.5 * placed, 0)
    by_slots += np.where(columns["threads"] > 1, 10 * touched, 0)
    by_parts = 20 + touched * (60 + 12 * placed) + 0.5 * calls
    by_walk = 90 + entries / 8 + placed + 40 * calls + 5.0 * p * entries * (columns["refault"] > 0)
    number = np.zeros(len(par), np.int64)
    for alike, rules in geometries(par, policies):
        number[alike] = passes_for(par[alike], rules)
    each = np.choose(number, (by_walk, by_slots, by_parts))
    ns = np.asarray(par["end_table"] * rounds * each + ROW_NS, np.float64)
    return Forecast(ns[group], frozenset(np.unique(number).tolist()))
