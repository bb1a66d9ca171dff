"""The short way for calls of exactly one slot: a table is then known by how many pages it holds.

Taken when every call is one whole slot of one PTE table, nothing pins or refaults, and a round begins with
empty tables or with tables that are all or nothing (`fits`). Then a table exists under refcount, async, the
whole-slot rule and munmap exactly while it holds pages, so one flag stands for four classes of policies, and
places are drawn only for the few flushes that may be short. Same results as engine/walk.py, bit for bit.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine import walk as w
from engine.bits import ZERO, survey
from engine.chance import ALWAYS, MAYBE, NEVER
from engine.flush import flush
from engine.install import FIELD, LOW_48, S16, S48, S56, place_extents
from engine.keyed import CALL, COUNT, COUNT_LOW, EXTENT, PLACE, S32, draw, key


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    entries = par[:, w.ENTRIES]
    one_slot = (par[:, w.ZAP] == entries) & (par[:, w.SHIFT] == 0) & (par[:, w.PAGES] % entries == 0)
    plain = (par[:, w.FREE] == 0) & (par[:, w.REFAULTS] == NEVER) & (par[:, w.PIN] == NEVER) & (par[:, w.THREADS] == 1)
    all_or_nothing = (par[:, w.CLUSTER] % entries == 0) | (par[:, w.INSTALL] != MAYBE)
    fresh = (par[:, w.COVER] == ALWAYS) | (par[:, w.ROUNDS] == 1)
    return np.asarray(one_slot & plain & (all_or_nothing | (fresh & (par[:, w.PLACES] > 0))))


@njit(cache=True)
def ends(table: Any, n: Any, k: Any, cluster: Any, stream: Any, ceiling: Any, words: Any, scratch: Any) -> Any:
    """(first, last) resident entry of a table with k of n extents, or any two that also mean a full flush."""
    if k == n or k * cluster > ceiling:
        return 0, n * cluster - 1
    if k > 32:
        words[:] = ZERO
        place_extents(words, scratch, table, n, k, cluster, stream)
        return survey(words, 0, n * cluster)[1:]
    bits = 0
    while (1 << bits) < n:
        bits += 1
    low, shift = np.uint64(n - 1), np.uint64(bits)
    first: Any = n
    last: Any = -1
    have, i = 0, 0
    while True:
        h = draw(stream, table * 4096 + i)
        i += 1
        for _ in range(64 // bits):
            q = np.int64(h & low)
            h >>= shift
            known = False
            for j in range(have):
                known = known or np.int64(scratch[j]) == q
            if known:
                continue
            if have < scratch.size:
                scratch[have] = np.uint64(q)
            have += 1
            first = min(first, q)
            last = max(last, q)
            if have == k or ((last - first) * cluster > ceiling and last * cluster > ceiling):
                return first * cluster, (last + 1) * cluster - 1


@njit(cache=True)
def walk_slots(par: Any, lim: Any, cdfs: Any, guides: Any, per: Any, work: Any, sums: Any, account: Any) -> None:
    """As engine.walk.walk, with the same arguments, for points that fit."""
    entries, rounds, places, cluster = par[w.ENTRIES], par[w.ROUNDS], par[w.PLACES], par[w.CLUSTER]
    pmd_span, pud_span, ceiling, seed = par[w.PMD_SPAN], par[w.PUD_SPAN], par[w.CEILING], par[w.SEED]
    table_batch, install, cover = par[w.TABLE_BATCH], par[w.INSTALL], par[w.COVER]
    cdf, guide = cdfs[par[w.CDF] : par[w.CDF] + max(places, 0)], guides[par[w.GUIDE]]
    wide = cluster // entries if cluster >= entries else 1  # tables an extent covers
    counted = places > 0 and install == MAYBE
    shared = install == MAYBE and not counted and wide % 4 == 0  # four tables, one extent
    words, scratch = np.zeros(max(entries >> 6, 1), np.uint64), np.zeros(max(entries >> 6, 64), np.uint64)
    count_keys, low_keys = np.empty(rounds, np.uint64), np.empty(rounds, np.uint64)
    place_keys, call_keys, extent_keys = (
        np.empty(rounds, np.uint64),
        np.empty(rounds, np.uint64),
        np.empty(rounds, np.uint64),
    )
    for r in range(rounds):
        count_keys[r], low_keys[r] = key(seed, r, COUNT), key(seed, r, COUNT_LOW)
        place_keys[r], call_keys[r], extent_keys[r] = key(seed, r, PLACE), key(seed, r, CALL), key(seed, r, EXTENT)
    scan = np.zeros((rounds, 3), np.int64)
    pmd_touched, pud_touched = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
    pmd_mapped, pud_mapped = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
    pmd_first, pud_first, pmd_needed, pud_needed = rounds, rounds, False, False
    touched, held = np.zeros(4, np.bool_), np.zeros(4, np.int64)
    first_table, end_table = par[w.FIRST_TABLE], par[w.END_TABLE]
    kept_by = np.array([w.NONE, w.ASYNC])
    freed_by = np.array([w.REFCOUNT, w.SECOND, w.SEED_INLINE, w.MERGED, w.MUNMAP])
    base_account, freed_account = np.zeros(3, np.int64), np.zeros(3, np.int64)
    uncalled, missed, met, allocated, freed = 0, 0, 0, 0, 0
    installed, zapped, scanned, scan_reads = 0, 0, 0, 0
    skips = counted and cover == ALWAYS
    none_below = cdf[0] >> S48 if counted else ZERO  # upper 16 bits below this are k = 0 without a doubt

    for group in range(first_table >> 2, (end_table + 3) >> 2):
        touched[:] = False
        held[:] = 0
        begin, end = max(group * 4, first_table), min(group * 4 + 4, end_table)
        for r in range(rounds):
            h = draw(count_keys[r], group) if counted else ZERO
            hit = shared and draw(extent_keys[r], group * 4 // wide) < lim[w.LIMIT_INSTALL]
            if shared and not hit and cover == ALWAYS:
                continue
            if (
                skips
                and h & FIELD < none_below
                and (h >> S16) & FIELD < none_below
                and (h >> S32) & FIELD < none_below
                and h >> S48 < none_below
            ):
                continue  # nothing installed, and every earlier page was zapped
            for table in range(begin, end):
                j = table & 3
                k = 0
                if counted:
                    upper = ((h >> np.uint64(16 * j)) & FIELD) << S48
                    k = guide[np.int64(upper >> S56)]
                    while k < places and cdf[k] <= upper:
                        k += 1
                    if k < places and cdf[k] <= (upper | LOW_48):
                        u = upper | (draw(low_keys[r], table) >> S16)
                        while k < places and cdf[k] <= u:
                            k += 1
                    k *= cluster
                elif (
                    install == ALWAYS
                    or hit
                    or (install == MAYBE and not shared and draw(extent_keys[r], table // wide) < lim[w.LIMIT_INSTALL])
                ):
                    k = entries
                if k > 0 and held[j] == 0:
                    held[j] = k
                    installed += k
                    allocated += 1
                    if not touched[j]:
                        touched[j] = True
                        per[r, w.PTE_PEAK] += 1
                        pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                present = held[j]
                made = cover == ALWAYS or (cover == MAYBE and draw(call_keys[r], table) < lim[w.LIMIT_COVER])
                missed += touched[j] and not made
                if not made:
                    uncalled += 1
                    pmd_mapped[r] = True
                    pud_mapped[r] = True
                if present == 0:
                    continue
                pmd_touched[r] = True
                pud_touched[r] = True
                per[r, w.PTE_PEAK + 1] += 1
                per[r, w.PAGES_PEAK] += present
                scanned += 1
                if made:
                    base = table * entries
                    if present == entries:
                        lo, hi = 0, entries - 1
                    else:
                        lo, hi = ends(
                            table, places, present // cluster, cluster, place_keys[r], ceiling, words, scratch
                        )
                    flush(base_account, lo, hi + 1, 1, ceiling)
                    flush(freed_account, 0, hi + 1, 1, ceiling)
                    met += 1
                    freed += 1
                    zapped += present
                    held[j] = 0
                    scan_reads += entries
                    if scan[r, 0] == 0:
                        scan[r, 1] = base
                    scan[r, 0] += 1
                    scan[r, 2] = base + 1
                    if scan[r, 0] == table_batch:
                        flush(account[w.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0
                else:
                    per[r, w.PTE_END + 1] += 1
                    per[r, w.PAGES_END] += present
                    if present == entries:
                        scan_reads += 1
                    else:
                        words[:] = ZERO
                        place_extents(words, scratch, table, places, present // cluster, cluster, place_keys[r])
                        _, lo, _ = survey(words, 0, entries)
                        scan_reads += lo + 1
        for j in range(4):
            if held[j] > 0:
                sums[w.NEED_PTE] += 1
                pmd_needed, pud_needed = True, True

        if end % pmd_span == 0 or end == end_table:
            if pmd_first < rounds:
                per[pmd_first, w.PMD_NEW] += 1
            w.upper_of_munmap(per, w.PMD_PEAK_M, w.PMD_END_M, pmd_touched, pmd_mapped)
            sums[w.NEED_PMD] += pmd_needed
            pmd_first, pmd_needed = rounds, False
            for r in range(rounds):
                if scan[r, 0] > 0:
                    flush(account[w.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                    scan[r, 0] = 0
        if pud_span > 0 and (end % pud_span == 0 or end == end_table):
            if pud_first < rounds:
                per[pud_first, w.PUD_NEW] += 1
            w.upper_of_munmap(per, w.PUD_PEAK_M, w.PUD_END_M, pud_touched, pud_mapped)
            sums[w.NEED_PUD] += pud_needed
            pud_first, pud_needed = rounds, False

    # One flag stood for many: hand the sums on. A table once touched stays under none.
    tables_of_none, met_by_none = 0, -missed
    for r in range(rounds):
        tables_of_none += per[r, w.PTE_PEAK]
        met_by_none += tables_of_none
        per[r, w.PTE_PEAK] = tables_of_none
        per[r, w.PTE_END] = tables_of_none
        for c in range(2, 5):
            per[r, w.PTE_PEAK + c] += per[r, w.PTE_PEAK + 1]
            per[r, w.PTE_END + c] += per[r, w.PTE_END + 1]
        per[r, w.PAGES_PEAK + 1] += per[r, w.PAGES_PEAK]
        per[r, w.PAGES_END + 1] += per[r, w.PAGES_END]
    for i in range(3):
        sums[w.NEED_PTE_M + i] += sums[w.NEED_PTE + i]
    sums[w.CALLS] += (end_table - first_table) * rounds - uncalled
    for lane in (w.INSTALLED, w.INSTALLED_M):
        sums[lane] += installed
        sums[lane + 1] += zapped
    work[w.NONE, w.VISITS] += met_by_none
    work[w.NONE, w.ALLOCATED] += tables_of_none
    work[w.ASYNC, w.VISITS] += met
    work[w.ASYNC, w.ALLOCATED] += allocated
    work[w.ASYNC, w.FREED] += freed
    work[w.ASYNC, w.PMD_LOCKS] += scanned
    work[w.ASYNC, w.PTE_LOCKS] += scanned
    work[w.ASYNC, w.RESCANNED] += scan_reads
    for p in freed_by:
        work[p, w.VISITS] += met
        work[p, w.ALLOCATED] += allocated
        work[p, w.FREED] += freed
    work[w.REFCOUNT, w.PMD_LOCKS] += freed
    work[w.SECOND, w.PMD_LOCKS] += freed
    work[w.SECOND, w.PTE_LOCKS] += freed
    work[w.SECOND, w.RESCANNED] += freed * entries
    for p in (w.SEED_INLINE, w.MERGED):
        work[p, w.TRYLOCKS] += freed
        work[p, w.FAST] += freed
    for i in range(3):
        for p in kept_by:
            account[p, i] += base_account[i]
        for p in freed_by:
            account[p, i] += freed_account[i]
