"""Scenarios as the kernels take them: sizes in pages, shares as integer limits, CDFs each once."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import ARCHES
from engine.model.scenario import ABSENT, FIELD, Columns, decimal
from engine.random.binomial import ALWAYS, MAYBE, NEVER, limit
from engine.random.inverse_cdf import Cdfs, binomial, table
from engine.walk import columns as lay
from engine.walk.point_groups import kinds_of

RANDOM_ORDER = FIELD["order"].choices.index("random")
FREE_ADVICE = FIELD["advice"].choices.index("free")
INTERLEAVED = FIELD["partition"].choices.index("interleaved")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Points as the kernels take them.

    par: int64[kinds, lay.PARAMETERS]; lim: uint64[kinds, lay.LIMITS]; cdfs: the rows that par speaks of;
    kinds, seeds: int64[n], of each point; offsets: int64[n + 1], where its rounds begin
    """

    par: NDArray[np.int64]
    lim: NDArray[np.uint64]
    cdfs: Cdfs
    kinds: NDArray[np.int64]
    seeds: NDArray[np.int64]
    offsets: NDArray[np.int64]


class Pool:
    """The CDFs of a batch, each once: of counts, and of spans for all counts that these can give."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, Fraction], int] = {}
        self.ranges: dict[int, tuple[int, int]] = {}

    def add(self, n: int, p: Fraction) -> int:
        """The row of binomial(n, p)."""
        if (n, p) not in self.counts:
            self.counts[n, p] = len(self.counts)
            cdf = binomial(n, p)
            least, most = self.ranges.get(n, (n, 0))
            self.ranges[n] = min(least, cdf.low), max(most, cdf.most)
        return self.counts[n, p]

    def table(self) -> tuple[Cdfs, dict[int, int]]:
        """All rows, and of each n the row that the span for k = 0 has or would have."""
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
    columns, kinds = kinds_of(columns)
    content = tuple((name, kept.dtype.str, kept.tobytes()) for name, kept in columns.items() if name != "seed")
    return Encoded(*encode_kinds(content), kinds, seeds, offsets)


@lru_cache(maxsize=1)
def encode_kinds(
    content: tuple[tuple[str, str, bytes], ...],
) -> tuple[NDArray[np.int64], NDArray[np.uint64], Cdfs]:
    """par, lim and cdfs of kinds of points: of each column the name, the dtype and the bytes.

    The last ones are kept: one batch after another has the same.
    """
    encode_kinds.cache_clear()  # as engine.random.inverse_cdf.table, which keeps the CDFs
    columns = {name: np.frombuffer(data, dtype) for name, dtype, data in content}
    par = encode_sizes(columns)
    lim = np.zeros((len(par), lay.LIMITS), np.uint64)
    entries = par[:, lay.ENTRIES]

    pool = Pool()
    one_share(par, lim, columns["coverage"], lay.COVER, lay.LIMIT_COVER)
    one_share(par, lim, columns["refault"], lay.REFAULTS, lay.LIMIT_REFAULT)
    for p, rows in installed_shares(columns):
        kind, value = limit(p)
        whole = MAYBE if 0 < p < 1 else kind
        lim[rows, lay.LIMIT_INSTALL] = np.uint64(value)
        par[rows, lay.INSTALL] = np.where(par[rows, lay.PLACES] > 0, whole, kind)
        if whole == MAYBE:
            for places in sorted(set(par[rows, lay.PLACES].tolist())):
                if places > 0:
                    same = rows[par[rows, lay.PLACES] == places]
                    par[same, lay.CDF] = pool.add(places, p)
    for share in np.unique(columns["pinned"]):
        rows = np.flatnonzero(columns["pinned"] == share)
        p = decimal(share)
        par[rows, lay.PIN] = NEVER if p == 0 else ALWAYS if p == 1 else MAYBE
        if 0 < p < 1:
            for size in sorted(set(entries[rows].tolist())):
                same = rows[entries[rows] == size]
                par[same, lay.PIN_CDF] = pool.add(size, p)
    cdfs, first_row = pool.table()
    for n, (least, most) in pool.ranges.items():
        par[par[:, lay.PLACES] == n, lay.SPANS : lay.MOST + 1] = first_row.get(n, 0), least, most
        par[entries == n, lay.PIN_SPANS] = first_row.get(n, 0)
    return par, lim, cdfs


def encode_sizes(columns: Columns) -> NDArray[np.int64]:
    """The parameters that are sizes, counts and kinds (shares: NEVER, MAYBE or ALWAYS): int64[n, lay.PARAMETERS]."""
    n = len(columns["virt"])
    par = np.zeros((n, lay.PARAMETERS), np.int64)
    arch = columns["arch"]

    def of_arch(values: list[int]) -> NDArray[np.int64]:
        return np.array(values, np.int64)[arch]

    page = of_arch([a.page_bytes for a in ARCHES])
    entries = of_arch([a.entries for a in ARCHES])
    pages = columns["virt"] // page
    par[:, lay.ENTRIES], par[:, lay.PAGES] = entries, pages
    par[:, lay.PMD_SPAN] = of_arch([a.pmd_span_tables for a in ARCHES])
    par[:, lay.PUD_SPAN] = of_arch([a.pud_span_tables if a.has_pud else 0 for a in ARCHES])
    zap, shift = columns["zap"] // page, columns["zap_shift"] // page
    par[:, lay.ZAP], par[:, lay.SHIFT] = zap, shift
    par[:, lay.N_CALLS] = np.maximum(-(-(pages - shift) // zap), 0)
    par[:, lay.RANDOM] = columns["order"] == RANDOM_ORDER
    par[:, lay.FREE] = columns["advice"] == FREE_ADVICE
    par[:, lay.ROUNDS], par[:, lay.THREADS] = columns["rounds"], columns["threads"]
    par[:, lay.FOLIO], par[:, lay.CLUSTER] = columns["folio"] // page, columns["cluster"] // page
    par[:, lay.INTERLEAVED] = columns["partition"] == INTERLEAVED
    fits = entries % par[:, lay.CLUSTER] == 0
    par[:, lay.PLACES] = np.where(fits, entries // par[:, lay.CLUSTER], 0)
    par[:, lay.BATCH_SLOTS] = of_arch([a.gather_batch_slots for a in ARCHES])
    par[:, lay.BATCHES] = of_arch([a.gather_batches for a in ARCHES])
    par[:, lay.TABLE_BATCH] = of_arch([a.table_batch for a in ARCHES])
    par[:, lay.CEILING] = of_arch([a.flush_ceiling for a in ARCHES])
    par[:, lay.END_TABLE] = -(-pages // entries)

    for name, at in (("coverage", lay.COVER), ("refault", lay.REFAULTS), ("pinned", lay.PIN)):
        par[:, at] = kind_of(columns[name])
    share = np.where(columns["res"] != ABSENT, columns["res"] / columns["virt"], 1 - columns["sparsity"])
    par[:, lay.INSTALL] = kind_of(share)
    return par


def kind_of(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """NEVER, MAYBE or ALWAYS."""
    return np.where(shares <= 0, NEVER, np.where(shares >= 1, ALWAYS, MAYBE))


def one_share(
    par: NDArray[np.int64], lim: NDArray[np.uint64], shares: NDArray[np.float64], kind_at: int, limit_at: int
) -> None:
    for share in np.unique(shares):
        rows = shares == share
        kind, value = limit(decimal(share))
        par[rows, kind_at] = kind
        lim[rows, limit_at] = np.uint64(value)


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
