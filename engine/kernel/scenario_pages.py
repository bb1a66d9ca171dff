"""The pages of a scenario as ranges: what an install writes, where markers are, and the calls in their order.

The engine draws the same pages table by table and keeps only counts. The kernel engine needs the pages themselves.
Pages are numbered from the VMA's start.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Scenario, columns_of
from engine.numeric.bit_ops import ZERO, fill_range, first_set
from engine.numeric.jit import shared
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import (
    CALL,
    CALL_LOW,
    OF_EXTENT,
    call_key,
    key,
    pins_of,
    streams_of,
)
from engine.reclaim.encode import Encoded, encode
from engine.reclaim.residency import clear_beyond, drawn_extents, place_extents, resident_extents

Ranges = NDArray[np.int64]
"""int64[n, 2]: first and end page."""

INSTALLS, MARKERS = 0, 1


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one round, ordered by thread, those of a thread in the order in which it makes them.

    offsets: int64[threads + 1]; thread t makes ranges[offsets[t] : offsets[t + 1]]
    """

    ranges: Ranges
    offsets: NDArray[np.int64]


class ScenarioPages:
    """The pages and calls of one scenario. Rounds are numbered from 0."""

    def __init__(self, scenario: Scenario) -> None:
        self._points: Encoded = encode(columns_of([scenario]))
        self._par, self._lim = self._points.par[0], self._points.lim[0]
        self._seed = scenario.seed

    @property
    def pages(self) -> int:
        return int(self._par["pages"])

    @property
    def tables(self) -> int:
        """Number of slots; the last may be partial."""
        return int(self._par["end_table"])

    def markers(self, first_table: int = 0, end_table: int | None = None) -> Ranges:
        """Pages with a guard marker in slots [first_table, end_table), as maximal ranges; equal in all rounds."""
        return self._ranges(MARKERS, 0, first_table, end_table)

    def installs(self, round_: int, first_table: int = 0, end_table: int | None = None) -> Ranges:
        """Pages without a marker that a round's install writes in slots [first_table, end_table), as maximal ranges."""
        return self._ranges(INSTALLS, round_, first_table, end_table)

    def calls(self, round_: int) -> Calls:
        """The calls of a round, distributed to threads (docs/method.md, sections 2 and 6)."""
        par = self._par
        number = np.arange(par["calls"], dtype=np.int64)
        if par["cover"] == NEVER:
            number = number[:0]
        if par["cover"] == MAYBE or par["random"]:
            keys = call_keys(self._seed, round_, par["calls"])
            if par["cover"] == MAYBE:
                number = number[keys[number] < self._lim["cover"]]
            if par["random"]:
                number = number[np.argsort(keys[number], kind="stable")]
        threads, n_calls = int(par["threads"]), max(int(par["calls"]), 1)
        thread = number % threads if par["interleaved"] else number * threads // n_calls
        by_thread = np.argsort(thread, kind="stable")
        start = par["shift"] + number[by_thread] * par["zap"]
        ranges = np.stack([start, np.minimum(start + par["zap"], par["pages"])], axis=1)
        return Calls(ranges, np.searchsorted(thread[by_thread], np.arange(threads + 1)).astype(np.int64))

    def _ranges(self, kind: int, round_: int, first: int, end: int | None) -> Ranges:
        points, stop = self._points, self.tables if end is None else end
        out: Ranges = np.empty((0, 2), np.int64)
        for _ in range(2):  # the first pass counts, the second writes
            n = write_ranges(kind, self._seed, round_, first, stop, self._par, self._lim, points.cdfs, out)
            if n <= len(out):
                break
            out = np.empty((n, 2), np.int64)
        return out


@shared
def write_ranges(
    kind: Any, seed: Any, round_: Any, first: Any, end: Any, par: Any, lim: Any, cdfs: Any, out: Any
) -> Any:  # fmt: skip
    """Write to `out` the maximal ranges of the pages drawn in slots [first, end). Returns their number.

    kind: INSTALLS or MARKERS; out: int64[n, 2]; if there are more than n ranges, only the first n are written
    """
    entries, pages = par["entries"], par["pages"]
    words = np.zeros(entries >> 6, np.uint64)
    marker = np.zeros(entries >> 6, np.uint64)
    scratch = np.zeros(entries >> 6, np.uint64)
    streams, pins = streams_of(seed, round_ + 1)[round_], pins_of(seed)
    n = 0
    begin, stop = np.int64(-1), np.int64(-1)  # the range that may still grow
    for table in range(first, end):
        base = table * entries
        valid = min(entries, pages - base)
        draw_markers(par, cdfs, pins, table, valid, marker, scratch)
        if kind == MARKERS:
            words[:] = marker
        else:
            draw_install(par, lim, cdfs, streams, table, valid, words, scratch)
            for i in range(words.size):
                words[i] &= ~marker[i]
        at = 0
        while at < valid:
            at = next_entry(words, at, valid, True)
            if at >= valid:
                break
            run_end = next_entry(words, at, valid, False)
            if base + at != stop:
                if begin >= 0:
                    if n < len(out):
                        out[n, 0], out[n, 1] = begin, stop
                    n += 1
                begin = base + at
            stop = base + run_end
            at = run_end
    if begin >= 0:
        if n < len(out):
            out[n, 0], out[n, 1] = begin, stop
        n += 1
    return n


@shared
def draw_markers(par: Any, cdfs: Any, pins: Any, table: Any, valid: Any, words: Any, scratch: Any) -> None:
    """Set in `words`, uint64[entries / 64], the entries of a table that are guard markers. Writes words, scratch."""
    words[:] = ZERO
    if par["pin"] == NEVER:
        return
    entries = par["entries"]
    if par["pin"] == ALWAYS:
        fill_range(words, 0, entries)
    else:
        k = resident_extents(table, cdfs, par["pin_cdf"], pins)
        place_extents(words, scratch, table, entries, k, 1, cdfs, par["pin_spans"], pins)
    clear_beyond(words, valid)


@shared
def draw_install(
    par: Any, lim: Any, cdfs: Any, streams: Any, table: Any, valid: Any, words: Any,
    scratch: Any,
) -> None:  # fmt: skip
    """Set in `words` the entries of a table that an install writes, ignoring markers. Writes words, scratch."""
    words[:] = ZERO
    mode, places = par["install"], par["places"]
    if mode == NEVER:
        return
    if places > 0:
        k = places
        if mode == MAYBE:
            k = resident_extents(table, cdfs, par["cdf"], streams)
        place_extents(words, scratch, table, places, k, par["cluster"], cdfs, par["spans"], streams)
    else:
        base = table * par["entries"]
        drawn_extents(words, base, valid, par["cluster"], mode, lim["install"], streams[OF_EXTENT])
    clear_beyond(words, valid)


@shared
def next_entry(words: Any, first: Any, end: Any, wanted: Any) -> Any:
    """The first entry at or after `first` whose bit in `words` equals `wanted`; `end` if there is none."""
    at = first
    while at < end:
        x = words[at >> 6] if wanted else ~words[at >> 6]
        x >>= np.uint64(at & 63)
        if x != ZERO:
            return min(at + first_set(x), end)
        at = (at | 63) + 1
    return end


@shared
def call_keys(seed: Any, round_: Any, n: Any) -> Any:
    """uint64[n]: the key of each call, which decides whether it is made, and its position in random order."""
    stream, low = key(seed, round_, CALL), key(seed, round_, CALL_LOW)
    out = np.empty(n, np.uint64)
    for i in range(n):
        out[i] = call_key(stream, low, i)
    return out
