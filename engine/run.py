"""Columns of scenarios in, results out. One pass judges all seven policies."""

import functools
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.compilation.native_code import Kernel
from engine.model.policy import POLICIES
from engine.model.results import Results
from engine.model.scenario import ABSENT, Columns, check
from engine.random.binomial import trylock_limits
from engine.random.inverse_cdf import CDF
from engine.shortcuts import counts, parts, slots
from engine.walk import columns as lay
from engine.walk import walk
from engine.walk.encode import Encoded, encode, encode_sizes
from engine.walk.finish import Tally, finish
from engine.walk.point_groups import kinds_of

BY_WALK, BY_SLOTS, BY_PARTS, BY_COUNTS = range(4)
KERNELS = (
    Kernel(walk.walk, walk.room_for),
    Kernel(slots.walk_slots, slots.room_for),
    Kernel(parts.walk_parts, parts.room_for),
    Kernel(counts.walk_counts, counts.room_for),
)
"""The ways through the engine."""
COMPILED = (*KERNELS, CDF)

ROW_NS = 6_000
"""Of a point of no size: to encode and finish it, and to write its rows."""


def run_batch(columns: Columns) -> Results:
    """Outcomes of complete columns (engine.model.scenario.complete), a row by itself. Raises ScenarioError."""
    check(columns)
    points = encode(columns)
    return finish(points, columns, tally(points))


def run_sharded(columns: Columns, index: int, parts: int) -> Results:
    """One point, walked in up to `parts` pieces: the same bits as run_batch."""
    one = {name: values[index : index + 1] for name, values in columns.items()}
    return gathered(one, [run_shard(one, first, end) for first, end in cuts(one, parts)])


def cuts(one: Columns, parts: int) -> list[tuple[int, int]]:
    """Ranges of tables of one point, at most `parts`, that run_shard may walk apart."""
    check(one)
    return shards(encode_sizes(one)[0], parts)


def run_shard(one: Columns, first: int, end: int) -> Tally:
    """Tables [first, end) of one point."""
    check(one)
    return tally(encode(one), first, end)


def gathered(one: Columns, pieces: Sequence[Tally]) -> Results:
    """The outcome of one point from the tallies of all its shards, in any order."""
    return finish(encode(one), one, functools.reduce(operator.add, pieces))


def shards(par: NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """Ranges of tables, at most `parts`, that can be walked apart.

    A cut must not go through a PUD table (or a PMD table where PUDs are folded) nor through a call; threads above 1
    share their steps, so such a point stays whole.
    """
    tables = int(par[lay.END_TABLE])
    unit = int(par[lay.PUD_SPAN] or par[lay.PMD_SPAN])
    entries, zap, shift = int(par[lay.ENTRIES]), int(par[lay.ZAP]), int(par[lay.SHIFT])
    if parts < 2 or par[lay.THREADS] > 1:
        return [(0, tables)]
    wanted = [round(i * tables / parts / unit) * unit for i in range(1, parts)]
    cuts = sorted({t for t in wanted if 0 < t < tables and (t * entries <= shift or (t * entries - shift) % zap == 0)})
    return list(zip([0, *cuts], [*cuts, tables], strict=True))


def ways(par: NDArray[np.int64]) -> NDArray[np.int64]:
    """The kernel that each row goes through: BY_WALK, BY_SLOTS, BY_PARTS or BY_COUNTS."""
    short = [counts.fits(par), slots.fits(par), parts.fits(par)]
    return np.select(short, [BY_COUNTS, BY_SLOTS, BY_PARTS], BY_WALK)


def tally(points: Encoded, first: int = 0, end: int | None = None, short: bool = True) -> Tally:
    """Walk tables [first, end) of every point (default: all), the short way where one fits, unless `short` is off."""
    par = points.par
    if end is not None:
        par = par.copy()
        par[:, lay.FIRST_TABLE], par[:, lay.END_TABLE] = first, end
    out = blank(points)
    way = ways(par) if short else np.full(len(par), BY_WALK)
    for number, kernel in enumerate(KERNELS):
        for kinds in alike(par, np.flatnonzero(way == number)):
            call(kernel, points, par, kinds, out)
    return out


def blank(points: Encoded) -> Tally:
    """Room for what kernels write."""
    n = len(points.kinds)
    return Tally(
        np.empty((int(points.offsets[-1]), lay.PER), np.int64),
        np.empty((n, len(POLICIES), lay.WORK_COLUMNS), np.int64),
        np.empty((n, lay.SUMS), np.int64),
        np.empty((n, lay.ZAPPING + 1, 3), np.int64),
    )


def call(kernel: Kernel, points: Encoded, par: NDArray[np.int64], kinds: NDArray[np.int64], out: Tally) -> None:
    """Walk the points of some kinds, or of none."""
    kernel(*arguments(kernel, points, par, kinds, out))


def arguments(
    kernel: Kernel, points: Encoded, par: NDArray[np.int64], kinds: NDArray[np.int64], out: Tally
) -> tuple[Any, ...]:
    """What a kernel takes (engine.walk.walk.walk)."""
    wanted = np.zeros(len(par), np.bool_)
    wanted[kinds] = True
    rows = np.flatnonzero(wanted[points.kinds])
    room = kernel.room_for(par[kinds] if kinds.size else par)
    of_points = (points.kinds, points.seeds, par, points.lim, points.cdfs, trylock_limits(), points.offsets)
    return room, rows, *of_points, out.per, out.work, out.sums, out.account


def load(columns: Columns) -> None:
    """Have the kernels ready that these columns need; processes begin with different ones, to compile them at once."""
    needed = [int(number) for number in np.unique(ways(encode_sizes(kinds_of(columns)[0])))]
    for number in sorted(needed, key=lambda number: (number + os.getpid()) % len(KERNELS)):
        KERNELS[number].ready()
    CDF.ready()


def load_compiled(numbers: Iterable[int]) -> None:
    """Have those of these kernels ready that need no compiling, and what every batch needs."""
    for kernel in (CDF, *(KERNELS[number] for number in numbers)):
        if kernel.is_compiled:
            kernel.ready()


def alike(par: NDArray[np.int64], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of par whose tables and PMD tables are of one size each, together."""
    sizes = par[rows, lay.ENTRIES] << 32 | par[rows, lay.PMD_SPAN]
    return [rows[sizes == size] for size in np.unique(sizes)]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected CPU nanoseconds, float64[n]: a first guess for batching, corrected by what batches really take.

    `kernels`: those that the points need, by their numbers.
    """

    ns: NDArray[np.float64]
    kernels: frozenset[int]


def forecast(columns: Columns) -> Forecast:
    """What points will take."""
    columns, which = kinds_of(columns)
    points = encode_sizes(columns)
    entries, rounds, zap = points[:, lay.ENTRIES], points[:, lay.ROUNDS], points[:, lay.ZAP]
    p = np.where(columns["res"] != ABSENT, columns["res"] / columns["virt"], 1 - columns["sparsity"])
    places = np.maximum(points[:, lay.PLACES], 1)
    placed = 2.0 * np.minimum(p, 1 - p) * places * (places > 1)
    touched = 1 - (1 - p) ** places
    calls = np.maximum(entries / zap, 1)
    drawn = (columns["coverage"] < 1) | (points[:, lay.RANDOM] != 0)
    by_bits = (columns["coverage"] < 1) & (rounds > 1) & (places > 1)  # what is left needs places
    in_counts = 3 + np.where(by_bits, 15 + 1.5 * placed, 0) + np.where(columns["threads"] > 1, 10, 0)
    in_slots = 2 + touched * np.where(zap > entries, 60, 30) + np.where(columns["coverage"] < 1, 15, 0)
    in_parts = 25 + touched * 1.1 * placed + np.where(drawn, 0.8, 0.4) * calls
    in_walk = 90 + entries / 8 + placed + 20 * calls + 5.0 * p * entries * (columns["refault"] > 0)
    way = ways(points)
    each = np.choose(way, (in_walk, in_slots, in_parts, in_counts))
    ns = np.asarray(points[:, lay.END_TABLE] * rounds * each + ROW_NS, np.float64)
    return Forecast(ns[which], frozenset(np.unique(way).tolist()))
