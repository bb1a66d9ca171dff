"""The general pass: table by table, all rounds of a table at once, piece by piece in the order of the calls.

Nothing here grows with virt: what crosses tables is kept for each round (the gathers of a call that goes on, the PMD
and PUD table at hand). docs/method.md has the rules; tests/twin is the slow, readable form.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ONE, ZERO, clear, fill, first_set, nth, popcount, survey, window
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import (
    OF_CALL,
    OF_CALL_LOW,
    OF_EXTENT,
    OF_PLACE,
    REFAULT,
    STREAMS,
    call_key,
    draw,
    fill_pins,
    fill_streams,
    key,
    scale,
)
from engine.reclaim.contention import ATTEMPT, note_trylocks, settle_trylocks, thread_of
from engine.reclaim.gather import (
    close_gathers,
    fill_page_slots,
    flush_one_visit,
    flush_scanned,
    gather_scanned,
    gather_visit,
    open_gathers,
    page_capacity,
)
from engine.reclaim.records import CLEARED, GATHER, PAGE_SLOTS, SCAN, VISIT
from engine.reclaim.residency import cut, drawn_extents, outermost, place_extents, resident_extents
from engine.reclaim.rules import (
    CALL,
    END_BREAK,
    HELD,
    KEEP,
    MID_BREAK,
    NO_BREAK,
    OUTSIDE,
    REST,
    ROUND,
    count_scan,
    judge,
)
from engine.reclaim.rules import VISIT as AT_VISIT

PRESENT, DIRTY, MARKER, DRAWN, SEEN, BACK, PRESENT_UNMAP, BIT_ROWS = range(8)
"""Rows of a table's bit masks. Entries under zapping policies: present, written since MADV_FREE, guard marker; scratch;
and present where ranges are unmapped."""
ZAPPED, UNMAPPED = range(2)
"""The two sets of entries: one for all policies that zap, one for those that unmap."""
PEAK, END = range(2)


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    bits: Any  #: uint64[BIT_ROWS, words] of the table at hand
    order: Any  #: int64[calls]: calls that are made, in order
    keys: Any  #: uint64[calls]: their keys
    streams: Any  #: uint64[rounds, STREAMS]: keys of the random streams
    pins: Any  #: uint64[7]: keys of the streams of pinned pages
    visit: Any  #: VISIT[1]
    cleared: Any  #: CLEARED[2]: by policies that zap, and that unmap
    gathers: Any  #: GATHER[rounds, 2, policies]: of at most two calls that cross a table's border
    page_slots: Any  #: PAGE_SLOTS[rounds, 2, 2]: theirs
    side: Any  #: int64[rounds]: which of the two is open at the border
    scans: Any  #: SCAN[rounds, policies]
    touched: Any  #: bool[2, rounds]: the PMD and PUD table at hand, where ranges are unmapped
    mapped: Any  #: bool[2, rounds]
    pace: Any  #: int64[policies, rounds x threads]: visits of each thread
    attempts: Any  #: ATTEMPT[policies, rounds, *]
    attempted: Any  #: int64[policies, rounds]: how many of them
    steps: Any  #: int64[2, *]: a hash table of steps


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Scratch for the largest of these points. par: PARAMETERS[n]; rules: RULE[policies]."""
    entries, rounds, policies = int(par["entries"].max()), int(par["rounds"].max()), len(rules)
    threaded = par[par["threads"] > 1]
    trylocks, paces, threaded_rounds = 0, 0, 0
    if threaded.size:
        # One trylock a table and round: it frees the table, and what a refault brings back no later call clears.
        trylocks = int(np.minimum(threaded["pmd_span"], threaded["end_table"]).max())
        paces = int((threaded["rounds"] * threaded["threads"]).max())
        threaded_rounds = int(threaded["rounds"].max())
    return Scratch(
        bits=np.zeros((BIT_ROWS, entries >> 6), np.uint64),
        order=np.zeros(entries + 2, np.int64),
        keys=np.zeros(entries + 2, np.uint64),
        streams=np.zeros((rounds, STREAMS), np.uint64),
        pins=np.zeros(OF_PLACE + 1, np.uint64),
        visit=np.zeros(1, VISIT),
        cleared=np.zeros(2, CLEARED),
        gathers=np.zeros((rounds, 2, policies), GATHER),
        page_slots=np.zeros((rounds, 2, 2), PAGE_SLOTS),
        side=np.zeros(rounds, np.int64),
        scans=np.zeros((rounds, policies), SCAN),
        touched=np.zeros((2, rounds), np.bool_),
        mapped=np.zeros((2, rounds), np.bool_),
        pace=np.zeros((policies, paces), np.int64),
        attempts=np.zeros((policies, threaded_rounds, trylocks), ATTEMPT),
        attempted=np.zeros((policies, threaded_rounds), np.int64),
        steps=np.zeros((2, 1 << max(2 * trylocks - 1, 1).bit_length()), np.int64),
    )


@inner
def first_entry(present: Any, marker: Any, first: Any, end: Any) -> Any:
    """The first entry in [first, end) that is not none, or -1."""
    if end <= first:
        return np.int64(-1)
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = (present[w] | marker[w]) & window(w, first, end)
        if x != ZERO:
            return np.int64(w * 64 + first_set(x))
    return np.int64(-1)


@inner
def sort_calls(order: Any, keys: Any, count: Any) -> None:
    """Sort the first `count` calls by key, then number (Shell's sort: there are only a few)."""
    gap = count >> 1
    while gap > 0:
        for x in range(gap, count):
            k, c, y = keys[x], order[x], x
            while y >= gap and (keys[y - gap] > k or (keys[y - gap] == k and order[y - gap] > c)):
                keys[y], order[y] = keys[y - gap], order[y - gap]
                y -= gap
            keys[y], order[y] = k, c
        gap >>= 1


@inner
def calls_made(order: Any, keys: Any, par: Any, cover_limit: Any, streams: Any, begin: Any, end: Any) -> Any:
    """Write the calls in [begin, end) that are made to `order`, in their order; returns how many."""
    if par.cover == NEVER:
        return np.int64(0)
    count = np.int64(0)
    for c in range(begin, end):
        if par.cover == MAYBE or par.random:
            k = call_key(streams[OF_CALL], streams[OF_CALL_LOW], c)
            if par.cover == MAYBE and k >= cover_limit:
                continue
            keys[count] = k
        order[count] = c
        count += 1
    if par.random and count > 1:
        sort_calls(order, keys, count)
    return count


@inner
def draw_install(
    words: Any, seen: Any, table: Any, valid: Any, resident: Any, par: Any, lim: Any, cdfs: Any, streams: Any
) -> Any:
    """Write an install's pages of one table into cleared words; returns 1 if there are any. resident: extents of it."""
    if par.places == 0:
        return drawn_extents(
            words, table * par.entries, valid, par.cluster, par.install, lim.install, streams[OF_EXTENT]
        )
    if resident == 0:
        return 0
    place_extents(words, seen, table, par.places, resident, par.cluster, cdfs, par.spans, streams)
    if valid < par.entries:
        cut(words, valid)
    return 1


@inner
def add_pages(words: Any, drawn: Any) -> Any:
    """Set the drawn entries; returns how many were not set."""
    fresh = np.int64(0)
    for w in range(words.size):
        fresh += popcount(drawn[w] & ~words[w])
        words[w] |= drawn[w]
    return fresh


@inner
def take_page_slots(slots: Any, cleared: Any, words: Any, a: Any, b: Any, par: Any) -> None:
    """Put a piece's cleared pages into the gather's page slots; sets the entry of the force break, if there is one.

    words: present entries before the zap. A piece breaks at most once: a table has fewer entries than a gather slots.
    """
    cleared.broke, cleared.first_after, cleared.last_after = -1, -1, -1
    if cleared.count == 0:
        return
    if par.folio == 1:
        capacity = page_capacity(par)
        slots.slots += cleared.count
        if slots.slots >= capacity:
            slots.slots -= capacity
            cleared.broke = nth(words, a, b, cleared.count - slots.slots)
    else:
        slots.slots, slots.batch, cleared.broke = fill_page_slots(
            words, a, b, par.folio, slots.slots, slots.batch, par.batch_slots, par.batches
        )
    if cleared.broke >= 0:
        _, cleared.first_after, cleared.last_after = survey(words, cleared.broke + 1, b)


@inner
def touch_again(present: Any, zapped: Any, back: Any, base: Any, stream: Any, always: Any, limit: Any) -> Any:
    """Set the just-cleared entries that another thread touches again, in `present` and alone in `back`; how many."""
    count = np.int64(0)
    for w in range(present.size):
        x, again = zapped[w], ZERO
        while x != ZERO:
            bit = x & (~x + ONE)
            x ^= bit
            if always or draw(stream, base + w * 64 + first_set(bit)) < limit:
                again |= bit
                count += 1
        back[w] = again
        present[w] |= again
    return count


@inner
def describe_leftovers(
    visit: Any, present: Any, marker: Any, a: Any, b: Any, broke: Any, entries: Any, reads_parts: Any
) -> None:
    """What a rule that reads entries would find: fills `left`, `reads` and, if asked, those of parts."""
    visit.left = first_entry(present, marker, 0, entries)
    visit.reads = entries if visit.left < 0 else visit.left + 1
    if not reads_parts:
        return
    before = visit.left if 0 <= visit.left < a else np.int64(-1)
    after = first_entry(present, marker, b, entries)
    visit.entries_inside = visit.left >= 0 and first_entry(present, marker, a, b) >= 0
    if before >= 0:
        visit.reads_outside = before + 1
    else:
        visit.reads_outside = a + (entries if after < 0 else after + 1) - b
    visit.outside_empty = before < 0 and after < 0
    visit.reads_rest, visit.rest_empty = visit.reads_outside, visit.outside_empty
    if broke >= 0 and visit.broke == MID_BREAK and before < 0:  # what was cleared before the break is read too
        if visit.back_early >= 0:
            visit.reads_rest, visit.rest_empty = visit.back_early + 1, 0
        else:
            visit.reads_rest += broke + 1 - a


@inner
def apply_rules(
    rules: Any, counters: Any, gathers: Any, visit: Any, cleared: Any, exists: Any, is_idle: Any, crosses: Any,
    is_free: Any, par: Any, attempts: Any, attempted: Any, r: Any, table: Any, pace: Any, pace_at: Any,
) -> Any:  # fmt: skip
    """Every policy that has the table judges the visit and flushes; returns which still have it, a bit each.

    rules: RULE[policies]; counters: COUNTERS[policies]; gathers: GATHER[policies] of the call, if it crosses tables;
    cleared: CLEARED[2]; is_free: MADV_FREE, after which only unmapping frees tables
    """
    entries, ceiling = par.entries, par.ceiling
    for p in range(rules.size):
        if (exists >> p) & 1 == 0:
            continue
        rule = rules[p]
        own = counters[p]
        own.table_visits += 1
        if pace_at >= 0:
            visit.step = pace[p, pace_at]
            pace[p, pace_at] += 1
        if is_idle:
            continue
        mode = KEEP
        if rule.unmaps or not is_free:
            trylocks, fast = own.pmd_trylocks, own.fast_paths
            mode = judge(rule, visit, own, 1)
            if par.threads > 1 and own.pmd_trylocks > trylocks:
                bit = 1 << p
                note_trylocks(attempts[p, r, attempted[p, r]], visit.step, table, bit, (own.fast_paths > fast) * bit)
                attempted[p, r] += 1
        if mode != KEEP:
            own.pte_tables_freed += 1
            if visit.back > 0 and not rule.unmaps:
                own.pte_tables_allocated += 1
            else:
                exists &= ~(1 << p)
        if crosses:
            gather_visit(gathers[p], own, cleared[rule.unmaps], visit.base, mode, entries, ceiling, par.table_batch)
        else:
            flush_one_visit(own, cleared[rule.unmaps], visit.base, mode, entries, ceiling)
    return exists


@inner
def allocate(counters: Any, exists: Any, wanted: Any) -> Any:
    """`exists` with the policies in `wanted` that need a table now; counts the new ones."""
    new = wanted & ~exists
    if new:
        for p in range(counters.size):
            counters[p].pte_tables_allocated += (new >> p) & 1
    return exists | wanted


@inner
def count_tables(tables: Any, exists: Any) -> None:
    """Add 1 to tables, int64[policies], for each policy that has the table (a bit of `exists`)."""
    for p in range(tables.size):
        tables[p] += (exists >> p) & 1


@inner
def upper_if_unmapped(upper: Any, touched: Any, mapped: Any, is_pud: Any) -> None:
    """One PMD or PUD table where ranges are unmapped: there once touched, gone when nothing under it is mapped."""
    there = False
    for r in range(touched.size):
        there = there or touched[r]
        at_peak = there
        there = there and mapped[r]
        if is_pud:
            upper[r].pud_peak += at_peak
            upper[r].pud_end += there
        else:
            upper[r].pmd_peak += at_peak
            upper[r].pmd_end += there
        touched[r], mapped[r] = False, False


@kernel
def walk(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_lanes: Any, all_totals: Any,
) -> None:  # fmt: skip
    """Walk tables [first_table, end_table) of the points in `rows` and add to their tallies.

    s: Scratch of these points; rows: int64[*]. Of all n points groups, seeds: int64[n]; offsets: int64[n + 1], where a
    point's rounds begin in all_tables: int64[rounds, 2, policies], all_pages: int64[rounds, 2, 2] and all_upper:
    UPPER[rounds]; all_counters: COUNTERS[n, policies]; all_lanes: LANE[n, 2]; all_totals: TOTALS[n]. Of all groups
    pars: PARAMETERS[*]; lims: LIMITS[*]. cdfs: engine.random.inverse_cdf.Cdfs; contention: uint64[701]; rules:
    RULE[policies]
    """
    if rows.size == 0:
        return
    unmapping, scanning = np.int64(0), np.int64(0)
    reading, reads_parts, acts_on_parts = False, False, False
    for p in range(rules.size):
        rule = rules[p]
        unmapping |= np.int64(rule.unmaps) << p
        scanning |= np.int64(rule.when == ROUND) << p
        looks = rule.when == AT_VISIT or rule.when == CALL
        reading |= looks and (rule.counts == 0 or rule.when == CALL)
        reads_parts |= looks and rule.proof == HELD and (rule.otherwise == REST or rule.otherwise == OUTSIDE)
        # A counter that every piece asks needs no look at pieces that clear nothing, nor at what is left.
        asks_always = rule.counts and rule.least <= 1 and rule.when == AT_VISIT
        acts_on_parts |= looks and rule.least < pars[groups[rows[0]]].entries and not asks_always
    everyone = (1 << rules.size) - 1
    zapping = everyone & ~unmapping

    for point in rows:
        par = pars[groups[point]]
        lim = lims[groups[point]]
        seed = seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        pages_of = all_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, lanes = all_counters[point], all_lanes[point]
        totals = all_totals[point]
        zap_lane = lanes[ZAPPED]
        unmap_lane = lanes[UNMAPPED]
        entries, pages, rounds = par.entries, par.pages, par.rounds
        zap, shift = par.zap, par.shift
        is_free = par.free != 0
        refaults = par.refault != NEVER and not is_free
        split = is_free or refaults
        plain = not split and par.pin == NEVER
        wide = par.places == 0 and par.cluster % entries == 0 and par.install == MAYBE
        unit = par.cluster if par.places > 0 else entries
        places = par.places if par.places > 0 else np.int64(1)

        words = entries >> 6
        present, dirty, marker = s.bits[PRESENT][:words], s.bits[DIRTY][:words], s.bits[MARKER][:words]
        drawn, seen, back = s.bits[DRAWN][:words], s.bits[SEEN][:words], s.bits[BACK][:words]
        present_unmap = s.bits[PRESENT_UNMAP][:words] if split else present
        marker[:] = ZERO
        order, keys, cleared = s.order, s.keys, s.cleared
        visit = s.visit[0]
        by_zap = cleared[ZAPPED]
        by_unmap = cleared[UNMAPPED]

        fill_streams(seed, rounds, s.streams)
        fill_pins(seed, s.pins)
        touched, mapped = s.touched[:, :rounds], s.mapped[:, :rounds]
        touched[:], mapped[:] = False, False
        for r in range(rounds):
            s.side[r] = 0
            for p in range(rules.size):
                s.scans[r, p].tables = 0
        threads = par.threads
        if threads > 1:
            s.pace[:] = 0
            s.attempted[:] = 0
        hand = (par.calls + threads - 1) // threads
        pieces_per_call = (zap + entries - 1) // entries + 1
        pmd_first, pud_first = rounds, rounds
        pmd_needed, pud_needed, pmd_needed_unmap, pud_needed_unmap = False, False, False, False

        for table in range(par.first_table, par.end_table):
            base = table * entries
            valid = min(entries, pages - base)
            marked = np.int64(0)
            if par.pin != NEVER:  # the same in every round
                marker[:] = ZERO
                if par.pin == ALWAYS:
                    fill(marker, 0, entries)
                else:
                    pinned = resident_extents(table, cdfs, par.pin_cdf, s.pins)
                    place_extents(marker, seen, table, entries, pinned, 1, cdfs, par.pin_spans, s.pins)
                cut(marker, valid)
                marked, _, _ = survey(marker, 0, valid)
                totals.markers += marked
            present[:] = ZERO
            if split:
                present_unmap[:] = ZERO
                dirty[:] = ZERO
            exists = np.int64(0)
            held, held_unmap, marks_unmap = np.int64(0), np.int64(0), marked

            begin, end = np.int64(0), np.int64(0)  # the calls that meet this table
            if base + valid > shift and par.calls > 0:
                begin = max(base - shift, 0) // zap
                end = (base + valid - 1 - shift) // zap + 1
            start = shift + begin * zap
            one_call_covers = end - begin == 1 and start <= base and min(start + zap, pages) >= base + entries

            for r in range(rounds):
                streams = s.streams[r]
                # Install.
                resident = np.int64(0)
                if wide:
                    resident = np.int64(draw(streams[OF_EXTENT], base // par.cluster) < lim.install)
                elif par.install == ALWAYS:
                    resident = places
                elif par.install == MAYBE and par.places > 0:
                    resident = resident_extents(table, cdfs, par.cdf, streams)
                # Of a table that one call zaps whole, or not at all, the outermost pages are all that is asked for.
                counted = plain and held == 0 and one_call_covers and valid == entries
                counted = counted and (par.places > 0 or wide or par.install != MAYBE)
                if counted:
                    held = resident * unit
                    zap_lane.installed += held
                    held_unmap = held
                    unmap_lane.installed += held
                elif resident > 0 or (par.install == MAYBE and par.places == 0 and not wide):
                    drawn[:] = ZERO
                    if draw_install(drawn, seen, table, valid, resident, par, lim, cdfs, streams):
                        for w in range(words):
                            drawn[w] &= ~marker[w]
                        fresh = add_pages(present, drawn)
                        held += fresh
                        zap_lane.installed += fresh
                        if split:
                            fresh = add_pages(present_unmap, drawn)
                            for w in range(words):
                                dirty[w] |= drawn[w]
                            held_unmap += fresh
                        else:
                            held_unmap = held
                        unmap_lane.installed += fresh
                if held + marked > 0:
                    pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                    exists = allocate(counters, exists, zapping)
                marks_unmap = marked
                if held_unmap + marked > 0:
                    touched[0, r], touched[1, r] = True, True
                    exists = allocate(counters, exists, unmapping)
                count_tables(tables[r, PEAK], exists)
                pages_of[r, PEAK, ZAPPED] += held
                pages_of[r, PEAK, UNMAPPED] += held_unmap

                # Calls, in order.
                made = calls_made(order, keys, par, lim.cover, streams, begin, end)
                is_unmapped = begin < end and made == end - begin and base >= shift
                if not is_unmapped:
                    mapped[0, r], mapped[1, r] = True, True
                side_after = s.side[r]
                for x in range(made):
                    start = shift + order[x] * zap
                    stop = min(start + zap, pages)
                    a, b = max(start - base, 0), min(stop - base, valid)
                    starts, ends = start >= base, stop <= base + valid
                    crosses = not (starts and ends)
                    totals.calls += starts
                    side = s.side[r]
                    if crosses and starts:
                        side = 1 - side
                        side_after = side
                        open_gathers(s.gathers[r, side])
                        for lane in range(2):
                            s.page_slots[r, side, lane].slots, s.page_slots[r, side, lane].batch = 0, 0
                    if exists:
                        # What the piece clears.
                        if counted:
                            by_zap.count, by_zap.first, by_zap.last = held, -1, -1
                            if held > 0:
                                low, high = outermost(table, places, resident, cdfs, par.spans, streams)
                                by_zap.first, by_zap.last = low * unit, (high + 1) * unit - 1
                        elif is_free:
                            by_zap.count, by_zap.first, by_zap.last = survey(dirty, a, b)
                        else:
                            by_zap.count, by_zap.first, by_zap.last = survey(present, a, b)
                        by_zap.broke = -1
                        by_unmap.count, by_unmap.first, by_unmap.last = by_zap.count, by_zap.first, by_zap.last
                        by_unmap.broke = -1
                        if split:
                            by_unmap.count, by_unmap.first, by_unmap.last = survey(present_unmap, a, b)
                        visit.pages, visit.whole = b - a, b - a == entries
                        visit.unmaps = is_unmapped and x == made - 1
                        if crosses:
                            slots = s.page_slots[r, side]
                            may_break = par.folio > 1 or slots[ZAPPED].slots + by_zap.count >= page_capacity(par)
                            if counted and by_zap.count > 0 and may_break:
                                draw_install(present, seen, table, valid, resident, par, lim, cdfs, streams)
                            if not is_free:
                                take_page_slots(slots[ZAPPED], by_zap, present, a, b, par)
                                zap_lane.breaks += by_zap.broke >= 0
                            if split:
                                take_page_slots(slots[UNMAPPED], by_unmap, present_unmap, a, b, par)
                            else:
                                slots[UNMAPPED].slots, slots[UNMAPPED].batch = slots[ZAPPED].slots, slots[ZAPPED].batch
                                by_unmap.broke = by_zap.broke
                                by_unmap.first_after, by_unmap.last_after = by_zap.first_after, by_zap.last_after
                            unmap_lane.breaks += by_unmap.broke >= 0
                        visit.broke = NO_BREAK
                        visit.after_break = 0
                        if by_zap.broke >= 0:
                            visit.broke = MID_BREAK if by_zap.broke + 1 < b else END_BREAK
                            if by_zap.first_after >= 0:
                                visit.after_break = 1
                        # Clear.
                        count, count_unmap = by_zap.count, by_unmap.count
                        if refaults:
                            drawn[:] = ZERO
                            if count > 0:
                                for w in range(a >> 6, ((b - 1) >> 6) + 1):
                                    drawn[w] = present[w] & window(w, a, b)
                        if is_free:
                            clear(dirty, a, b)
                        else:
                            clear(present, a, b)
                            held -= count
                            zap_lane.zapped += count
                        if split:
                            clear(present_unmap, a, b)
                        held_unmap -= count_unmap
                        unmap_lane.zapped += count_unmap
                        marks = np.int64(0)
                        if marked > 0:
                            marks, _, _ = survey(marker, a, b)
                            marks_unmap -= marks
                            unmap_lane.zapped += marks
                        visit.markers = marks
                        visit.others = held + marked
                        # Touch again.
                        visit.back, visit.back_early = 0, -1
                        if refaults and count > 0:
                            stream = key(seed, r, REFAULT)
                            visit.back = touch_again(
                                present, drawn, back, base, stream, par.refault == ALWAYS, lim.refault
                            )
                            if visit.broke == MID_BREAK and visit.back > 0:
                                _, visit.back_early, _ = survey(back, a, by_zap.broke + 1)
                            held += visit.back
                            zap_lane.installed += visit.back
                        if not split:
                            held_unmap = held

                        is_idle = not crosses and count == 0 and count_unmap == 0
                        is_idle = is_idle and not visit.whole and not visit.unmaps and not acts_on_parts
                        visit.base = base
                        if reading and not is_idle and (visit.whole or acts_on_parts):
                            if held + marked == 0:
                                visit.left, visit.reads, visit.entries_inside = -1, entries, 0
                                visit.reads_outside, visit.outside_empty = entries - visit.pages, 1
                                visit.reads_rest, visit.rest_empty = visit.reads_outside, 1
                                if visit.broke == MID_BREAK:
                                    visit.reads_rest += by_zap.broke + 1 - a
                            else:
                                describe_leftovers(visit, present, marker, a, b, by_zap.broke, entries, reads_parts)
                        pace_at = np.int64(-1)
                        if threads > 1:
                            if par.random:
                                visit.step = scale(keys[x], hand) * pieces_per_call + table - start // entries
                            else:
                                pace_at = r * threads + thread_of(order[x], threads, par.calls, par.interleaved)
                        exists = apply_rules(
                            rules, counters, s.gathers[r, side], visit, cleared, exists, is_idle, crosses, is_free,
                            par, s.attempts, s.attempted, r, table, s.pace, pace_at,
                        )  # fmt: skip
                    if crosses and ends:
                        close_gathers(s.gathers[r, side], counters, entries, par.ceiling)
                s.side[r] = side_after

                # Scans at the round's end.
                if exists & scanning:
                    first = np.int64(-1)
                    if counted:
                        if held > 0:
                            low, _ = outermost(table, places, resident, cdfs, par.spans, streams)
                            first = low * unit
                    elif held + marked > 0:
                        first = first_entry(present, marker, 0, entries)
                    for p in range(rules.size):
                        if (exists & scanning) >> p & 1 and (r + 1) % rules[p].every == 0:
                            count_scan(rules[p], counters[p], 1, first < 0, entries if first < 0 else first + 1)
                            if first < 0:
                                exists &= ~(1 << p)
                                gather_scanned(s.scans[r, p], counters[p], base, entries, par.ceiling, par.table_batch)
                if counted and held > 0 and r + 1 < rounds:
                    draw_install(present, seen, table, valid, resident, par, lim, cdfs, streams)
                count_tables(tables[r, END], exists)
                pages_of[r, END, ZAPPED] += held
                pages_of[r, END, UNMAPPED] += held_unmap

            if held + marked > 0:
                zap_lane.needed_pte += 1
                pmd_needed, pud_needed = True, True
            if held_unmap + marks_unmap > 0:
                unmap_lane.needed_pte += 1
                pmd_needed_unmap, pud_needed_unmap = True, True

            # The PMD and the PUD table are left behind.
            done = table + 1
            if done % par.pmd_span == 0 or done == par.end_table:
                if pmd_first < rounds:
                    upper[pmd_first].pmd_new += 1
                upper_if_unmapped(upper, touched[0], mapped[0], False)
                zap_lane.needed_pmd += pmd_needed
                unmap_lane.needed_pmd += pmd_needed_unmap
                pmd_first, pmd_needed, pmd_needed_unmap = rounds, False, False
                for r in range(rounds):
                    for p in range(rules.size):
                        flush_scanned(s.scans[r, p], counters[p], entries, par.ceiling)
                        if threads > 1:
                            settle_trylocks(
                                s.attempts[p, r], s.attempted[p, r], seed, r, contention, s.steps, entries,
                                counters, rules,
                            )  # fmt: skip
                            s.attempted[p, r] = 0
            if par.pud_span > 0 and (done % par.pud_span == 0 or done == par.end_table):
                if pud_first < rounds:
                    upper[pud_first].pud_new += 1
                upper_if_unmapped(upper, touched[1], mapped[1], True)
                zap_lane.needed_pud += pud_needed
                unmap_lane.needed_pud += pud_needed_unmap
                pud_first, pud_needed, pud_needed_unmap = rounds, False, False
