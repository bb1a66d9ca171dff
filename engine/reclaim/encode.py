"""Scenarios as the passes take them: sizes in pages, shares as integer limits, each CDF once."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES
from engine.model.scenario import ABSENT, FIELD, Columns, decimal
from engine.random.binomial import ALWAYS, MAYBE, NEVER, limit
from engine.random.inverse_cdf import Cdfs, binomial, table
from engine.reclaim.point_groups import groups_of
from engine.reclaim.records import LIMITS, PARAMETERS

RANDOM_ORDER = FIELD["order"].choices.index("random")
FREE_ADVICE = FIELD["advice"].choices.index("free")
THP_ALWAYS = FIELD["thp"].choices.index("always")
INTERLEAVED = FIELD["partition"].choices.index("interleaved")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Points as the passes take them.

    par: PARAMETERS[groups] and lim: LIMITS[groups], of groups of points that differ only in the seed; cdfs: the rows
    that par numbers; groups, seeds: int64[n], of each point; offsets: int64[n + 1], where its rounds begin
    """

    par: NDArray[np.void]
    lim: NDArray[np.void]
    cdfs: Cdfs
    groups: NDArray[np.int64]
    seeds: NDArray[np.int64]
    offsets: NDArray[np.int64]


class Pool:
    """The CDFs of a batch, each once: of counts, and of spans for all counts that these can give."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, Fraction], int] = {}
        self.ranges: dict[int, tuple[int, int]] = {}

    def add(self, n: int, p: Fraction) -> int:
        """Return the row of the CDF binomial(n, p), which is added if it is missing."""
        if (n, p) not in self.counts:
            self.counts[n, p] = len(self.counts)
            cdf = binomial(n, p)
            least, most = self.ranges.get(n, (n, 0))
            self.ranges[n] = min(least, cdf.low), max(most, cdf.most)
        return self.counts[n, p]

    def table(self) -> tuple[Cdfs, dict[int, int]]:
        """Return all rows, and for each n the number of the row that its span CDF for k = 0 has or would have.

        The row for another k is k further.
        """
        ranges = tuple((n, *ends) for n, ends in self.ranges.items() if n > 1)
        rows, at = {}, max(len(self.counts), 1)
        for n, least, most in ranges:
            rows[n] = at - least
            at += most + 1 - least
        return table(tuple(self.counts), ranges), rows


def encode(columns: Columns) -> Encoded:
    """Parameters of checked columns. Shares become integer limits, sizes become pages."""
    offsets = np.append(0, np.cumsum(columns["rounds"]))
    seeds = columns["seed"].copy()  # contiguous, as kernels take it
    columns, groups = groups_of(columns)
    content = tuple((name, kept.dtype.str, kept.tobytes()) for name, kept in columns.items() if name != "seed")
    return Encoded(*encode_groups(content), groups, seeds, offsets)


@lru_cache(maxsize=1)
def encode_groups(
    content: tuple[tuple[str, str, bytes], ...],
) -> tuple[NDArray[np.void], NDArray[np.void], Cdfs]:
    """PARAMETERS, LIMITS and CDFs of groups of points, from each column's name, dtype and bytes.

    The last result is kept, as one batch after another has the same.
    """
    encode_groups.cache_clear()  # as engine.random.inverse_cdf.table, which keeps the CDFs
    columns = {name: np.frombuffer(data, dtype) for name, dtype, data in content}
    par = encode_sizes(columns)
    lim = np.zeros(len(par), LIMITS)
    entries = par["entries"]

    pool = Pool()
    encode_share(par, lim, columns["coverage"], "cover")
    encode_share(par, lim, columns["refault"], "refault")
    for p, rows in installed_shares(columns):
        kind, value = limit(p)
        whole = MAYBE if 0 < p < 1 else kind
        lim["install"][rows] = np.uint64(value)
        par["install"][rows] = np.where(par["places"][rows] > 0, whole, kind)
        if whole == MAYBE:
            for places in sorted(set(par["places"][rows].tolist())):
                if places > 0:
                    same = rows[par["places"][rows] == places]
                    par["cdf"][same] = pool.add(places, p)
    for share in np.unique(columns["pinned"]):
        rows = np.flatnonzero(columns["pinned"] == share)
        p = decimal(share)
        par["pin"][rows] = NEVER if p == 0 else ALWAYS if p == 1 else MAYBE
        if 0 < p < 1:
            for size in sorted(set(entries[rows].tolist())):
                same = rows[entries[rows] == size]
                par["pin_cdf"][same] = pool.add(size, p)
    cdfs, first_row = pool.table()
    for n, (least, most) in pool.ranges.items():
        same = par["places"] == n
        par["spans"][same], par["fewest"][same], par["most"][same] = first_row.get(n, 0), least, most
        par["pin_spans"][entries == n] = first_row.get(n, 0)
    return par, lim, cdfs


def encode_sizes(columns: Columns) -> NDArray[np.void]:
    """PARAMETERS[n]: those that are sizes and counts; of shares whether they are NEVER, MAYBE or ALWAYS."""
    n = len(columns["virt"])
    par = np.zeros(n, PARAMETERS)
    arch = columns["arch"]

    def of_arch(values: list[int]) -> NDArray[np.int64]:
        return np.array(values, np.int64)[arch]

    page = of_arch([a.page_bytes for a in ARCHES])
    entries = of_arch([a.entries for a in ARCHES])
    pages = columns["virt"] // page
    par["entries"], par["pages"] = entries, pages
    par["pmd_span"] = of_arch([a.pmd_span_tables for a in ARCHES])
    par["pud_span"] = of_arch([a.pud_span_tables if a.has_pud else 0 for a in ARCHES])
    zap, shift = columns["zap"] // page, columns["zap_shift"] // page
    par["zap"], par["shift"] = zap, shift
    par["calls"] = np.maximum(-(-(pages - shift) // zap), 0)
    par["random"] = columns["order"] == RANDOM_ORDER
    par["free"] = columns["advice"] == FREE_ADVICE
    par["rounds"], par["threads"] = columns["rounds"], columns["threads"]
    par["folio"], par["cluster"] = columns["folio"] // page, columns["cluster"] // page
    par["interleaved"] = columns["partition"] == INTERLEAVED
    fits = entries % par["cluster"] == 0
    par["places"] = np.where(fits, entries // par["cluster"], 0)
    par["batch_pages"] = of_arch([a.gather_batch_pages for a in ARCHES])
    par["batches"] = of_arch([a.gather_batches for a in ARCHES])
    par["table_batch"] = of_arch([a.table_batch for a in ARCHES])
    par["ceiling"] = of_arch([a.flush_ceiling for a in ARCHES])
    par["end_table"] = -(-pages // entries)
    par["thp"] = columns["thp"] == THP_ALWAYS
    par["folded_p4d"] = of_arch([a.flushes_folded_p4d for a in ARCHES])
    par["huge_unit"] = of_arch([a.huge_flush_unit_pages for a in ARCHES])

    par["cover"], par["refault"], par["pin"] = (certainty(columns[name]) for name in ("coverage", "refault", "pinned"))
    share = np.where(columns["res"] != ABSENT, columns["res"] / columns["virt"], 1 - columns["sparsity"])
    par["install"] = certainty(share)
    return par


def certainty(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """NEVER for shares of 0, ALWAYS for 1, else MAYBE."""
    return np.where(shares <= 0, NEVER, np.where(shares >= 1, ALWAYS, MAYBE))


def encode_share(par: NDArray[np.void], lim: NDArray[np.void], shares: NDArray[np.float64], name: str) -> None:
    """Set par[name] to NEVER, MAYBE or ALWAYS and lim[name] to the 64-bit limit of each share, float64[n]."""
    for share in np.unique(shares):
        same = shares == share
        par[name][same], value = limit(decimal(share))
        lim[name][same] = np.uint64(value)


def installed_shares(columns: Columns) -> list[tuple[Fraction, NDArray[np.int64]]]:
    """Each distinct p = 1 - sparsity or res / virt, with its rows."""
    groups: list[tuple[Fraction, NDArray[np.int64]]] = []
    by_res = columns["res"] != ABSENT
    groups.extend(
        (1 - decimal(sparsity), np.flatnonzero(~by_res & (columns["sparsity"] == sparsity)))
        for sparsity in np.unique(columns["sparsity"][~by_res])
    )
    pairs = np.stack([columns["res"][by_res], columns["virt"][by_res]], axis=1)
    for res, virt in np.unique(pairs, axis=0):
        rows = np.flatnonzero(by_res & (columns["res"] == res) & (columns["virt"] == virt))
        groups.append((Fraction(int(res), int(virt)), rows))
    return groups
