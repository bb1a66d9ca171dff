"""A point as lists of page ranges that a child process works through, and arithmetic with such ranges."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from engine.kernel.scenario_pages import Ranges, ScenarioPages
from engine.model.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Round:
    """One round: map `holes` again, write the pages of `installs`, then zap `calls`, a call per range.

    offsets: int64[threads + 1]; thread t makes calls[offsets[t] : offsets[t + 1]] in order
    """

    holes: Ranges
    installs: Ranges
    calls: Ranges
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Script:
    """All steps of one point. `unmap`: zap by munmap in place of madvise, and install the markers in every round."""

    scenario: Scenario
    unmap: bool
    markers: Ranges
    rounds: tuple[Round, ...]

    @property
    def page(self) -> int:
        """Size of a page in bytes."""
        return self.scenario.geometry.page_bytes

    def arrays(self) -> tuple[list[Ranges], list[tuple[int, int, int]]]:
        """The lists of ranges, each once, and for each round the numbers of its holes, installs and calls in that list.

        Array 0 holds the markers.
        """
        arrays: list[Ranges] = [self.markers]
        numbers: dict[bytes, int] = {}

        def number_of(ranges: Ranges) -> int:
            number = numbers.setdefault(blake2b(ranges.tobytes()).digest(), len(arrays))
            if number == len(arrays):
                arrays.append(ranges)
            return number

        return arrays, [(number_of(r.holes), number_of(r.installs), number_of(r.calls)) for r in self.rounds]

    def message(self, limit_s: float, is_counted: bool) -> tuple[dict[str, object], list[NDArray[np.int64]]]:
        """The point as engine.kernel.child.run_point receives it: facts, and arrays of (offset, length) in bytes.

        is_counted: probes count what its calls do
        """
        arrays, numbers = self.arrays()
        facts: dict[str, object] = {
            "virt": self.scenario.virt,
            "threads": self.scenario.threads,
            "thp": self.scenario.thp == "always",
            "advice": "munmap" if self.unmap else self.scenario.advice,
            "limit_s": limit_s,
            "is_counted": is_counted,
            "rows": [len(array) for array in arrays],
            "rounds": [(*n, r.offsets.tolist()) for n, r in zip(numbers, self.rounds, strict=True)],
        }
        in_bytes = [np.stack([a[:, 0], a[:, 1] - a[:, 0]], axis=1) * self.page for a in arrays]
        return facts, in_bytes


@lru_cache(maxsize=2)
def script_of(scenario: Scenario, unmap: bool) -> Script:
    """The steps of a scenario. The last two are kept: several kernels play the same ones, in turn."""
    pages = ScenarioPages(scenario)
    rounds: list[Round] = []
    holes: Ranges = np.zeros((0, 2), np.int64)
    for number in range(scenario.rounds):
        calls = pages.calls(number)
        rounds.append(Round(holes, pages.installs(number), calls.ranges, calls.offsets))
        if unmap:
            holes = merge_ranges(calls.ranges)
    return Script(scenario, unmap, pages.markers(), tuple(rounds))


def merge_ranges(ranges: Ranges) -> Ranges:
    """The ranges in order, adjacent ones joined. They must not overlap."""
    if not len(ranges):
        return ranges
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")]
    begins = np.append(True, ordered[1:, 0] > ordered[:-1, 1])
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(ordered)) - 1
    return np.stack([ordered[starts, 0], ordered[ends, 1]], axis=1)


def pages_below(ranges: Ranges, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[bounds]: for each bound (a page), how many pages of the ranges are below it. Ranges must not overlap."""
    if not len(ranges):
        return np.zeros(len(bounds), np.int64)
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")]
    before = np.append(0, np.cumsum(ordered[:, 1] - ordered[:, 0]))
    at = np.searchsorted(ordered[:, 0], bounds, side="right")  # ranges that begin at or below the bound
    beyond = np.maximum(ordered[np.maximum(at, 1) - 1, 1] - bounds, 0) * (at > 0)
    return np.asarray(before[at] - beyond)


def common_pages(first: Ranges, second: Ranges) -> int:
    """Number of pages that are in both. The ranges of each must not overlap among themselves."""
    return int((pages_below(first, second[:, 1]) - pages_below(first, second[:, 0])).sum()) if len(second) else 0


def upper_tables(script: Script, span: int) -> NDArray[np.int64]:
    """int64[rounds, 2]: tables of the level whose tables span `span` pages, at the peak and the end of each round.

    An upper table is allocated with the first entry below it. A zap never frees one. munmap frees it when nothing of
    the VMA is left in its span (floor and ceiling of free_pgd_range).
    """
    pages = script.scenario.virt // script.page
    bounds = np.append(np.arange(0, pages, span, dtype=np.int64), pages)
    allocated = np.zeros(len(bounds) - 1, bool)
    counts = np.zeros((len(script.rounds), 2), np.int64)
    for number, round_ in enumerate(script.rounds):
        if number == 0 or script.unmap:
            allocated |= np.diff(pages_below(script.markers, bounds)) > 0
        allocated |= np.diff(pages_below(round_.installs, bounds)) > 0
        counts[number, 0] = allocated.sum()
        if script.unmap:
            allocated &= np.diff(pages_below(round_.calls, bounds)) < np.diff(bounds)
        counts[number, 1] = allocated.sum()
    return counts
