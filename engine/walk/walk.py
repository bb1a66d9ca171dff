"""The pass over an address space: table by table, all rounds of a table at once, every policy judged on the way.

Nothing here grows with virt: what crosses tables is kept per round (the open call's gather, the PMD and PUD table at
hand). Follows docs/method.md; tests/twin.py is the slow, readable form. One long function, because the state of a
table must stay in registers and cache.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ONE, ZERO, fill, nth, popcount, survey
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import (
    OF_CALL,
    OF_CALL_LOW,
    OF_EXTENT,
    REFAULT,
    call_key,
    draw,
    fill_pins,
    fill_streams,
    key,
    scale,
)
from engine.walk.columns import (
    ALLOCATED,
    ASYNC,
    BATCH_SLOTS,
    BATCHES,
    BREAKS,
    BREAKS_M,
    BY_SLOT,
    CALLS,
    CDF,
    CEILING,
    CLUSTER,
    COVER,
    END_TABLE,
    ENTRIES,
    FAST,
    FIRST_TABLE,
    FOLIO,
    FREE,
    FREED,
    INSTALL,
    INSTALLED,
    INSTALLED_M,
    INTERLEAVED,
    LIMIT_COVER,
    LIMIT_INSTALL,
    LIMIT_REFAULT,
    MARKED,
    MERGED,
    MUNMAP,
    N_CALLS,
    NEED_PMD,
    NEED_PMD_M,
    NEED_PTE,
    NEED_PTE_M,
    NEED_PUD,
    NEED_PUD_M,
    NONE,
    PAGES,
    PAGES_END,
    PAGES_PEAK,
    PIN,
    PIN_CDF,
    PIN_SPANS,
    PLACES,
    PMD_END_M,
    PMD_LOCKS,
    PMD_NEW,
    PMD_PEAK_M,
    PMD_SPAN,
    PTE_END,
    PTE_LOCKS,
    PTE_PEAK,
    PUD_END_M,
    PUD_NEW,
    PUD_PEAK_M,
    PUD_SPAN,
    RANDOM,
    REFAULTS,
    REFCOUNT,
    RESCANNED,
    ROUNDS,
    SECOND,
    SEED_INLINE,
    SHIFT,
    SLOW,
    SPANS,
    TABLE_BATCH,
    THREADS,
    TRYLOCKS,
    UNMAPPED,
    VISITS,
    ZAP,
    ZAPPED,
    ZAPPED_M,
    ZAPPING,
)
from engine.walk.contention import AFTER_BREAK, BY_MERGED, BY_SEED, STEP_SHIFT, settle_trylocks, thread_of
from engine.walk.gather import (
    BATCH,
    BATCH_M,
    EMPTY_HI,
    EMPTY_LO,
    HI,
    HI_M,
    LANE_MERGED,
    LANE_REFCOUNT,
    LANE_SEED,
    LATE_MUNMAP,
    LATE_SECOND,
    LO,
    LO_M,
    OPEN,
    SLOTS,
    SLOTS_M,
    clear_in_lane,
    close_late,
    empty,
    flush_lane,
    free_in_lane,
    free_late,
    open_call,
    widen,
)
from engine.walk.residency import cut, drawn_extents, place_extents, resident_extents
from engine.walk.scratch import Rounds, most, rounds_of
from engine.walk.tlb import fill_gather, flush, flush_with_table
from engine.walk.upper_tables import upper_of_munmap


class Room(NamedTuple):
    """Scratch for a table and the calls that meet it.

    rounds; words: uint64[10, words]; keys: uint64[calls], runs: bool[calls]; exists: bool[5], by classes of policies;
    open_calls: int64[rounds, OPEN]
    """

    rounds: Rounds
    words: Any
    keys: Any
    runs: Any
    exists: Any
    open_calls: Any


def room_for(par: NDArray[np.int64]) -> Room:
    """As much as the largest of these points needs: int64[n, PARAMETERS]."""
    entries = most(par, ENTRIES)
    return Room(
        rounds_of(par),
        np.zeros((10, entries >> 6), np.uint64),
        np.zeros(entries + 2, np.uint64),
        np.zeros(entries + 2, np.bool_),
        np.zeros(5, np.bool_),
        np.zeros((most(par, ROUNDS), OPEN), np.int64),
    )


@inner
def first_entry(present: Any, marker: Any, end: Any) -> Any:
    """The first entry that is not none in [0, end), or -1."""
    for w in range((end + 63) >> 6):
        x = present[w] | marker[w]
        if x != ZERO:
            _, first, _ = survey(present, w * 64, min(w * 64 + 64, end))
            _, mark, _ = survey(marker, w * 64, min(w * 64 + 64, end))
            if first < 0 or (mark >= 0 and mark < first):
                first = mark
            return first
    return -1


@kernel
def walk(
    room: Any, rows: Any, kinds: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    pers: Any, works: Any, all_sums: Any, accounts: Any,
) -> None:  # fmt: skip
    """Walk tables [FIRST_TABLE, END_TABLE) of the points in `rows` and write what was seen into their tallies.

    room: room_for of these points' kinds; rows: int64[*]. Of all n points kinds, seeds: int64[n];
    offsets: int64[n + 1], where a point's rounds begin in pers: int64[all rounds, PER];
    works: int64[n, 7, WORK_COLUMNS]; all_sums: int64[n, SUMS]; accounts: int64[n, 8, 3], a row a policy and one for
    all zapping ones. Of all kinds pars: int64[*, PARAMETERS]; lims: uint64[*, LIMITS]. cdfs: inverse_cdf.Cdfs, pars
    says which rows; contention: uint64[701].
    """
    for point in rows:
        par, lim, seed = pars[kinds[point]], lims[kinds[point]], seeds[point]
        work, sums, account = works[point], all_sums[point], accounts[point]
        per = pers[offsets[point] : offsets[point + 1]]
        per[:], work[:], sums[:], account[:] = 0, 0, 0, 0
        entries, pages, rounds = par[ENTRIES], par[PAGES], par[ROUNDS]
        pmd_span, pud_span = par[PMD_SPAN], par[PUD_SPAN]
        zap, shift, n_calls = par[ZAP], par[SHIFT], par[N_CALLS]
        cover, by_key, lazy_free = par[COVER], par[RANDOM] != 0, par[FREE] != 0
        folio, threads, cluster, places = par[FOLIO], par[THREADS], par[CLUSTER], par[PLACES]
        batch_slots, batches, table_batch, ceiling = par[BATCH_SLOTS], par[BATCHES], par[TABLE_BATCH], par[CEILING]
        capacity = 7 + batches * (batch_slots - 1)
        refaults = par[REFAULTS] != NEVER and not lazy_free
        split = lazy_free or refaults
        keyed_calls = by_key or cover == MAYBE

        n_words = entries >> 6
        words = room.words
        present, marker, drawn, scratch = words[0][:n_words], words[1][:n_words], words[2][:n_words], words[3][:n_words]
        made, zapped, back, dirty = words[4][:n_words], words[5][:n_words], words[6][:n_words], words[7][:n_words]
        present_m = words[8][:n_words] if split else present
        zapped_m = words[9][:n_words] if split else zapped
        marker[:] = ZERO
        keys, runs, exists, open_calls = room.keys, room.runs, room.exists, room.open_calls

        streams, pins, scan, flags = room.rounds.streams, room.rounds.pins, room.rounds.scan, room.rounds.flags
        fill_streams(seed, rounds, streams)
        fill_pins(seed, pins)
        scan[:rounds], flags[:, :rounds] = 0, False
        pmd_touched_m, pud_touched_m = flags[0][:rounds], flags[1][:rounds]
        pmd_mapped, pud_mapped = flags[2][:rounds], flags[3][:rounds]
        pmd_first, pud_first = rounds, rounds
        pmd_needed, pud_needed, pmd_needed_m, pud_needed_m = False, False, False, False
        pace, attempts = room.rounds.pace[: rounds * threads if threads > 1 else 0], room.rounds.attempts
        steps_seen, steps_met = room.rounds.steps[0][: 2 * pmd_span], room.rounds.steps[1][: 2 * pmd_span]
        pace[:] = 0
        hand = (n_calls + threads - 1) // threads
        call_slots = (zap + entries - 1) // entries + 1

        first_table, end_table = par[FIRST_TABLE], par[END_TABLE]
        for table in range(first_table, end_table):
            base = table * entries
            valid = min(entries, pages - base)

            # The markers are the same in every round.
            marked = 0
            if par[PIN] != NEVER:
                marker[:] = ZERO
                if par[PIN] == ALWAYS:
                    fill(marker, 0, entries)
                else:
                    k = resident_extents(table, cdfs, par[PIN_CDF], pins)
                    place_extents(marker, scratch, table, entries, k, 1, cdfs, par[PIN_SPANS], pins)
                cut(marker, valid)
                marked, _, _ = survey(marker, 0, valid)
                sums[MARKED] += marked
            present[:] = ZERO
            if split:
                present_m[:] = ZERO
                dirty[:] = ZERO
            exists[:] = False
            n_present, n_present_m = 0, 0

            begin_call, end_call = 0, 0  # the calls that meet this table
            if base + valid > shift and n_calls > 0:
                begin_call = max(base - shift, 0) // zap
                end_call = (base + valid - 1 - shift) // zap + 1

            for r in range(rounds):
                chance = streams[r]
                # 1. Install.
                filled = False
                if places > 0:
                    k = 0
                    if par[INSTALL] == ALWAYS:
                        k = places
                    elif par[INSTALL] == MAYBE:
                        k = resident_extents(table, cdfs, par[CDF], chance)
                    if k > 0:
                        drawn[:] = ZERO
                        place_extents(drawn, scratch, table, places, k, cluster, cdfs, par[SPANS], chance)
                        if valid < entries:
                            cut(drawn, valid)
                        filled = True
                elif par[INSTALL] != NEVER:
                    drawn[:] = ZERO
                    filled = (
                        drawn_extents(drawn, base, valid, cluster, par[INSTALL], lim[LIMIT_INSTALL], chance[OF_EXTENT])
                        != 0
                    )
                if filled:
                    fresh, fresh_m = 0, 0
                    for w in range(n_words):
                        d = drawn[w] & ~marker[w]
                        fresh += popcount(d & ~present[w])
                        present[w] |= d
                        if split:
                            fresh_m += popcount(d & ~present_m[w])
                            present_m[w] |= d
                            dirty[w] |= d
                    n_present += fresh
                    sums[INSTALLED] += fresh
                    if split:
                        n_present_m += fresh_m
                        sums[INSTALLED_M] += fresh_m
                    else:
                        n_present_m = n_present
                        sums[INSTALLED_M] += fresh
                if n_present + marked > 0:
                    pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                    for c in range(4):
                        if not exists[c]:
                            exists[c] = True
                            if c == BY_SLOT:
                                for p in (SECOND, SEED_INLINE, MERGED):
                                    work[p, ALLOCATED] += 1
                            else:
                                work[c, ALLOCATED] += 1
                if n_present_m + marked > 0:
                    pmd_touched_m[r] = True
                    pud_touched_m[r] = True
                    if not exists[UNMAPPED]:
                        exists[UNMAPPED] = True
                        work[MUNMAP, ALLOCATED] += 1

                # 2. Peak.
                for c in range(5):
                    per[r, PTE_PEAK + c] += exists[c]
                per[r, PAGES_PEAK] += n_present
                per[r, PAGES_PEAK + 1] += n_present_m

                # 3. Calls: which are made, and what they cover.
                n_made = 0
                last_call, last_key = -1, ZERO
                step = np.int64(-1)
                unmapped = False
                if begin_call < end_call:
                    made[:] = ZERO
                    stream, low = chance[OF_CALL], chance[OF_CALL_LOW]
                    for c in range(begin_call, end_call):
                        i = c - begin_call
                        runs[i] = False
                        if cover == NEVER:
                            continue
                        if keyed_calls:
                            keys[i] = call_key(stream, low, c)
                            if cover == MAYBE and keys[i] >= lim[LIMIT_COVER]:
                                continue
                        runs[i] = True
                        n_made += 1
                        a = shift + c * zap - base
                        fill(made, max(a, 0), min(a + zap, valid))
                        if a >= 0:
                            sums[CALLS] += 1
                        if not by_key or last_call < 0 or keys[i] >= last_key:
                            last_call, last_key = c, keys[i]
                        if threads > 1 and exists[BY_SLOT]:
                            if by_key:
                                step = scale(keys[i], hand) * call_slots + (table - (shift + c * zap) // entries)
                            else:
                                t = thread_of(c, threads, n_calls, par[INTERLEAVED])
                                step = pace[r * threads + t]
                                pace[r * threads + t] += 1
                    unmapped = n_made == end_call - begin_call and base >= shift
                if not unmapped:
                    pmd_mapped[r] = True
                    pud_mapped[r] = True

                if n_made > 0:
                    for c in range(5):
                        if exists[c] and c != REFCOUNT:
                            if c == BY_SLOT:
                                for p in (SECOND, SEED_INLINE, MERGED):
                                    work[p, VISITS] += n_made
                            else:
                                work[MUNMAP if c == UNMAPPED else c, VISITS] += n_made

                    # What the calls clear, and what comes back.
                    n_zapped, n_zapped_m, n_back, n_left = 0, 0, 0, 0
                    for w in range(n_words):
                        if split:
                            z = (dirty[w] if lazy_free else present[w]) & made[w]
                            zm = present_m[w] & made[w]
                            zapped_m[w] = zm
                            n_zapped_m += popcount(zm)
                        else:
                            z = present[w] & made[w]
                        zapped[w] = z
                        back[w] = ZERO
                        n_zapped += popcount(z)
                    n_left = n_present - n_zapped
                    if not split:
                        n_zapped_m = n_zapped
                    sums[ZAPPED_M] += n_zapped_m
                    if marked > 0:
                        for w in range(n_words):
                            sums[ZAPPED_M] += popcount(marker[w] & made[w])
                    if not lazy_free:
                        sums[ZAPPED] += n_zapped
                    if refaults and n_zapped > 0:
                        stream = key(seed, r, REFAULT)
                        for w in range(n_words):
                            x = zapped[w]
                            while x != ZERO:
                                bit = x & (~x + ONE)
                                x ^= bit
                                e = w * 64 + popcount(bit - ONE)
                                if par[REFAULTS] == ALWAYS or draw(stream, base + e) < lim[LIMIT_REFAULT]:
                                    back[w] |= bit
                                    n_back += 1
                        sums[INSTALLED] += n_back

                    # refcount: the last call in order that clears something may bring the count to zero.
                    freeing, freeing_key = -1, ZERO
                    if exists[REFCOUNT] and not lazy_free and n_zapped > 0 and n_left == 0 and marked == 0:
                        for c in range(begin_call, end_call):
                            i = c - begin_call
                            if not runs[i] or (by_key and freeing >= 0 and keys[i] < freeing_key):
                                continue
                            a = shift + c * zap - base
                            if end_call - begin_call > 1:
                                n, _, _ = survey(zapped, max(a, 0), min(a + zap, valid))
                                if n == 0:
                                    continue
                            freeing, freeing_key = c, keys[i]
                        if n_back > 0:
                            a = shift + freeing * zap - base
                            n, _, _ = survey(back, max(a, 0), min(a + zap, valid))
                            if n < n_back:
                                freeing = -1  # an earlier call's pages are back
                    freed_ref = False

                    # Piece by piece, in address order.
                    for c in range(begin_call, end_call):
                        if not runs[c - begin_call]:
                            continue
                        start = shift + c * zap
                        stop = min(start + zap, pages)
                        a, b = max(start - base, 0), min(stop - base, valid)
                        starts, ends = start >= base, stop <= base + valid
                        n, lo, hi = survey(zapped, a, b)
                        if split:
                            nm, lo_m, hi_m = survey(zapped_m, a, b)
                        else:
                            nm, lo_m, hi_m = n, lo, hi
                        whole = b - a == entries and exists[BY_SLOT] and not lazy_free
                        gone_m = unmapped and c == last_call and exists[UNMAPPED]
                        if starts and ends and n == 0 and nm == 0 and not whole and not gone_m:
                            continue

                        g = open_calls[r]
                        broke, broke_m = -1, -1
                        if not (starts and ends):
                            if starts:
                                open_call(g)
                            if n > 0 and not lazy_free:
                                if folio == 1:
                                    if g[SLOTS] + n >= capacity:
                                        broke = nth(zapped, a, b, capacity - g[SLOTS])
                                        g[SLOTS] += n - capacity
                                    else:
                                        g[SLOTS] += n
                                else:
                                    g[SLOTS], g[BATCH], broke = fill_gather(
                                        zapped, a, b, folio, g[SLOTS], g[BATCH], batch_slots, batches
                                    )
                            if nm > 0:
                                if folio == 1:
                                    if g[SLOTS_M] + nm >= capacity:
                                        broke_m = nth(zapped_m, a, b, capacity - g[SLOTS_M])
                                        g[SLOTS_M] += nm - capacity
                                    else:
                                        g[SLOTS_M] += nm
                                else:
                                    g[SLOTS_M], g[BATCH_M], broke_m = fill_gather(
                                        zapped_m, a, b, folio, g[SLOTS_M], g[BATCH_M], batch_slots, batches
                                    )
                            if broke >= 0:
                                sums[BREAKS] += 1
                            if broke_m >= 0:
                                sums[BREAKS_M] += 1
                        mid = broke >= 0 and broke + 1 < b

                        # Which policies free the table at this piece, and what they read and lock for it.
                        gone_ref, gone_second, gone_seed, gone_merged = False, False, False, False
                        back_early = -1  # first entry back before the PTE lock was taken for the last time
                        if mid and n_back > 0:
                            _, back_early, _ = survey(back, a, broke + 1)
                        if c == freeing:
                            after_break = 0
                            if mid:
                                after_break, _, _ = survey(zapped, broke + 1, b)
                            gone_ref = after_break == 0 or back_early < 0
                            if gone_ref:
                                freed_ref = True
                                work[REFCOUNT, FREED] += 1
                                work[REFCOUNT, PMD_LOCKS] += 1
                                exists[REFCOUNT] = False
                        if whole:
                            first_back = -1
                            if n_back > 0:
                                _, first_back, _ = survey(back, a, b)
                            left = first_back
                            if marked > 0:
                                left = first_entry(back, marker, entries)
                            reads = entries if left < 0 else left + 1
                            work[SECOND, PMD_LOCKS] += 1
                            work[SECOND, PTE_LOCKS] += 1
                            work[SECOND, RESCANNED] += reads
                            gone_second = left < 0
                            if marked == 0:
                                flags = 0
                                if broke < 0:
                                    work[MERGED, TRYLOCKS] += 1
                                    work[MERGED, FAST] += 1
                                    gone_merged = True
                                    flags |= BY_MERGED
                                else:
                                    work[MERGED, SLOW] += 1
                                    work[MERGED, PMD_LOCKS] += 1
                                    work[MERGED, PTE_LOCKS] += 1
                                    work[MERGED, RESCANNED] += reads
                                    gone_merged = left < 0
                                if mid:
                                    work[SEED_INLINE, SLOW] += 1
                                    work[SEED_INLINE, RESCANNED] += (
                                        broke + 1 - a if back_early < 0 else back_early + 1 - a
                                    )
                                    gone_seed = back_early < 0
                                    if gone_seed:
                                        flags |= BY_SEED | AFTER_BREAK
                                else:
                                    work[SEED_INLINE, FAST] += 1
                                    gone_seed = True
                                    flags |= BY_SEED
                                if gone_seed:
                                    work[SEED_INLINE, TRYLOCKS] += 1
                                if flags and threads > 1:
                                    attempts[r, table % pmd_span] = (step << STEP_SHIFT) | flags
                            for p in (SECOND, SEED_INLINE, MERGED):
                                if gone_second if p == SECOND else (gone_seed if p == SEED_INLINE else gone_merged):
                                    work[p, FREED] += 1
                                    if first_back >= 0:
                                        work[p, ALLOCATED] += 1
                            exists[BY_SLOT] = left >= 0

                        # Flushes.
                        if starts and ends:
                            lo_page, hi_page = (base + lo, base + hi + 1) if n > 0 else (EMPTY_LO, EMPTY_HI)
                            if gone_ref or gone_second or gone_seed or gone_merged:
                                for p in range(6):
                                    gone = (
                                        (p == REFCOUNT and gone_ref)
                                        or (p == SECOND and gone_second)
                                        or (p == SEED_INLINE and gone_seed)
                                        or (p == MERGED and gone_merged)
                                    )
                                    if gone:
                                        flush_with_table(account[p], base, lo_page, hi_page, entries, ceiling)
                                    else:
                                        flush(account[p], lo_page, hi_page, 1, ceiling)
                            else:
                                flush(account[ZAPPING], lo_page, hi_page, 1, ceiling)
                            lo_page, hi_page = (base + lo_m, base + hi_m + 1) if nm > 0 else (EMPTY_LO, EMPTY_HI)
                            if gone_m:
                                flush_with_table(account[MUNMAP], base, lo_page, hi_page, entries, ceiling)
                            else:
                                flush(account[MUNMAP], lo_page, hi_page, 1, ceiling)
                            continue
                        if n > 0:
                            if broke >= 0:
                                widen(g, LO, base + lo, base + broke + 1)
                                for p in (NONE, ASYNC, SECOND):
                                    flush(account[p], g[LO], g[HI], 1, ceiling)
                                empty(g, LO)
                                for lane, p in (
                                    (LANE_REFCOUNT, REFCOUNT),
                                    (LANE_SEED, SEED_INLINE),
                                    (LANE_MERGED, MERGED),
                                ):
                                    clear_in_lane(g, lane, base + lo, base + broke + 1)
                                    flush_lane(g, lane, account[p], entries, ceiling)
                                _, lo, hi = survey(zapped, broke + 1, b)
                            if lo >= 0:
                                widen(g, LO, base + lo, base + hi + 1)
                                for lane in (LANE_REFCOUNT, LANE_SEED, LANE_MERGED):
                                    clear_in_lane(g, lane, base + lo, base + hi + 1)
                        if nm > 0:
                            if broke_m >= 0:
                                widen(g, LO_M, base + lo_m, base + broke_m + 1)
                                flush(account[MUNMAP], g[LO_M], g[HI_M], 1, ceiling)
                                empty(g, LO_M)
                                _, lo_m, hi_m = survey(zapped_m, broke_m + 1, b)
                            if lo_m >= 0:
                                widen(g, LO_M, base + lo_m, base + hi_m + 1)
                        if gone_ref:
                            free_in_lane(g, LANE_REFCOUNT, base, account[REFCOUNT], entries, ceiling, table_batch)
                        if gone_seed:
                            free_in_lane(g, LANE_SEED, base, account[SEED_INLINE], entries, ceiling, table_batch)
                        if gone_merged:
                            free_in_lane(g, LANE_MERGED, base, account[MERGED], entries, ceiling, table_batch)
                        if gone_second:
                            free_late(g, LATE_SECOND, base, account[SECOND], entries, ceiling, table_batch)
                        if gone_m:
                            free_late(g, LATE_MUNMAP, base, account[MUNMAP], entries, ceiling, table_batch)
                        if ends:
                            for p in (NONE, ASYNC):
                                flush(account[p], g[LO], g[HI], 1, ceiling)
                            flush_lane(g, LANE_REFCOUNT, account[REFCOUNT], entries, ceiling)
                            flush_lane(g, LANE_SEED, account[SEED_INLINE], entries, ceiling)
                            flush_lane(g, LANE_MERGED, account[MERGED], entries, ceiling)
                            close_late(g, LATE_SECOND, g[LO], g[HI], account[SECOND], entries, ceiling)
                            close_late(g, LATE_MUNMAP, g[LO_M], g[HI_M], account[MUNMAP], entries, ceiling)

                    # After the calls.
                    if exists[REFCOUNT] or freed_ref:
                        if freed_ref and n_back == 0:
                            for c in range(begin_call, end_call):
                                i = c - begin_call
                                if runs[i]:
                                    before = keys[i] < freeing_key or (keys[i] == freeing_key and c <= freeing)
                                    if before if by_key else c <= freeing:
                                        work[REFCOUNT, VISITS] += 1
                        else:
                            work[REFCOUNT, VISITS] += n_made
                    if not lazy_free:
                        for w in range(n_words):
                            present[w] = (present[w] & ~zapped[w]) | back[w]
                        n_present = n_left + n_back
                    else:
                        for w in range(n_words):
                            dirty[w] &= ~made[w]
                    if split:
                        for w in range(n_words):
                            present_m[w] &= ~made[w]
                        n_present_m -= n_zapped_m
                    else:
                        n_present_m = n_present
                    if freed_ref and n_present > 0:
                        exists[REFCOUNT] = True
                        work[REFCOUNT, ALLOCATED] += 1
                    if unmapped and exists[UNMAPPED]:
                        exists[UNMAPPED] = False
                        work[MUNMAP, FREED] += 1

                # 4. The async scan.
                if exists[ASYNC]:
                    first = first_entry(present, marker, entries)
                    work[ASYNC, PMD_LOCKS] += 1
                    work[ASYNC, PTE_LOCKS] += 1
                    work[ASYNC, RESCANNED] += entries if first < 0 else first + 1
                    if first < 0:
                        exists[ASYNC] = False
                        work[ASYNC, FREED] += 1
                        if scan[r, 0] == 0:
                            scan[r, 1] = base
                        scan[r, 0] += 1
                        scan[r, 2] = base + 1
                        if scan[r, 0] == table_batch:
                            flush(account[ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                            scan[r, 0] = 0

                # 5. End.
                for c in range(5):
                    per[r, PTE_END + c] += exists[c]
                per[r, PAGES_END] += n_present
                per[r, PAGES_END + 1] += n_present_m

            left_m = n_present_m
            if marked > 0:
                if begin_call < end_call and n_made > 0:
                    for w in range(n_words):
                        left_m += popcount(marker[w] & ~made[w])
                else:
                    left_m += marked
            if n_present + marked > 0:
                sums[NEED_PTE] += 1
                pmd_needed, pud_needed = True, True
            if left_m > 0:
                sums[NEED_PTE_M] += 1
                pmd_needed_m, pud_needed_m = True, True

            # The PMD and the PUD table are left behind.
            if (table + 1) % pmd_span == 0 or table + 1 == end_table:
                if pmd_first < rounds:
                    per[pmd_first, PMD_NEW] += 1
                upper_of_munmap(per, PMD_PEAK_M, PMD_END_M, pmd_touched_m, pmd_mapped)
                sums[NEED_PMD] += pmd_needed
                sums[NEED_PMD_M] += pmd_needed_m
                pmd_first, pmd_needed, pmd_needed_m = rounds, False, False
                for r in range(rounds):
                    if scan[r, 0] > 0:
                        flush(account[ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0
                    if threads > 1:
                        settle_trylocks(
                            attempts[r][:pmd_span],
                            table // pmd_span * pmd_span,
                            seed,
                            r,
                            contention,
                            steps_seen,
                            steps_met,
                            entries,
                            work,
                        )
            if pud_span > 0 and ((table + 1) % pud_span == 0 or table + 1 == end_table):
                if pud_first < rounds:
                    per[pud_first, PUD_NEW] += 1
                upper_of_munmap(per, PUD_PEAK_M, PUD_END_M, pud_touched_m, pud_mapped)
                sums[NEED_PUD] += pud_needed
                sums[NEED_PUD_M] += pud_needed_m
                pud_first, pud_needed, pud_needed_m = rounds, False, False
