"""From tallies of the passes to named columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES
from engine.model.policy import Policy
from engine.model.results import COLUMNS, ROUND_COLUMNS, WORK, Results
from engine.model.scenario import Columns
from engine.reclaim.encode import Encoded
from engine.reclaim.records import CONTENT, COUNTERS, OWN, PER_POINT, PMD, PUD, TOTALS, UPPER

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """Raw counters of a batch. Those of different table ranges (shards) of the same points are added with `+`.

    tables: int64[all rounds, 2, policies], PTE tables at peak and end; pages: int64[all rounds, 2, 2], present entries
    at peak and end where policies zap and where they unmap; upper, counters, contents, totals: the records UPPER[all
    rounds, 2], COUNTERS[points, policies], CONTENT[points, 2] and TOTALS[points] as int64 columns
    own: OWN[points, policies] as int64 columns, and own_pages: int64[all rounds, 2, policies], present entries: instead
    of contents and pages for points with huge pages; without points if there are none of these
    """

    tables: Integers
    pages: Integers
    upper: Integers
    counters: Integers
    contents: Integers
    totals: Integers
    own: Integers
    own_pages: Integers

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Tally)))

    def beside(self, other: "Tally") -> "Tally":
        """Return the tally under the policies of both, which are of the same points and tables."""
        axes = {"tables": 2, "counters": 1, "own": 1, "own_pages": 2}  # the rest is the same under all policies
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)], axis) for name, axis in axes.items()}
        return replace(self, **both)


def blank(points: Encoded, policies: int) -> Tally:
    """A tally of zeros."""
    n, rounds = len(points.groups), int(points.offsets[-1])
    has_huge = bool(points.par["thp"].any())
    shapes = (
        (rounds, 2, policies),
        (rounds, 2, 2),
        (rounds, 2, len(UPPER.names or ())),
        (n, policies, len(COUNTERS.names or ())),
        (n, 2, len(CONTENT.names or ())),
        (n, len(TOTALS.names or ())),
        (n * has_huge, policies, len(OWN.names or ())),
        (rounds * has_huge, 2, policies),
    )
    return Tally(*(np.zeros(shape, np.int64) for shape in shapes))


def named(array: Integers, record: np.dtype[np.void]) -> NDArray[np.void]:
    """An array whose last axis is a record's fields, as an array of such records: a view."""
    return array.view(record)[..., 0]


def finish(points: Encoded, columns: Columns, tally: Tally, policies: Sequence[Policy]) -> Results:
    """Outcomes and rounds of all points under these policies."""
    counts = np.diff(points.offsets)
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[columns["arch"]]
    kind_of = np.array([policy.when == "unmap" for policy in policies], np.intp)
    counters, contents = named(tally.counters, COUNTERS), named(tally.contents, CONTENT)
    totals = named(tally.totals, TOTALS)
    rounds, upper_end = finish_rounds(points.offsets, counts, np.repeat(page, counts), tally, kind_of)
    last, kib = points.offsets[1:] - 1, page[:, None] // 1024

    out = np.zeros((len(COLUMNS), len(counts), len(policies)), np.int64)
    at = {name: out[i] for i, name in enumerate(COLUMNS)}
    for i, name in enumerate(ROUND_COLUMNS):
        at[name][:] = rounds[last, :, i]
    most = np.maximum(rounds[:, :, 2], rounds[:, :, 3])
    at["vm_pte_kib_max"][:] = np.maximum.reduceat(most, points.offsets[:-1], axis=0)
    needed = contents["needed_pte"] + contents["needed_pmd"] + contents["needed_pud"]
    at["vm_pte_kib_needed_end"][:] = needed[:, kind_of] * kib
    at["pte_tables_end"][:] = tally.tables[last, 1]
    at["pte_tables_empty_end"][:] = tally.tables[last, 1] - contents["needed_pte"][:, kind_of]
    at["pmd_tables_end"][:], at["pud_tables_end"][:] = upper_end[0][last], upper_end[1][last]
    at["zap_calls"][:] = totals["calls"][:, None]
    at["ptes_installed"][:], at["ptes_zapped"][:] = contents["installed"][:, kind_of], contents["zapped"][:, kind_of]
    at["force_breaks"][:] = contents["breaks"][:, kind_of]
    for name in WORK:
        if name not in PER_POINT:
            at[name][:] = counters[name]
    for p, policy in enumerate(policies):
        if policy.counts_entries:
            at["atomics"][:, p] = (contents["installed"] + contents["zapped"])[:, 0] + totals["markers"]
    if len(tally.own):
        finish_huge(points, columns, tally, policies, at)
    others = np.array([a.sends_ipis for a in ARCHES])[columns["arch"]] * (columns["threads"] - 1)
    at["ipis"][:] = counters["flushes"] * others[:, None]
    return Results(np.moveaxis(out, 0, 2), rounds, counts)


def finish_huge(
    points: Encoded, columns: Columns, tally: Tally, policies: Sequence[Policy], at: dict[str, Integers]
) -> None:
    """Write the columns of points with huge pages that depend on each policy's own entries. at: int64[n, policies]."""
    rows = np.flatnonzero(points.par["thp"][points.groups])
    own, totals = named(tally.own, OWN)[rows], named(tally.totals, TOTALS)[rows]
    table = np.array([a.page_bytes for a in ARCHES], np.int64)[columns["arch"]][rows, None] // 1024
    slot = np.array([a.span_bytes for a in ARCHES], np.int64)[columns["arch"]][rows, None] // 1024
    at["vm_pte_kib_needed_end"][rows] = (own["needed_pte"] + own["needed_pmd"] + own["needed_pud"]) * table
    at["pte_tables_empty_end"][rows] = at["pte_tables_end"][rows] - own["needed_pte"]
    at["ptes_installed"][rows], at["ptes_zapped"][rows] = own["installed"], own["zapped"]
    at["force_breaks"][rows] = own["breaks"]
    at["thp_faults"][rows], at["thp_splits"][rows] = own["faults"], own["splits"]
    at["anon_huge_kib_peak"][rows], at["anon_huge_kib_end"][rows] = own["huge_peak"] * slot, own["huge_end"] * slot
    for p, policy in enumerate(policies):
        if policy.counts_entries:
            steps = own["installed"] + own["zapped"] + own["splits"]
            at["atomics"][rows, p] = steps[:, p] + totals["markers"]


def finish_rounds(
    offsets: Integers, counts: Integers, page: Integers, tally: Tally, kind_of: NDArray[np.intp]
) -> tuple[Integers, tuple[Integers, Integers]]:
    """ROUND_COLUMNS in their order, int64[rounds, policies, 4]; PMD and PUD tables at each round's end, int64[rounds,
    policies] each.

    offsets: int64[n + 1], where a point's rounds begin; counts: int64[n], rounds; page: int64[rounds], bytes;
    kind_of: 1 for a policy that unmaps, else 0
    """
    upper = named(tally.upper, UPPER)

    def so_far(new: Integers) -> Integers:
        """For each round, the number of upper tables made from its point's first round up to and including it.

        new: int64[rounds], tables made in each round, the points one after the other
        """
        total = np.cumsum(new)
        before = np.append(0, total)[offsets[:-1]]
        return np.asarray(total - np.repeat(before, counts))

    def by_policy(zapping: Integers, unmapping: Integers) -> Integers:
        return np.stack([zapping, unmapping], axis=1)[:, kind_of]

    pmd, pud = so_far(upper["new"][:, PMD]), so_far(upper["new"][:, PUD])
    out = np.moveaxis(np.empty((len(ROUND_COLUMNS), len(page), len(kind_of)), np.int64), 0, 2)
    pages = tally.pages[:, :, kind_of]
    if len(tally.own_pages):
        pages += tally.own_pages  # of a point with huge pages or without, one of the two is 0
    ends = pmd[:, None], pud[:, None]
    for i, moment in enumerate(("peak", "end")):
        ends = by_policy(pmd, upper[moment][:, PMD]), by_policy(pud, upper[moment][:, PUD])
        out[:, :, i] = pages[:, i] * page[:, None]
        out[:, :, 2 + i] = (tally.tables[:, i] + ends[0] + ends[1]) * (page[:, None] // 1024)
    return out, ends
