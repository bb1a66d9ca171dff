"""The short way for calls of whole slots: a table is then known by how many pages it holds.

Taken when every call covers whole slots, nothing pins or refaults, and a round begins with empty tables or with tables
that are all or nothing (`fits`). Then a table exists under refcount, async, the
whole-slot rule and munmap exactly while it holds pages, so one flag stands for four classes of policies, and
places are drawn only for the few flushes that may be short. Same results as engine/walk/walk.py, bit for bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ZERO, fill, nth, survey
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.quantile import quantile_of
from engine.random.splitmix import (
    FIELD,
    OF_CALL,
    OF_CALL_LOW,
    OF_COUNT,
    OF_COUNT_LOW,
    OF_EXTENT,
    S16,
    S32,
    S48,
    call_key,
    draw,
    fill_streams,
    is_made,
    scale,
)
from engine.walk import columns as lay
from engine.walk.contention import AFTER_BREAK, BY_MERGED, BY_SEED, STEP_SHIFT, settle_trylocks, thread_of
from engine.walk.gather import (
    HI,
    LANE_MERGED,
    LATE_MUNMAP,
    LO,
    OPEN,
    SLOTS,
    clear_in_lane,
    close_late,
    empty,
    flush_lane,
    free_in_lane,
    free_late,
    open_call,
    widen,
)
from engine.walk.residency import outermost, place_extents
from engine.walk.scratch import Rounds, most, rounds_of
from engine.walk.tlb import flush
from engine.walk.upper_tables import upper_of_munmap

ALL_THAT_FREE = (lay.REFCOUNT, lay.SECOND, lay.SEED_INLINE, lay.MERGED, lay.MUNMAP)


def plain(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Points whose calls are of whole slots, and that have neither pins nor refaults: bool[n]."""
    entries = par[:, lay.ENTRIES]
    whole = (par[:, lay.ZAP] % entries == 0) & (par[:, lay.SHIFT] == 0) & (par[:, lay.PAGES] % entries == 0)
    return np.asarray(whole & (par[:, lay.FREE] == 0) & (par[:, lay.REFAULTS] == NEVER) & (par[:, lay.PIN] == NEVER))


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    entries = par[:, lay.ENTRIES]
    singles = (par[:, lay.ZAP] == entries) | (par[:, lay.FOLIO] == 1)  # a call of one slot never fills its gather
    all_or_nothing = (par[:, lay.CLUSTER] % entries == 0) | (par[:, lay.INSTALL] != MAYBE)
    fresh = (par[:, lay.COVER] == ALWAYS) | (par[:, lay.ROUNDS] == 1)
    return np.asarray(plain(par) & singles & (all_or_nothing | (fresh & (par[:, lay.PLACES] > 0))))


class Room(NamedTuple):
    """Scratch: rounds; words: uint64[2, *] of a table; open_calls: int64[rounds, OPEN] and the number of each,
    int64[rounds]; touched: bool[4], held: int64[4].
    """

    rounds: Rounds
    words: Any
    open_calls: Any
    open_number: Any
    touched: Any
    held: Any


def room_for(par: NDArray[np.int64]) -> Room:
    """As much as the largest of these points needs: int64[n, PARAMETERS]."""
    rounds = most(par, lay.ROUNDS)
    return Room(
        rounds_of(par),
        np.zeros((2, max(most(par, lay.ENTRIES) >> 6, 64)), np.uint64),
        np.zeros((rounds, OPEN), np.int64),
        np.zeros(rounds, np.int64),
        np.zeros(4, np.bool_),
        np.zeros(4, np.int64),
    )


@inner
def zap_in_call(
    g: Any, account: Any, base: Any, lo: Any, hi: Any, broke: Any, words: Any, entries: Any, ceiling: Any, batch: Any
) -> None:
    """One table of a call over several: what it clears, a break if there was one, and its table, in each gather.

    Three gathers are told apart: of policies that free nothing in the call (account row NONE), of those that free at
    the visit (MERGED), of those that free after it (MUNMAP).
    """
    if broke >= 0:
        widen(g, LO, base + lo, base + broke + 1)
        flush(account[lay.NONE], g[LO], g[HI], 1, ceiling)
        flush(account[lay.MUNMAP], g[LO], g[HI], 1, ceiling)
        empty(g, LO)
        clear_in_lane(g, LANE_MERGED, base + lo, base + broke + 1)
        flush_lane(g, LANE_MERGED, account[lay.MERGED], entries, ceiling)
        _, lo, hi = survey(words, broke + 1, entries)
    if lo >= 0:
        widen(g, LO, base + lo, base + hi + 1)
        clear_in_lane(g, LANE_MERGED, base + lo, base + hi + 1)
    free_in_lane(g, LANE_MERGED, base, account[lay.MERGED], entries, ceiling, batch)
    free_late(g, LATE_MUNMAP, base, account[lay.MUNMAP], entries, ceiling, batch)


@inner
def close(g: Any, account: Any, entries: Any, ceiling: Any) -> None:
    """The end of such a call."""
    flush(account[lay.NONE], g[LO], g[HI], 1, ceiling)
    flush_lane(g, LANE_MERGED, account[lay.MERGED], entries, ceiling)
    close_late(g, LATE_MUNMAP, g[LO], g[HI], account[lay.MUNMAP], entries, ceiling)


@kernel
def walk_slots(
    room: Any, rows: Any, kinds: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    pers: Any, works: Any, all_sums: Any, accounts: Any,
) -> None:  # fmt: skip
    """As engine.walk.walk.walk, with the same arguments, for points that fit."""
    for point in rows:
        par, lim, seed = pars[kinds[point]], lims[kinds[point]], seeds[point]
        work, sums, account = works[point], all_sums[point], accounts[point]
        per = pers[offsets[point] : offsets[point + 1]]
        per[:], work[:], sums[:], account[:] = 0, 0, 0, 0
        entries, rounds, places, cluster = par[lay.ENTRIES], par[lay.ROUNDS], par[lay.PLACES], par[lay.CLUSTER]
        pmd_span, pud_span, ceiling = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING]
        table_batch, install, cover = par[lay.TABLE_BATCH], par[lay.INSTALL], par[lay.COVER]
        count_row, span_row = par[lay.CDF], par[lay.SPANS]
        wide = cluster // entries if cluster >= entries else 1  # tables an extent covers
        counted = places > 0 and install == MAYBE
        shared = install == MAYBE and not counted and wide % 4 == 0  # four tables, one extent
        words, scratch = room.words[0][: entries >> 6], room.words[1][: max(entries >> 6, 64)]
        streams, scan = room.rounds.streams, room.rounds.scan
        fill_streams(seed, rounds, streams)
        scan[:rounds] = 0
        per_call = par[lay.ZAP] // entries
        capacity = 7 + par[lay.BATCHES] * (par[lay.BATCH_SLOTS] - 1)
        open_calls, open_number = room.open_calls, room.open_number
        open_number[:rounds] = -1
        threads, n_calls, by_key = par[lay.THREADS], par[lay.N_CALLS], par[lay.RANDOM] != 0
        pace, attempts = room.rounds.pace[: rounds * threads if threads > 1 else 0], room.rounds.attempts
        steps_seen, steps_met = room.rounds.steps[0][: 2 * pmd_span], room.rounds.steps[1][: 2 * pmd_span]
        pace[:] = 0
        hand = (n_calls + threads - 1) // threads
        flags_of = room.rounds.flags
        flags_of[:, :rounds] = False
        pmd_touched, pud_touched = flags_of[0][:rounds], flags_of[1][:rounds]
        pmd_mapped, pud_mapped = flags_of[2][:rounds], flags_of[3][:rounds]
        pmd_first, pud_first, pmd_needed, pud_needed = rounds, rounds, False, False
        touched, held = room.touched, room.held
        first_table, end_table = par[lay.FIRST_TABLE], par[lay.END_TABLE]
        breaks, mid_breaks, mid_reads = 0, 0, 0
        uncalled, missed, met, allocated, freed = 0, 0, 0, 0, 0
        installed, zapped, scanned, scan_reads = 0, 0, 0, 0
        skips = counted and cover == ALWAYS
        none_below = ZERO  # upper 16 bits below this are k = 0 without a doubt
        if counted and cdfs.lows[count_row] == 0:
            none_below = cdfs.limits[cdfs.begins[count_row]] >> S48

        for group in range(first_table >> 2, (end_table + 3) >> 2):
            touched[:] = False
            held[:] = 0
            begin, end = max(group * 4, first_table), min(group * 4 + 4, end_table)
            for r in range(rounds):
                h = draw(streams[r, OF_COUNT], group) if counted else ZERO
                hit = shared and draw(streams[r, OF_EXTENT], group * 4 // wide) < lim[lay.LIMIT_INSTALL]
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
                        upper = (h >> np.uint64(16 * j)) & FIELD
                        k = cluster * quantile_of(upper, cdfs, count_row, streams[r, OF_COUNT_LOW], table)
                    elif (
                        install == ALWAYS
                        or hit
                        or (
                            install == MAYBE
                            and not shared
                            and draw(streams[r, OF_EXTENT], table // wide) < lim[lay.LIMIT_INSTALL]
                        )
                    ):
                        k = entries
                    if k > 0 and held[j] == 0:
                        held[j] = k
                        installed += k
                        allocated += 1
                        if not touched[j]:
                            touched[j] = True
                            per[r, lay.PTE_PEAK] += 1
                            pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                    present = held[j]
                    call = table // per_call
                    made = cover == ALWAYS or (
                        cover == MAYBE
                        and is_made(streams[r, OF_CALL], streams[r, OF_CALL_LOW], call, lim[lay.LIMIT_COVER])
                    )
                    missed += touched[j] and not made
                    if not made:
                        uncalled += table % per_call == 0
                        pmd_mapped[r] = True
                        pud_mapped[r] = True
                    if present == 0:
                        continue
                    pmd_touched[r] = True
                    pud_touched[r] = True
                    per[r, lay.PTE_PEAK + 1] += 1
                    per[r, lay.PAGES_PEAK] += present
                    scanned += 1
                    if made:
                        base = table * entries
                        if present == entries:
                            lo, hi = 0, entries - 1
                        else:
                            lo, hi = outermost(table, places, present // cluster, cdfs, span_row, streams[r])
                            lo, hi = lo * cluster, (hi + 1) * cluster - 1
                        broke = np.int64(-1)
                        if per_call == 1:
                            flush(account[lay.NONE], lo, hi + 1, 1, ceiling)
                            flush(account[lay.MERGED], 0, hi + 1, 1, ceiling)
                            flush(account[lay.MUNMAP], 0, hi + 1, 1, ceiling)
                        else:
                            g = open_calls[r]
                            if open_number[r] != call:
                                if open_number[r] >= 0:
                                    close(g, account, entries, ceiling)
                                open_call(g)
                                open_number[r] = call
                            g[SLOTS] += present
                            if g[SLOTS] >= capacity:
                                words[:] = ZERO
                                k = present // cluster
                                if present == entries:
                                    fill(words, 0, entries)
                                else:
                                    place_extents(words, scratch, table, places, k, cluster, cdfs, span_row, streams[r])
                                broke = nth(words, 0, entries, present - (g[SLOTS] - capacity))
                                g[SLOTS] -= capacity
                                breaks += 1
                                if broke + 1 < entries:
                                    mid_breaks += 1
                                    mid_reads += broke + 1
                            zap_in_call(g, account, base, lo, hi, broke, words, entries, ceiling, table_batch)
                        if threads > 1:
                            if by_key:
                                rank = call_key(streams[r, OF_CALL], streams[r, OF_CALL_LOW], call)
                                step = scale(rank, hand) * (per_call + 1) + table - call * per_call
                            else:
                                t = thread_of(call, threads, n_calls, par[lay.INTERLEAVED])
                                step = pace[r * threads + t]
                                pace[r * threads + t] += 1
                            flags = BY_MERGED | BY_SEED
                            if broke >= 0:
                                flags = BY_SEED if broke + 1 == entries else BY_SEED | AFTER_BREAK
                            attempts[r, table % pmd_span] = (step << STEP_SHIFT) | flags
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
                            flush(account[lay.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                            scan[r, 0] = 0
                    else:
                        per[r, lay.PTE_END + 1] += 1
                        per[r, lay.PAGES_END] += present
                        if present == entries:
                            scan_reads += 1
                        else:
                            lo, _ = outermost(table, places, present // cluster, cdfs, span_row, streams[r])
                            scan_reads += lo * cluster + 1
            for j in range(4):
                if held[j] > 0:
                    sums[lay.NEED_PTE] += 1
                    pmd_needed, pud_needed = True, True

            if end % pmd_span == 0 or end == end_table:
                if pmd_first < rounds:
                    per[pmd_first, lay.PMD_NEW] += 1
                upper_of_munmap(per, lay.PMD_PEAK_M, lay.PMD_END_M, pmd_touched, pmd_mapped)
                sums[lay.NEED_PMD] += pmd_needed
                pmd_first, pmd_needed = rounds, False
                for r in range(rounds):
                    if scan[r, 0] > 0:
                        flush(account[lay.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0
                    if threads > 1:
                        settle_trylocks(
                            attempts[r][:pmd_span], (end - 1) // pmd_span * pmd_span, seed, r, contention, steps_seen,
                            steps_met, entries, work,
                        )  # fmt: skip
            if pud_span > 0 and (end % pud_span == 0 or end == end_table):
                if pud_first < rounds:
                    per[pud_first, lay.PUD_NEW] += 1
                upper_of_munmap(per, lay.PUD_PEAK_M, lay.PUD_END_M, pud_touched, pud_mapped)
                sums[lay.NEED_PUD] += pud_needed
                pud_first, pud_needed = rounds, False

        for r in range(rounds):
            if open_number[r] >= 0:
                close(open_calls[r], account, entries, ceiling)

        # One flag stood for many: hand the sums on. A table once touched stays under none.
        tables_of_none, met_by_none = 0, -missed
        for r in range(rounds):
            tables_of_none += per[r, lay.PTE_PEAK]
            met_by_none += tables_of_none
            per[r, lay.PTE_PEAK] = tables_of_none
            per[r, lay.PTE_END] = tables_of_none
            for c in range(2, 5):
                per[r, lay.PTE_PEAK + c] += per[r, lay.PTE_PEAK + 1]
                per[r, lay.PTE_END + c] += per[r, lay.PTE_END + 1]
            per[r, lay.PAGES_PEAK + 1] += per[r, lay.PAGES_PEAK]
            per[r, lay.PAGES_END + 1] += per[r, lay.PAGES_END]
        for i in range(3):
            sums[lay.NEED_PTE_M + i] += sums[lay.NEED_PTE + i]
        sums[lay.CALLS] += (-(-end_table // per_call) + (-first_table // per_call)) * rounds - uncalled
        for lane in (lay.INSTALLED, lay.INSTALLED_M):
            sums[lane] += installed
            sums[lane + 1] += zapped
            sums[lane + 2] += breaks
        work[lay.NONE, lay.VISITS] += met_by_none
        work[lay.NONE, lay.ALLOCATED] += tables_of_none
        work[lay.ASYNC, lay.VISITS] += met
        work[lay.ASYNC, lay.ALLOCATED] += allocated
        work[lay.ASYNC, lay.FREED] += freed
        work[lay.ASYNC, lay.PMD_LOCKS] += scanned
        work[lay.ASYNC, lay.PTE_LOCKS] += scanned
        work[lay.ASYNC, lay.RESCANNED] += scan_reads
        for p in ALL_THAT_FREE:
            work[p, lay.VISITS] += met
            work[p, lay.ALLOCATED] += allocated
            work[p, lay.FREED] += freed
        work[lay.REFCOUNT, lay.PMD_LOCKS] += freed
        work[lay.SECOND, lay.PMD_LOCKS] += freed
        work[lay.SECOND, lay.PTE_LOCKS] += freed
        work[lay.SECOND, lay.RESCANNED] += freed * entries
        work[lay.SEED_INLINE, lay.TRYLOCKS] += freed
        work[lay.SEED_INLINE, lay.FAST] += freed - mid_breaks
        work[lay.SEED_INLINE, lay.SLOW] += mid_breaks
        work[lay.SEED_INLINE, lay.RESCANNED] += mid_reads
        work[lay.MERGED, lay.TRYLOCKS] += freed - breaks
        work[lay.MERGED, lay.FAST] += freed - breaks
        work[lay.MERGED, lay.SLOW] += breaks
        work[lay.MERGED, lay.PMD_LOCKS] += breaks
        work[lay.MERGED, lay.PTE_LOCKS] += breaks
        work[lay.MERGED, lay.RESCANNED] += breaks * entries
        for i in range(3):
            account[lay.ASYNC, i] += account[lay.NONE, i]
            account[lay.REFCOUNT, i] += account[lay.MERGED, i]
            account[lay.SEED_INLINE, i] += account[lay.MERGED, i]
            account[lay.SECOND, i] += account[lay.MUNMAP, i]
