"""What the child of one point has to do, as ranges of bytes; and the upper tables that this must leave."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from engine.kernel.scenario_pages import Ranges, Realisation
from engine.model.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Round:
    """Ranges of pages: mapped again before the install, written by it, then zapped in order, thread after thread."""

    holes: Ranges
    installs: Ranges
    calls: Ranges
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Script:
    """One point in full. `unmap`: munmap in place of madvise, and markers anew in every round."""

    scenario: Scenario
    unmap: bool
    markers: Ranges
    rounds: tuple[Round, ...]

    @property
    def page(self) -> int:
        return self.scenario.geometry.page_bytes

    def order(self, limit_s: float) -> tuple[dict[str, object], list[NDArray[np.int64]]]:
        """What the child is told (engine.kernel.child.perform), and its arrays, equal ones once."""
        arrays: list[NDArray[np.int64]] = [self.markers]
        place: dict[bytes, int] = {}

        def put(ranges: Ranges) -> int:
            at = place.setdefault(blake2b(ranges.tobytes()).digest(), len(arrays))
            if at == len(arrays):
                arrays.append(ranges)
            return at

        rounds = [(put(r.holes), put(r.installs), put(r.calls), r.offsets.tolist()) for r in self.rounds]
        facts: dict[str, object] = {
            "virt": self.scenario.virt,
            "threads": self.scenario.threads,
            "advice": "munmap" if self.unmap else self.scenario.advice,
            "limit_s": limit_s,
            "rows": [len(array) for array in arrays],
            "rounds": rounds,
        }
        lengths = [np.stack([a[:, 0], a[:, 1] - a[:, 0]], axis=1) * self.page for a in arrays]
        return facts, lengths


def write(scenario: Scenario, unmap: bool) -> Script:
    """Spell a scenario out."""
    real = Realisation(scenario)
    rounds: list[Round] = []
    holes: Ranges = np.zeros((0, 2), np.int64)
    for number in range(scenario.rounds):
        calls = real.calls(number)
        rounds.append(Round(holes, real.installs(number), calls.ranges, calls.offsets))
        if unmap:
            holes = merged(calls.ranges)
    return Script(scenario, unmap, real.markers(), tuple(rounds))


def merged(ranges: Ranges) -> Ranges:
    """The same pages as ranges in order, neighbours joined. The ranges must not overlap."""
    if not len(ranges):
        return ranges
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")]
    new = np.append(True, ordered[1:, 0] > ordered[:-1, 1])
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(ordered)) - 1
    return np.stack([ordered[starts, 0], ordered[ends, 1]], axis=1)


def pages_below(ranges: Ranges, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each bound: pages of the ranges that lie below it. The ranges must not overlap."""
    if not len(ranges):
        return np.zeros(len(bounds), np.int64)
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")]
    before = np.append(0, np.cumsum(ordered[:, 1] - ordered[:, 0]))
    at = np.searchsorted(ordered[:, 0], bounds, side="right")  # ranges that begin at or below the bound
    beyond = np.maximum(ordered[np.maximum(at, 1) - 1, 1] - bounds, 0) * (at > 0)
    return np.asarray(before[at] - beyond)


def common_pages(some: Ranges, others: Ranges) -> int:
    """How many pages lie in both. Neither's own ranges may overlap."""
    return int((pages_below(some, others[:, 1]) - pages_below(some, others[:, 0])).sum()) if len(others) else 0


def upper_tables(script: Script, span: int) -> NDArray[np.int64]:
    """int64[rounds, 2]: tables of a level whose tables span so many pages, at peak and end of each round.

    An upper table comes with the first entry below it. A zap never frees one; munmap does when nothing of the VMA is
    left in its span (free_pgd_range's floor and ceiling). /proc shows only the sum of all levels.
    """
    pages = script.scenario.virt // script.page
    bounds = np.append(np.arange(0, pages, span, dtype=np.int64), pages)
    there = np.zeros(len(bounds) - 1, bool)
    out = np.zeros((len(script.rounds), 2), np.int64)
    for number, round_ in enumerate(script.rounds):
        if number == 0 or script.unmap:
            there |= np.diff(pages_below(script.markers, bounds)) > 0
        there |= np.diff(pages_below(round_.installs, bounds)) > 0
        out[number, 0] = there.sum()
        if script.unmap:
            there &= np.diff(pages_below(round_.calls, bounds)) < np.diff(bounds)
        out[number, 1] = there.sum()
    return out
