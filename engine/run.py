"""Columns of scenarios in, results out: encode, walk, sum up. One pass judges all seven policies."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine import parts, slots
from engine import walk as w
from engine.arch import ARCHES, Arch
from engine.chance import ALWAYS, GUIDE, MAYBE, NEVER, binomial, limit, trylock_limits
from engine.outcome import COLUMNS, ROUND_COLUMNS, Results
from engine.policy import POLICIES
from engine.scenario import ABSENT, FIELD, Columns, check, decimal

RANDOM_ORDER = FIELD["order"].choices.index("random")
FREE_ADVICE = FIELD["advice"].choices.index("free")
INTERLEAVED = FIELD["partition"].choices.index("interleaved")
BY_WALK, BY_SLOTS, BY_PARTS = range(3)
CLASS_OF_POLICY = (0, 1, 2, w.BY_SLOT, w.BY_SLOT, w.BY_SLOT, w.UNMAPPED)
"""Policies that keep the same tables share a class (engine/walk.py)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Points as the kernel takes them.

    par: int64[n, w.PARAMETERS]; lim: uint64[n, w.LIMITS]; cdfs: uint64[*]; guides: int64[*, 256];
    offsets: int64[n + 1], where a point's rounds begin
    """

    par: NDArray[np.int64]
    lim: NDArray[np.uint64]
    cdfs: NDArray[np.uint64]
    guides: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """What walks over parts of the same points add up to. Shapes as in engine/walk.py, a row a point."""

    per: NDArray[np.int64]
    work: NDArray[np.int64]
    sums: NDArray[np.int64]
    account: NDArray[np.int64]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.per + other.per, self.work + other.work, self.sums + other.sums, self.account + other.account)


def run_batch(columns: Columns) -> Results:
    """Outcomes of complete columns (engine.scenario.complete), a row by itself. Raises ScenarioError."""
    check(columns)
    points = encode(columns)
    return finish(points, columns, tally(points))


def run_sharded(columns: Columns, index: int, parts: int) -> Results:
    """One point, walked in up to `parts` pieces: the same bits as run_batch."""
    one = {name: values[index : index + 1] for name, values in columns.items()}
    check(one)
    points = encode(one)
    pieces = [tally(points, first, end) for first, end in shards(points.par[0], parts)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    return finish(points, one, total)


def shards(par: NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """Ranges of tables, at most `parts`, that can be walked apart.

    A cut must not go through a PUD table (or a PMD table where PUDs are folded) nor through a call; threads above 1
    share their steps, so such a point stays whole.
    """
    tables = int(par[w.END_TABLE])
    unit = int(par[w.PUD_SPAN] or par[w.PMD_SPAN])
    entries, zap, shift = int(par[w.ENTRIES]), int(par[w.ZAP]), int(par[w.SHIFT])
    if parts < 2 or par[w.THREADS] > 1:
        return [(0, tables)]
    wanted = [round(i * tables / parts / unit) * unit for i in range(1, parts)]
    cuts = sorted({t for t in wanted if 0 < t < tables and (t * entries <= shift or (t * entries - shift) % zap == 0)})
    return list(zip([0, *cuts], [*cuts, tables], strict=True))


def ways(par: NDArray[np.int64]) -> NDArray[np.int64]:
    """The kernel that each row goes through: BY_WALK, BY_SLOTS or BY_PARTS."""
    return np.where(slots.fits(par), BY_SLOTS, np.where(parts.fits(par), BY_PARTS, BY_WALK))


def tally(points: Encoded, first: int = 0, end: int | None = None, short: bool = True) -> Tally:
    """Walk tables [first, end) of every point (default: all), the short way where one fits, unless `short` is off."""
    n = len(points.par)
    par = points.par
    if end is not None:
        par = par.copy()
        par[:, w.FIRST_TABLE], par[:, w.END_TABLE] = first, end
    out = Tally(
        np.zeros((int(points.offsets[-1]), w.PER), np.int64),
        np.zeros((n, len(POLICIES), w.WORK_COLUMNS), np.int64),
        np.zeros((n, w.SUMS), np.int64),
        np.zeros((n, w.ZAPPING + 1, 3), np.int64),
    )
    walk_all(
        par, points.lim, points.cdfs, points.guides, trylock_limits(), points.offsets,
        ways(par) if short else np.zeros(n, np.int64), out.per, out.work, out.sums, out.account,
    )  # fmt: skip
    return out


@njit(cache=True, nogil=True)
def walk_all(
    par: Any, lim: Any, cdfs: Any, guides: Any, contention: Any, offsets: Any, way: Any,
    per: Any, work: Any, sums: Any, account: Any,
) -> None:  # fmt: skip
    for i in range(len(par)):
        mine = per[offsets[i] : offsets[i + 1]]
        if way[i] == BY_SLOTS:
            slots.walk_slots(par[i], lim[i], cdfs, guides, mine, work[i], sums[i], account[i])
        elif way[i] == BY_PARTS:
            parts.walk_parts(par[i], lim[i], cdfs, guides, mine, work[i], sums[i], account[i])
        else:
            w.walk(par[i], lim[i], cdfs, guides, contention, mine, work[i], sums[i], account[i])


class Pool:
    """CDFs of a batch, each once."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, Fraction], tuple[int, int]] = {}
        self.cdfs: list[NDArray[np.uint64]] = []
        self.guides: list[NDArray[np.int64]] = [np.zeros(GUIDE, np.int64)]
        self.size = 0

    def add(self, n: int, p: Fraction) -> tuple[int, int]:
        """(offset of the limits, row of the guide)."""
        at = self.places.get((n, p))
        if at is None:
            cdf = binomial(n, p)
            at = self.places[n, p] = (self.size, len(self.guides))
            self.cdfs.append(cdf.limits)
            self.guides.append(cdf.guide)
            self.size += n
        return at


def encode(columns: Columns) -> Encoded:
    """Parameters of checked columns. Shares become integer limits, sizes become pages."""
    n = len(columns["virt"])
    par = np.zeros((n, w.PARAMETERS), np.int64)
    lim = np.zeros((n, w.LIMITS), np.uint64)
    arch = columns["arch"]

    def of_arch(values: list[int]) -> NDArray[np.int64]:
        return np.array(values, np.int64)[arch]

    page = of_arch([a.page_bytes for a in ARCHES])
    entries = of_arch([a.entries for a in ARCHES])
    pages = columns["virt"] // page
    par[:, w.ENTRIES], par[:, w.PAGES] = entries, pages
    par[:, w.PMD_SPAN] = of_arch([a.pmd_span_tables for a in ARCHES])
    par[:, w.PUD_SPAN] = of_arch([a.pud_span_tables if a.has_pud else 0 for a in ARCHES])
    zap, shift = columns["zap"] // page, columns["zap_shift"] // page
    par[:, w.ZAP], par[:, w.SHIFT] = zap, shift
    par[:, w.N_CALLS] = np.maximum(-(-(pages - shift) // zap), 0)
    par[:, w.RANDOM] = columns["order"] == RANDOM_ORDER
    par[:, w.FREE] = columns["advice"] == FREE_ADVICE
    par[:, w.ROUNDS], par[:, w.THREADS], par[:, w.SEED] = columns["rounds"], columns["threads"], columns["seed"]
    par[:, w.FOLIO], par[:, w.CLUSTER] = columns["folio"] // page, columns["cluster"] // page
    par[:, w.INTERLEAVED] = columns["partition"] == INTERLEAVED
    fits = entries % par[:, w.CLUSTER] == 0
    par[:, w.PLACES] = np.where(fits, entries // par[:, w.CLUSTER], 0)
    par[:, w.BATCH_SLOTS] = of_arch([a.gather_batch_slots for a in ARCHES])
    par[:, w.BATCHES] = of_arch([a.gather_batches for a in ARCHES])
    par[:, w.TABLE_BATCH] = of_arch([a.table_batch for a in ARCHES])
    par[:, w.CEILING] = of_arch([a.flush_ceiling for a in ARCHES])
    par[:, w.END_TABLE] = -(-pages // entries)

    pool = Pool()
    one_share(par, lim, columns["coverage"], w.COVER, w.LIMIT_COVER)
    one_share(par, lim, columns["refault"], w.REFAULTS, w.LIMIT_REFAULT)
    for p, rows in installed_shares(columns):
        kind, value = limit(p)
        whole = MAYBE if 0 < p < 1 else kind
        lim[rows, w.LIMIT_INSTALL] = np.uint64(value)
        par[rows, w.INSTALL] = np.where(par[rows, w.PLACES] > 0, whole, kind)
        if whole == MAYBE:
            for places in np.unique(par[rows, w.PLACES]):
                if places > 0:
                    same = rows[par[rows, w.PLACES] == places]
                    par[same, w.CDF], par[same, w.GUIDE] = pool.add(int(places), p)
    for share in np.unique(columns["pinned"]):
        rows = np.flatnonzero(columns["pinned"] == share)
        p = decimal(share)
        par[rows, w.PIN] = NEVER if p == 0 else ALWAYS if p == 1 else MAYBE
        if 0 < p < 1:
            for size in np.unique(entries[rows]):
                same = rows[entries[rows] == size]
                par[same, w.PIN_CDF], par[same, w.PIN_GUIDE] = pool.add(int(size), p)
    cdfs = np.concatenate(pool.cdfs) if pool.cdfs else np.zeros(0, np.uint64)
    offsets = np.concatenate([[0], np.cumsum(columns["rounds"])]).astype(np.int64)
    return Encoded(par, lim, cdfs, np.stack(pool.guides), offsets)


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


def finish(points: Encoded, columns: Columns, seen: Tally) -> Results:
    """Named columns from tallies."""
    n = len(points.par)
    starts = points.offsets[:-1]
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[columns["arch"]]
    has_ipis = np.array([a.sends_ipis for a in ARCHES])[columns["arch"]]
    counts = np.diff(points.offsets)
    per_page = np.repeat(page, counts)
    zap_lane = np.array([0] * 6 + [1])

    def cumulative(column: int) -> NDArray[np.int64]:
        total = np.cumsum(seen.per[:, column])
        before = np.concatenate([[0], total])[starts]
        return np.asarray(total - np.repeat(before, counts))

    pmd_z, pud_z = cumulative(w.PMD_NEW), cumulative(w.PUD_NEW)
    kinds = np.array(CLASS_OF_POLICY)

    def tables(pte_at: int, pmd_m: int, pud_m: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        pte = seen.per[:, pte_at + kinds]
        pmd = np.where(zap_lane, seen.per[:, [pmd_m]], pmd_z[:, None])
        pud = np.where(zap_lane, seen.per[:, [pud_m]], pud_z[:, None])
        return pte, pmd, pud

    rounds = np.zeros((int(points.offsets[-1]), len(POLICIES), len(ROUND_COLUMNS)), np.int64)
    rounds[:, :, 0] = seen.per[:, w.PAGES_PEAK + zap_lane] * per_page[:, None]
    rounds[:, :, 1] = seen.per[:, w.PAGES_END + zap_lane] * per_page[:, None]
    peak = tables(w.PTE_PEAK, w.PMD_PEAK_M, w.PUD_PEAK_M)
    end = tables(w.PTE_END, w.PMD_END_M, w.PUD_END_M)
    rounds[:, :, 2] = sum(peak) * (per_page // 1024)[:, None]
    rounds[:, :, 3] = sum(end) * (per_page // 1024)[:, None]

    last = points.offsets[1:] - 1
    out = np.zeros((n, len(POLICIES), len(COLUMNS)), np.int64)
    at = {name: i for i, name in enumerate(COLUMNS)}
    for i, name in enumerate(ROUND_COLUMNS):
        out[:, :, at[name]] = rounds[last, :, i]
    out[:, :, at["vm_pte_kib_max"]] = np.maximum.reduceat(np.maximum(rounds[:, :, 2], rounds[:, :, 3]), starts, axis=0)
    need = seen.sums[:, [w.NEED_PTE, w.NEED_PMD, w.NEED_PUD]].sum(axis=1)
    need_m = seen.sums[:, [w.NEED_PTE_M, w.NEED_PMD_M, w.NEED_PUD_M]].sum(axis=1)
    kib = page // 1024
    out[:, :, at["vm_pte_kib_needed_end"]] = np.where(zap_lane, (need_m * kib)[:, None], (need * kib)[:, None])
    for name, values in zip(("pte_tables_end", "pmd_tables_end", "pud_tables_end"), end, strict=True):
        out[:, :, at[name]] = values[last]
    holding = np.where(zap_lane, seen.sums[:, [w.NEED_PTE_M]], seen.sums[:, [w.NEED_PTE]])
    out[:, :, at["pte_tables_empty_end"]] = out[:, :, at["pte_tables_end"]] - holding

    def by_lane(name: str, column: int, column_m: int) -> None:
        out[:, :, at[name]] = np.where(zap_lane, seen.sums[:, [column_m]], seen.sums[:, [column]])

    out[:, :, at["zap_calls"]] = seen.sums[:, [w.CALLS]]
    by_lane("ptes_installed", w.INSTALLED, w.INSTALLED_M)
    by_lane("ptes_zapped", w.ZAPPED, w.ZAPPED_M)
    by_lane("force_breaks", w.BREAKS, w.BREAKS_M)
    for name, column in (
        ("table_visits", w.VISITS),
        ("pte_tables_allocated", w.ALLOCATED),
        ("pte_tables_freed", w.FREED),
        ("ptes_rescanned", w.RESCANNED),
        ("fast_paths", w.FAST),
        ("slow_paths", w.SLOW),
        ("pmd_trylocks", w.TRYLOCKS),
        ("pmd_trylocks_failed", w.FAILED),
        ("pmd_locks", w.PMD_LOCKS),
        ("pte_locks_extra", w.PTE_LOCKS),
    ):
        out[:, :, at[name]] = seen.work[:, :, column]
    refcount = POLICIES.index("refcount")
    out[:, refcount, at["atomics"]] = seen.sums[:, [w.INSTALLED, w.ZAPPED, w.MARKED]].sum(axis=1)
    flushes = seen.account[:, : len(POLICIES)].copy()
    flushes[:, :-1] += seen.account[:, w.ZAPPING :]
    out[:, :, at["tlb_flushes_full"]] = flushes[:, :, 0]
    out[:, :, at["tlb_invlpgs"]] = flushes[:, :, 1]
    others = np.where(has_ipis, columns["threads"] - 1, 0)
    out[:, :, at["ipis"]] = flushes[:, :, 2] * others[:, None]
    return Results(out, rounds, counts)


def estimate_ns(columns: Columns) -> NDArray[np.float64]:
    """Expected CPU nanoseconds a point: a first guess for batching, corrected by what batches really take."""
    page = np.array([a.page_bytes for a in ARCHES], np.int64)[columns["arch"]]
    entries = page // 8
    pages = columns["virt"] // page
    tables = -(-pages // entries)
    p = np.where(columns["res"] != ABSENT, columns["res"] / columns["virt"], 1 - columns["sparsity"])
    extents = entries / np.maximum(columns["cluster"] // page, 1)
    placed = np.minimum(p, 1 - p) * np.maximum(extents, 1)
    pieces = np.maximum(entries / (columns["zap"] // page), 1)
    zapped = p * entries
    each = 40 + 2.0 * placed + 5.0 * pieces + 4.0 * zapped * (columns["refault"] > 0) + entries * 0.05
    each = each + 1.5 * np.minimum(pieces, 16) * (columns["threads"] > 1)
    return np.asarray(tables * columns["rounds"] * each + 20_000, np.float64)


def geometry(columns: Columns, index: int) -> Arch:
    """The Arch of one point."""
    return ARCHES[int(columns["arch"][index])]
