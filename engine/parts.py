"""The short way for calls that are an aligned part of one slot: no call covers a table, none crosses one.

Taken when zap divides the table's span, the grid of calls is aligned to it, and nothing pins or refaults (`fits`). Then
the whole-slot rule never frees, so second_walk, seed_inline and merged keep what none keeps; no gather fills; and only
refcount, async and munmap need a look. Same results as engine/walk.py, bit for bit.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine import walk as w
from engine.bits import ONE, ZERO, first_set, last_set, popcount
from engine.chance import ALWAYS, MAYBE, NEVER
from engine.flush import flush, flush_with_table
from engine.install import drawn_extents, place_extents, resident_extents
from engine.keyed import CALL, COUNT, COUNT_LOW, EXTENT, PLACE, draw, key


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    entries, zap = par[:, w.ENTRIES], par[:, w.ZAP]
    aligned = (zap < entries) & (entries % zap == 0) & (par[:, w.SHIFT] % zap == 0) & (par[:, w.PAGES] % entries == 0)
    plain = (par[:, w.FREE] == 0) & (par[:, w.REFAULTS] == NEVER) & (par[:, w.PIN] == NEVER)
    return np.asarray(aligned & plain)


@njit(cache=True)
def call_of(entry: Any, words: Any, zap: Any) -> tuple[Any, Any, Any]:
    """(entries set, first, last) of the aligned part of `zap` entries, a power of two, that holds `entry`."""
    begin = entry & ~(zap - 1)
    if zap >= 64:
        count, first, last = 0, -1, -1
        for v in range(begin >> 6, (begin + zap) >> 6):
            x = words[v]
            if x != ZERO:
                count += popcount(x)
                if first < 0:
                    first = v * 64 + first_set(x)
                last = v * 64 + last_set(x)
        return count, first, last
    v = begin >> 6
    x = words[v] & (((ONE << np.uint64(zap)) - ONE) << np.uint64(begin & 63))
    return popcount(x), v * 64 + first_set(x), v * 64 + last_set(x)


@njit(cache=True)
def walk_parts(par: Any, lim: Any, cdfs: Any, guides: Any, per: Any, work: Any, sums: Any, account: Any) -> None:
    """As engine.walk.walk, with the same arguments, for points that fit."""
    entries, rounds, places, cluster = par[w.ENTRIES], par[w.ROUNDS], par[w.PLACES], par[w.CLUSTER]
    pmd_span, pud_span, ceiling, seed = par[w.PMD_SPAN], par[w.PUD_SPAN], par[w.CEILING], par[w.SEED]
    table_batch, install, cover, by_key = par[w.TABLE_BATCH], par[w.INSTALL], par[w.COVER], par[w.RANDOM] != 0
    zap, shift = par[w.ZAP], par[w.SHIFT]
    parts = entries // zap
    cdf, guide = cdfs[par[w.CDF] : par[w.CDF] + max(places, 0)], guides[par[w.GUIDE]]
    n_words = entries >> 6
    present, drawn, scratch = np.zeros(n_words, np.uint64), np.zeros(n_words, np.uint64), np.zeros(n_words, np.uint64)
    keys, made = np.zeros(parts, np.uint64), np.zeros(parts, np.bool_)
    scan = np.zeros((rounds, 3), np.int64)
    pmd_touched, pud_touched = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
    pmd_mapped, pud_mapped = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
    pmd_first, pud_first = rounds, rounds
    pmd_needed, pud_needed = False, False
    first_table, end_table = par[w.FIRST_TABLE], par[w.END_TABLE]
    freed_early = np.zeros(3, np.int64)

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
                    k = resident_extents(table, places, cdf, guide, key(seed, r, COUNT), key(seed, r, COUNT_LOW))
                if k > 0:
                    filled = True
                    drawn[:] = ZERO
                    place_extents(drawn, scratch, table, places, k, cluster, key(seed, r, PLACE))
            elif install != NEVER:
                drawn[:] = ZERO
                stream = key(seed, r, EXTENT)
                filled = drawn_extents(drawn, base, entries, cluster, install, lim[w.LIMIT_INSTALL], stream) != 0
            if filled:
                fresh = 0
                for v in range(n_words):
                    fresh += popcount(drawn[v] & ~present[v])
                    present[v] |= drawn[v]
                if n_present == 0:
                    for p in (w.REFCOUNT, w.ASYNC):
                        work[p, w.ALLOCATED] += 1
                    if not touched:
                        touched = True
                        pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                        work[w.NONE, w.ALLOCATED] += 1
                    if not exists_m:
                        exists_m = True
                        work[w.MUNMAP, w.ALLOCATED] += 1
                n_present += fresh
                sums[w.INSTALLED] += fresh
            occupied = n_present > 0
            if occupied:
                pmd_touched[r] = True
                pud_touched[r] = True
            per[r, w.PTE_PEAK] += touched
            per[r, w.PTE_PEAK + 1] += occupied
            per[r, w.PTE_PEAK + w.UNMAPPED] += exists_m
            per[r, w.PAGES_PEAK] += n_present

            # Which calls are made.
            n_made = 0
            if cover == ALWAYS:
                n_made = parts - first_part
                if first_part > 0:
                    made[:first_part] = False
                made[first_part:] = True
                if by_key and (occupied or exists_m):
                    stream = key(seed, r, CALL)
                    for i in range(parts):
                        keys[i] = draw(stream, first_call + i)
            elif cover == MAYBE:
                stream = key(seed, r, CALL)
                limit = lim[w.LIMIT_COVER]
                for i in range(parts):
                    keys[i] = draw(stream, first_call + i)
                for i in range(parts):
                    made[i] = keys[i] < limit
                    n_made += made[i]
                if first_part > 0:
                    n_made = 0
                    for i in range(parts):
                        made[i] = made[i] and i >= first_part
                        n_made += made[i]
            sums[w.CALLS] += n_made
            unmapped = n_made == parts
            if not unmapped:
                pmd_mapped[r] = True
                pud_mapped[r] = True
            if touched and n_made > 0:
                work[w.NONE, w.VISITS] += n_made
                if occupied:
                    work[w.ASYNC, w.VISITS] += n_made
                    work[w.REFCOUNT, w.VISITS] += n_made
                if exists_m:
                    work[w.MUNMAP, w.VISITS] += n_made

            # What they clear, call by call.
            freeing, freeing_lo, freeing_hi = -1, 0, 0
            freeing_key = ZERO
            last_lo, last_hi, last_part = 0, -1, -1
            if exists_m and unmapped:
                last_part = parts - 1
                if by_key:
                    last_part = 0
                    for i in range(1, parts):
                        if keys[i] >= keys[last_part]:
                            last_part = i
            if occupied and n_made > 0:
                left = n_present
                v = 0
                x = present[0]
                while True:
                    if x == ZERO:
                        v += 1
                        if v == n_words:
                            break
                        x = present[v]
                        continue
                    part = (v * 64 + first_set(x)) // zap
                    n, lo, hi = call_of(part * zap, present, zap)
                    end = (part + 1) * zap
                    if zap >= 64:
                        v = end >> 6
                        x = present[v] if v < n_words else ZERO
                    else:
                        x = x & ~(((ONE << np.uint64(zap)) - ONE) << np.uint64((part * zap) & 63))
                    if made[part]:
                        left -= n
                        flush(account[w.ZAPPING], lo, hi + 1, 1, ceiling)
                        if part == last_part:
                            last_lo, last_hi = lo, hi
                        else:
                            flush(account[w.MUNMAP], lo, hi + 1, 1, ceiling)
                        if not by_key or freeing < 0 or keys[part] >= freeing_key:
                            freeing, freeing_lo, freeing_hi, freeing_key = part, lo, hi, keys[part]
                    if v >= n_words:
                        break
                zapped = n_present - left
                sums[w.ZAPPED] += zapped
                if left == 0:
                    # refcount: the last call in order that cleared something freed the table.
                    work[w.REFCOUNT, w.FREED] += 1
                    work[w.REFCOUNT, w.PMD_LOCKS] += 1
                    freed_early[:] = 0
                    flush(freed_early, freeing_lo, freeing_hi + 1, 1, ceiling)
                    for i in range(3):
                        account[w.REFCOUNT, i] -= freed_early[i]
                    flush_with_table(account[w.REFCOUNT], 0, freeing_lo, freeing_hi + 1, entries, ceiling)
                    for i in range(parts):
                        if made[i]:
                            late = i > freeing
                            if by_key:
                                late = keys[i] > freeing_key or (keys[i] == freeing_key and i > freeing)
                            work[w.REFCOUNT, w.VISITS] -= late
                    present[:] = ZERO
                else:
                    if zapped > 0:
                        for i in range(parts):
                            if made[i]:
                                if zap >= 64:
                                    present[i * zap >> 6 : (i + 1) * zap >> 6] = ZERO
                                else:
                                    v = i * zap >> 6
                                    present[v] &= ~(((ONE << np.uint64(zap)) - ONE) << np.uint64(i * zap & 63))
                n_present = left
            if last_part >= 0:
                flush_with_table(account[w.MUNMAP], 0, last_lo, last_hi + 1, entries, ceiling)
                exists_m = False
                work[w.MUNMAP, w.FREED] += 1

            # The async scan, and the end.
            if occupied:
                work[w.ASYNC, w.PMD_LOCKS] += 1
                work[w.ASYNC, w.PTE_LOCKS] += 1
                if n_present == 0:
                    work[w.ASYNC, w.RESCANNED] += entries
                    work[w.ASYNC, w.FREED] += 1
                    if scan[r, 0] == 0:
                        scan[r, 1] = base
                    scan[r, 0] += 1
                    scan[r, 2] = base + 1
                    if scan[r, 0] == table_batch:
                        flush(account[w.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0
                else:
                    v = 0
                    while present[v] == ZERO:
                        v += 1
                    work[w.ASYNC, w.RESCANNED] += v * 64 + first_set(present[v]) + 1
            per[r, w.PTE_END] += touched
            per[r, w.PTE_END + 1] += n_present > 0
            per[r, w.PTE_END + w.UNMAPPED] += exists_m
            per[r, w.PAGES_END] += n_present
        if n_present > 0:
            sums[w.NEED_PTE] += 1
            pmd_needed, pud_needed = True, True

        if (table + 1) % pmd_span == 0 or table + 1 == end_table:
            if pmd_first < rounds:
                per[pmd_first, w.PMD_NEW] += 1
            w.upper_of_munmap(per, w.PMD_PEAK_M, w.PMD_END_M, pmd_touched, pmd_mapped)
            sums[w.NEED_PMD] += pmd_needed
            pmd_first, pmd_needed = rounds, False
            for r in range(rounds):
                if scan[r, 0] > 0:
                    flush(account[w.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                    scan[r, 0] = 0
        if pud_span > 0 and ((table + 1) % pud_span == 0 or table + 1 == end_table):
            if pud_first < rounds:
                per[pud_first, w.PUD_NEW] += 1
            w.upper_of_munmap(per, w.PUD_PEAK_M, w.PUD_END_M, pud_touched, pud_mapped)
            sums[w.NEED_PUD] += pud_needed
            pud_first, pud_needed = rounds, False

    # What one class kept count of for another.
    for r in range(rounds):
        for at in (w.PTE_PEAK, w.PTE_END):
            per[r, at + w.ASYNC] += per[r, at + w.REFCOUNT]
            per[r, at + w.BY_SLOT] += per[r, at + w.NONE]
        per[r, w.PAGES_PEAK + 1] += per[r, w.PAGES_PEAK]
        per[r, w.PAGES_END + 1] += per[r, w.PAGES_END]
    for i in range(3):
        sums[w.NEED_PTE_M + i] += sums[w.NEED_PTE + i]
    sums[w.INSTALLED_M] += sums[w.INSTALLED]
    sums[w.ZAPPED_M] += sums[w.ZAPPED]
    for p in (w.SECOND, w.SEED_INLINE, w.MERGED):
        work[p, w.VISITS] += work[w.NONE, w.VISITS]
        work[p, w.ALLOCATED] += work[w.NONE, w.ALLOCATED]
