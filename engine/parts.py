"""The short way for calls that are an aligned part of one slot: no call covers a table, none crosses one.

Taken when zap divides the table's span, the grid of calls is aligned to it, and nothing pins or refaults (`fits`). Then
the whole-slot rule never frees, so second_walk, seed_inline and merged keep what none keeps; no gather fills; and only
refcount, async and munmap need a look. Same results as engine/walk.py, bit for bit.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine import layout as lay
from engine.bits import ONE, ZERO, first_set, last_set, popcount, survey
from engine.chance import ALWAYS, MAYBE, NEVER
from engine.flush import FULL, RANGED, SENT, flush, flush_with_table
from engine.install import drawn_extents, place_extents, resident_extents
from engine.keyed import CALL, CALL_LOW, COUNT, COUNT_LOW, EXTENT, PLACE, call_key, key
from engine.upper import upper_of_munmap


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    entries, zap = par[:, lay.ENTRIES], par[:, lay.ZAP]
    aligned = (
        (zap < entries) & (entries % zap == 0) & (par[:, lay.SHIFT] % zap == 0) & (par[:, lay.PAGES] % entries == 0)
    )
    plain = (par[:, lay.FREE] == 0) & (par[:, lay.REFAULTS] == NEVER) & (par[:, lay.PIN] == NEVER)
    return np.asarray(aligned & plain)


@njit(cache=True)
def unflush(account: Any, lo: Any, hi: Any, ceiling: Any) -> None:
    """Take back the flush of pages [lo, hi]: it is counted anew with a table freed in the same call."""
    account[SENT] -= 1
    if hi + 1 - lo > ceiling:
        account[FULL] -= 1
    else:
        account[RANGED] -= hi + 1 - lo


@njit(cache=True)
def walk_parts(
    par: Any, lim: Any, cdfs: Any, guides: Any, _: Any, per: Any, work: Any, sums: Any, account: Any
) -> None:
    """As engine.walk.walk, with the same arguments, for points that fit."""
    entries, rounds, places, cluster = par[lay.ENTRIES], par[lay.ROUNDS], par[lay.PLACES], par[lay.CLUSTER]
    pmd_span, pud_span, ceiling, seed = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING], par[lay.SEED]
    table_batch, install, cover, by_key = par[lay.TABLE_BATCH], par[lay.INSTALL], par[lay.COVER], par[lay.RANDOM] != 0
    zap, shift = par[lay.ZAP], par[lay.SHIFT]
    parts = entries // zap
    zap_bits = 0
    while (1 << zap_bits) < zap:
        zap_bits += 1
    cdf, guide = cdfs[par[lay.CDF] : par[lay.CDF] + max(places, 0)], guides[par[lay.GUIDE]]
    n_words = entries >> 6
    present, drawn, scratch = np.zeros(n_words, np.uint64), np.zeros(n_words, np.uint64), np.zeros(n_words, np.uint64)
    keys, made = np.zeros(parts, np.uint64), np.zeros(parts, np.bool_)
    streams = np.empty((rounds, 6), np.uint64)
    for r in range(rounds):
        for i, what in enumerate((COUNT, COUNT_LOW, PLACE, EXTENT, CALL, CALL_LOW)):
            streams[r, i] = key(seed, r, what)
    scan = np.zeros((rounds, 3), np.int64)
    pmd_touched, pud_touched = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
    pmd_mapped, pud_mapped = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
    pmd_first, pud_first = rounds, rounds
    pmd_needed, pud_needed = False, False
    first_table, end_table = par[lay.FIRST_TABLE], par[lay.END_TABLE]
    at_part, at_lo, at_hi = np.zeros(parts, np.int64), np.zeros(parts, np.int64), np.zeros(parts, np.int64)
    part_mask = (ONE << np.uint64(zap & 63)) - ONE  # of a call below 64 pages
    sent, full, ranged = 0, 0, 0

    for table in range(first_table, end_table):
        base = table * entries
        first_part = min(max(shift - base, 0) // zap, parts)
        first_call = (base - shift) // zap  # the number of part 0's call
        n_present = 0
        touched, exists_m = False, False
        present[:] = ZERO
        for r in range(rounds):
            # Install, peak.
            filled = False
            if places > 0:
                k = places if install == ALWAYS else 0
                if install == MAYBE:
                    k = resident_extents(table, places, cdf, guide, streams[r, 0], streams[r, 1])
                if k > 0:
                    filled = True
                    drawn[:] = ZERO
                    place_extents(drawn, scratch, table, places, k, cluster, streams[r, 2])
            elif install != NEVER:
                drawn[:] = ZERO
                stream = streams[r, 3]
                filled = drawn_extents(drawn, base, entries, cluster, install, lim[lay.LIMIT_INSTALL], stream) != 0
            if filled:
                fresh = 0
                for v in range(n_words):
                    fresh += popcount(drawn[v] & ~present[v])
                    present[v] |= drawn[v]
                if n_present == 0:
                    for p in (lay.REFCOUNT, lay.ASYNC):
                        work[p, lay.ALLOCATED] += 1
                    if not touched:
                        touched = True
                        pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                        work[lay.NONE, lay.ALLOCATED] += 1
                    if not exists_m:
                        exists_m = True
                        work[lay.MUNMAP, lay.ALLOCATED] += 1
                n_present += fresh
                sums[lay.INSTALLED] += fresh
            occupied = n_present > 0
            if occupied:
                pmd_touched[r] = True
                pud_touched[r] = True
            per[r, lay.PTE_PEAK] += touched
            per[r, lay.PTE_PEAK + 1] += occupied
            per[r, lay.PTE_PEAK + lay.UNMAPPED] += exists_m
            per[r, lay.PAGES_PEAK] += n_present

            # Which calls are made.
            n_made = 0
            if cover == ALWAYS:
                n_made = parts - first_part
                if first_part > 0:
                    made[:first_part] = False
                made[first_part:] = True
                if by_key and (occupied or exists_m):
                    stream, low_stream = streams[r, 4], streams[r, 5]
                    for i in range(parts):
                        keys[i] = call_key(stream, low_stream, first_call + i)
            elif cover == MAYBE:
                stream, low_stream = streams[r, 4], streams[r, 5]
                limit = lim[lay.LIMIT_COVER]
                for i in range(parts):
                    keys[i] = call_key(stream, low_stream, first_call + i)
                for i in range(parts):
                    made[i] = keys[i] < limit
                    n_made += made[i]
                if first_part > 0:
                    n_made = 0
                    for i in range(parts):
                        made[i] = made[i] and i >= first_part
                        n_made += made[i]
            sums[lay.CALLS] += n_made
            unmapped = n_made == parts
            if not unmapped:
                pmd_mapped[r] = True
                pud_mapped[r] = True
            if touched and n_made > 0:
                work[lay.NONE, lay.VISITS] += n_made
                if occupied:
                    work[lay.ASYNC, lay.VISITS] += n_made
                    work[lay.REFCOUNT, lay.VISITS] += n_made
                if exists_m:
                    work[lay.MUNMAP, lay.VISITS] += n_made

            # What they clear, call by call.
            last_lo, last_hi, last_part = 0, -1, -1
            if exists_m and unmapped:
                last_part = parts - 1
                if by_key:
                    last_part = 0
                    for i in range(1, parts):
                        if keys[i] >= keys[last_part]:
                            last_part = i
            if occupied and n_made > 0:
                left, cleared = n_present, 0
                if zap >= 64:
                    for part in range(parts):
                        if made[part]:
                            n, lo, hi = survey(present, part * zap, (part + 1) * zap)
                            if n > 0:
                                present[part * zap >> 6 : (part + 1) * zap >> 6] = ZERO
                                left -= n
                                at_part[cleared], at_lo[cleared], at_hi[cleared] = part, lo, hi
                                cleared += 1
                else:
                    for v in range(n_words):
                        x = present[v]
                        while x != ZERO:
                            lo = first_set(x)
                            part = (v * 64 + lo) >> zap_bits
                            mask = part_mask << np.uint64(lo & ~(zap - 1))
                            call = x & mask
                            x ^= call
                            if made[part]:
                                present[v] ^= call
                                left -= popcount(call)
                                at_part[cleared], at_lo[cleared], at_hi[cleared] = (
                                    part,
                                    v * 64 + lo,
                                    v * 64 + last_set(call),
                                )
                                cleared += 1
                for i in range(cleared):
                    span = at_hi[i] - at_lo[i] + 1
                    sent += 1
                    if span > ceiling:
                        full += 1
                    else:
                        ranged += span
                if last_part >= 0:
                    for i in range(cleared):
                        if at_part[i] == last_part:
                            last_lo, last_hi = at_lo[i], at_hi[i]
                            unflush(account[lay.MUNMAP], last_lo, last_hi, ceiling)
                sums[lay.ZAPPED] += n_present - left
                if left == 0:
                    # refcount: the last call in order that cleared something freed the table.
                    work[lay.REFCOUNT, lay.FREED] += 1
                    work[lay.REFCOUNT, lay.PMD_LOCKS] += 1
                    f = cleared - 1
                    if by_key:
                        for i in range(cleared):
                            if keys[at_part[i]] >= keys[at_part[f]]:
                                f = i
                    freeing = at_part[f]
                    unflush(account[lay.REFCOUNT], at_lo[f], at_hi[f], ceiling)
                    flush_with_table(account[lay.REFCOUNT], 0, at_lo[f], at_hi[f] + 1, entries, ceiling)
                    for i in range(parts):
                        if made[i]:
                            late = i > freeing
                            if by_key:
                                late = keys[i] > keys[freeing] or (keys[i] == keys[freeing] and i > freeing)
                            work[lay.REFCOUNT, lay.VISITS] -= late
                n_present = left
            if last_part >= 0:
                flush_with_table(account[lay.MUNMAP], 0, last_lo, last_hi + 1, entries, ceiling)
                exists_m = False
                work[lay.MUNMAP, lay.FREED] += 1

            # The async scan, and the end.
            if occupied:
                work[lay.ASYNC, lay.PMD_LOCKS] += 1
                work[lay.ASYNC, lay.PTE_LOCKS] += 1
                if n_present == 0:
                    work[lay.ASYNC, lay.RESCANNED] += entries
                    work[lay.ASYNC, lay.FREED] += 1
                    if scan[r, 0] == 0:
                        scan[r, 1] = base
                    scan[r, 0] += 1
                    scan[r, 2] = base + 1
                    if scan[r, 0] == table_batch:
                        flush(account[lay.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0
                else:
                    v = 0
                    while present[v] == ZERO:
                        v += 1
                    work[lay.ASYNC, lay.RESCANNED] += v * 64 + first_set(present[v]) + 1
            per[r, lay.PTE_END] += touched
            per[r, lay.PTE_END + 1] += n_present > 0
            per[r, lay.PTE_END + lay.UNMAPPED] += exists_m
            per[r, lay.PAGES_END] += n_present
        if n_present > 0:
            sums[lay.NEED_PTE] += 1
            pmd_needed, pud_needed = True, True

        if (table + 1) % pmd_span == 0 or table + 1 == end_table:
            if pmd_first < rounds:
                per[pmd_first, lay.PMD_NEW] += 1
            upper_of_munmap(per, lay.PMD_PEAK_M, lay.PMD_END_M, pmd_touched, pmd_mapped)
            sums[lay.NEED_PMD] += pmd_needed
            pmd_first, pmd_needed = rounds, False
            for r in range(rounds):
                if scan[r, 0] > 0:
                    flush(account[lay.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                    scan[r, 0] = 0
        if pud_span > 0 and ((table + 1) % pud_span == 0 or table + 1 == end_table):
            if pud_first < rounds:
                per[pud_first, lay.PUD_NEW] += 1
            upper_of_munmap(per, lay.PUD_PEAK_M, lay.PUD_END_M, pud_touched, pud_mapped)
            sums[lay.NEED_PUD] += pud_needed
            pud_first, pud_needed = rounds, False

    for p in (lay.ZAPPING, lay.MUNMAP):
        account[p, FULL] += full
        account[p, RANGED] += ranged
        account[p, SENT] += sent
    # What one class kept count of for another.
    for r in range(rounds):
        for at in (lay.PTE_PEAK, lay.PTE_END):
            per[r, at + lay.ASYNC] += per[r, at + lay.REFCOUNT]
            per[r, at + lay.BY_SLOT] += per[r, at + lay.NONE]
        per[r, lay.PAGES_PEAK + 1] += per[r, lay.PAGES_PEAK]
        per[r, lay.PAGES_END + 1] += per[r, lay.PAGES_END]
    for i in range(3):
        sums[lay.NEED_PTE_M + i] += sums[lay.NEED_PTE + i]
    sums[lay.INSTALLED_M] += sums[lay.INSTALLED]
    sums[lay.ZAPPED_M] += sums[lay.ZAPPED]
    for p in (lay.SECOND, lay.SEED_INLINE, lay.MERGED):
        work[p, lay.VISITS] += work[lay.NONE, lay.VISITS]
        work[p, lay.ALLOCATED] += work[lay.NONE, lay.ALLOCATED]
