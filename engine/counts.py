"""The shortest way: one round of calls of a slot each, by one thread; a hash for four tables says how full they are.

Taken by the points of engine/slots.py that have one round, one slot a call, one thread, extents that divide a table,
and enough tables to pay for a look-up table (`fits`). A table's places are drawn only if its flush might be short, or
if it stays and async must find its first entry. Same results as engine/walk.py, bit for bit.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine import layout as lay
from engine import slots
from engine.bits import ZERO, survey
from engine.chance import ALWAYS, MAYBE
from engine.flush import FULL, SENT, flush
from engine.install import place_extents, resident_extents
from engine.keyed import CALL, CALL_LOW, COUNT, COUNT_LOW, FIELD, LOW_48, PLACE, S16, S48, draw, is_made, key
from engine.slots import ends
from engine.upper import upper_of_munmap

UNSURE = 0xFFFF
CELLS = 65_536
BY_POLICY_THAT_FREES = (lay.REFCOUNT, lay.SECOND, lay.SEED_INLINE, lay.MERGED, lay.MUNMAP)


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    one = (par[:, lay.ROUNDS] == 1) & (par[:, lay.ZAP] == par[:, lay.ENTRIES]) & (par[:, lay.THREADS] == 1)
    counted = (par[:, lay.PLACES] > 0) & (par[:, lay.INSTALL] == MAYBE) & (par[:, lay.END_TABLE] >= CELLS)
    return np.asarray(slots.fits(par) & one & counted)


@njit(cache=True)
def count_table(cdf: Any, n: Any) -> Any:
    """uint16[65536]: extents for each value of the upper 16 bits, UNSURE where the lower 48 decide."""
    table = np.empty(CELLS, np.uint16)
    k = 0
    for cell in range(CELLS):
        upper = np.uint64(cell) << S48
        while k < n and cdf[k] <= upper:
            k += 1
        table[cell] = UNSURE if k < n and cdf[k] <= (upper | LOW_48) else k
    return table


@njit(cache=True)
def walk_counts(
    par: Any, lim: Any, cdfs: Any, guides: Any, _: Any, per: Any, work: Any, sums: Any, account: Any
) -> None:
    """As engine.walk.walk, with the same arguments, for points that fit."""
    entries, places, cluster = par[lay.ENTRIES], par[lay.PLACES], par[lay.CLUSTER]
    pmd_span, pud_span, ceiling, seed = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING], par[lay.SEED]
    table_batch, cover, limit = par[lay.TABLE_BATCH], par[lay.COVER], lim[lay.LIMIT_COVER]
    cdf, guide = cdfs[par[lay.CDF] : par[lay.CDF] + places], guides[par[lay.GUIDE]]
    counts = count_table(cdf, places)
    words, scratch = np.zeros(entries >> 6, np.uint64), np.zeros(max(entries >> 6, 64), np.uint64)
    count_key, low_key = key(seed, 0, COUNT), key(seed, 0, COUNT_LOW)
    place_key, calls, calls_low = key(seed, 0, PLACE), key(seed, 0, CALL), key(seed, 0, CALL_LOW)
    bits = 0
    while (1 << bits) < places:
        bits += 1
    low, shift = np.uint64(places - 1), np.uint64(bits)
    wide = ceiling // cluster + 1  # places this far apart mean a full flush
    pmd_touched, pmd_mapped = np.zeros(1, np.bool_), np.zeros(1, np.bool_)
    pud_touched, pud_mapped, pud_needed = np.zeros(1, np.bool_), np.zeros(1, np.bool_), False
    first_table, end_table = par[lay.FIRST_TABLE], par[lay.END_TABLE]
    occupied, pages, freed, zapped, uncalled, kept_reads, full = 0, 0, 0, 0, 0, 0, 0

    for region in range(first_table, end_table, pmd_span):
        region_end = min(region + pmd_span, end_table)
        before, freed_before, uncalled_before = occupied, freed, uncalled
        held, first_freed, last_freed = 0, 0, 0
        h = ZERO
        for table in range(region, region_end):
            if table & 3 == 0 or table == region:
                h = draw(count_key, table >> 2) >> np.uint64(16 * (table & 3))
            k: Any = np.int64(counts[np.int64(h & FIELD)])
            h >>= S16
            made: Any = True
            if cover != ALWAYS:
                made = cover == MAYBE and is_made(calls, calls_low, table, limit)
                uncalled += not made
            if k == 0:
                continue
            if k == UNSURE:
                k = resident_extents(table, places, cdf, guide, count_key, low_key)
                if k == 0:
                    continue
            occupied += 1
            pages += k
            if not made:
                words[:] = ZERO
                place_extents(words, scratch, table, places, k, cluster, place_key)
                kept_reads += survey(words, 0, entries)[1] + 1
                continue
            freed += 1
            zapped += k
            if held == 0:
                first_freed = table
            held += 1
            last_freed = table
            if held == table_batch:
                flush(account[lay.ASYNC], first_freed * entries, last_freed * entries + 1, entries, ceiling)
                held = 0
            if k * cluster > ceiling:
                full += 1
                continue
            if k > 1:
                g = draw(place_key, table * 4096)
                a, b = np.int64(g & low), np.int64((g >> shift) & low)
                if abs(a - b) >= wide and max(a, b) >= wide:
                    full += 1
                    continue
            lo, hi = ends(table, places, k, cluster, place_key, ceiling, words, scratch)
            flush(account[lay.NONE], lo, hi + 1, 1, ceiling)
            flush(account[lay.MERGED], 0, hi + 1, 1, ceiling)
        if held > 0:
            flush(account[lay.ASYNC], first_freed * entries, last_freed * entries + 1, entries, ceiling)
        if occupied > before:
            per[0, lay.PMD_NEW] += 1
            pmd_touched[0], pud_touched[0] = True, True
        if uncalled > uncalled_before:
            pmd_mapped[0], pud_mapped[0] = True, True
        if occupied - before > freed - freed_before:
            sums[lay.NEED_PMD] += 1
            sums[lay.NEED_PMD_M] += 1
            pud_needed = True
        upper_of_munmap(per, lay.PMD_PEAK_M, lay.PMD_END_M, pmd_touched, pmd_mapped)
        if pud_span > 0 and (region_end % pud_span == 0 or region_end == end_table):
            per[0, lay.PUD_NEW] += pud_touched[0]
            upper_of_munmap(per, lay.PUD_PEAK_M, lay.PUD_END_M, pud_touched, pud_mapped)
            sums[lay.NEED_PUD] += pud_needed
            sums[lay.NEED_PUD_M] += pud_needed
            pud_needed = False

    kept = occupied - freed
    for c in range(5):
        per[0, lay.PTE_PEAK + c] += occupied
        per[0, lay.PTE_END + c] += occupied if c == lay.NONE else kept
    for lane in range(2):
        per[0, lay.PAGES_PEAK + lane] += pages * cluster
        per[0, lay.PAGES_END + lane] += (pages - zapped) * cluster
    sums[lay.CALLS] += end_table - first_table - uncalled
    sums[lay.NEED_PTE] += kept
    sums[lay.NEED_PTE_M] += kept
    for lane in (lay.INSTALLED, lay.INSTALLED_M):
        sums[lane] += pages * cluster
        sums[lane + 1] += zapped * cluster
    for p in range(7):
        work[p, lay.VISITS] += freed
        work[p, lay.ALLOCATED] += occupied
        work[p, lay.FREED] += freed if p != lay.NONE else 0
    work[lay.ASYNC, lay.PMD_LOCKS] += occupied
    work[lay.ASYNC, lay.PTE_LOCKS] += occupied
    work[lay.ASYNC, lay.RESCANNED] += freed * entries + kept_reads
    work[lay.REFCOUNT, lay.PMD_LOCKS] += freed
    work[lay.SECOND, lay.PMD_LOCKS] += freed
    work[lay.SECOND, lay.PTE_LOCKS] += freed
    work[lay.SECOND, lay.RESCANNED] += freed * entries
    for p in (lay.SEED_INLINE, lay.MERGED):
        work[p, lay.TRYLOCKS] += freed
        work[p, lay.FAST] += freed
    for p in (lay.NONE, lay.MERGED):
        account[p, FULL] += full
        account[p, SENT] += full
    for i in range(3):
        account[lay.ASYNC, i] += account[lay.NONE, i]
        for p in BY_POLICY_THAT_FREES:
            if p != lay.MERGED:
                account[p, i] += account[lay.MERGED, i]
