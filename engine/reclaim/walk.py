"""The general pass: table by table, all rounds of a table at once, piece by piece in the order of the calls.

Nothing here grows with virt: what crosses tables is kept for each round (the gathers of a call that goes on, the PMD
and PUD table at hand). docs/method.md has the rules; tests/twin is the slow, readable form.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import (
    ONE,
    ZERO,
    add_set,
    clear_range,
    count_and_ends,
    fill_range,
    first_set,
    word_mask,
)
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
from engine.reclaim.contention import (
    LockStep,
    calls_per_thread,
    lock_step_for,
    note_trylocks,
    pace_index,
    settle_rounds,
)
from engine.reclaim.gather import (
    close_gathers,
    flush_one_visit,
    flush_scans,
    gather_scanned,
    gather_visit,
    open_gathers,
    page_capacity,
    queue_pages,
)
from engine.reclaim.records import CLEARED, END, GATHER, PAGE_BATCHES, PEAK, SCAN, UNMAP, VISIT, ZAP, record
from engine.reclaim.residency import clear_beyond, install_table, outermost, place_extents, resident_extents
from engine.reclaim.rules import (
    AFTER_CALL,
    AFTER_ROUND,
    AT_VISIT,
    BY_HOLD,
    END_BREAK,
    MID_BREAK,
    NO_BREAK,
    READ_OUTSIDE,
    READ_REST,
    STAYS,
    count_scan,
    judge,
)
from engine.reclaim.upper_tables import LEVEL, LEVEL_ROUND, LEVELS, enter_tables, leave_tables, need_upper_tables

PRESENT, DIRTY, MARKER, PLACED, SEEN, REFAULTED, PRESENT_UNMAP, BIT_ROWS = range(8)
"""Rows of `bits`, the entries of the table at hand. Under policies that zap: present, written since MADV_FREE, guard
marker. Scratch: the entries of one install or zap, extents, entries touched again. Last: present under munmap."""

RULE_SET = record("zapping", "unmapping", "scanning", "reading", "reads_pieces", "acts_on_pieces")
"""What a set of rules asks for. zapping, unmapping, scanning: the rules that do so, a bit each; reading: one of them
reads entries; reads_pieces: one reads only some of a table's; acts_on_pieces: one acts on pieces below a slot."""


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    bits: NDArray[np.uint64]  #: [BIT_ROWS, words] of the table at hand
    order: NDArray[np.int64]  #: [calls]: calls that are made, in order
    keys: NDArray[np.uint64]  #: [calls]: their keys
    streams: NDArray[np.uint64]  #: [rounds, STREAMS]: keys of the random streams
    pins: NDArray[np.uint64]  #: [7]: keys of the streams of pinned pages
    visit: NDArray[np.void]  #: VISIT[1]
    cleared: NDArray[np.void]  #: CLEARED[2]: by policies that zap, and that unmap
    gathers: NDArray[np.void]  #: GATHER[rounds, 2, policies]: of at most two calls that cross a table's border
    page_batches: NDArray[np.void]  #: PAGE_BATCHES[rounds, 2, 2]: of these two, where policies zap and where they unmap
    side: NDArray[np.int64]  #: [rounds]: which of the two is open at the border
    scans: NDArray[np.void]  #: SCAN[rounds, policies]
    rule_set: NDArray[np.void]  #: RULE_SET[1]
    levels: NDArray[np.void]  #: LEVEL[LEVELS]
    level_rounds: NDArray[np.void]  #: LEVEL_ROUND[LEVELS, rounds]
    lock_step: LockStep  #: one row per policy


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Return the memory for the largest of these points, PARAMETERS[n], under RULE[policies]."""
    entries, rounds, policies = int(par["entries"].max()), int(par["rounds"].max()), len(rules)
    return Scratch(
        bits=np.zeros((BIT_ROWS, entries >> 6), np.uint64),
        order=np.zeros(entries + 2, np.int64),
        keys=np.zeros(entries + 2, np.uint64),
        streams=np.zeros((rounds, STREAMS), np.uint64),
        pins=np.zeros(OF_PLACE + 1, np.uint64),
        visit=np.zeros(1, VISIT),
        cleared=np.zeros(2, CLEARED),
        gathers=np.zeros((rounds, 2, policies), GATHER),
        page_batches=np.zeros((rounds, 2, 2), PAGE_BATCHES),
        side=np.zeros(rounds, np.int64),
        scans=np.zeros((rounds, policies), SCAN),
        rule_set=np.zeros(1, RULE_SET),
        levels=np.zeros(LEVELS, LEVEL),
        level_rounds=np.zeros((LEVELS, rounds), LEVEL_ROUND),
        lock_step=lock_step_for(par, policies),
    )


@inner
def first_entry(present: Any, marker: Any, first: Any, end: Any) -> Any:
    """The first entry in [first, end) that is not none, or -1."""
    if end <= first:
        return np.int64(-1)
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = (present[w] | marker[w]) & word_mask(w, first, end)
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
def touch_again(present: Any, zapped: Any, refaulted: Any, base: Any, stream: Any, always: Any, limit: Any) -> Any:
    """Set just-cleared entries that another thread touches again, in `present` and alone in `refaulted`: how many."""
    count = np.int64(0)
    for w in range(present.size):
        x, again = zapped[w], ZERO
        while x != ZERO:
            bit = x & (~x + ONE)
            x ^= bit
            if always or draw(stream, base + w * 64 + first_set(bit)) < limit:
                again |= bit
                count += 1
        refaulted[w] = again
        present[w] |= again
    return count


@inner
def describe_rules(rules: Any, entries: Any, rule_set: Any) -> None:
    """Fill in a RULE_SET."""
    rule_set.unmapping, rule_set.scanning = 0, 0
    reading, reads_pieces, acts_on_pieces = False, False, False
    for p in range(rules.size):
        rule = rules[p]
        rule_set.unmapping |= rule.unmaps << p
        rule_set.scanning |= np.int64(rule.when == AFTER_ROUND) << p
        looks = rule.when == AT_VISIT or rule.when == AFTER_CALL
        reading |= looks and (rule.counts == 0 or rule.when == AFTER_CALL)
        reads_pieces |= (
            looks and rule.proof == BY_HOLD and (rule.otherwise == READ_REST or rule.otherwise == READ_OUTSIDE)
        )
        # A counter that every piece asks needs no look at pieces that clear nothing, nor at what is left.
        asks_always = rule.counts != 0 and rule.least <= 1 and rule.when == AT_VISIT
        acts_on_pieces |= looks and rule.least < entries and not asks_always
    rule_set.zapping = ((1 << rules.size) - 1) & ~rule_set.unmapping
    rule_set.reading, rule_set.reads_pieces, rule_set.acts_on_pieces = reading, reads_pieces, acts_on_pieces


@inner
def describe_leftovers(
    visit: Any, present: Any, marker: Any, a: Any, b: Any, broke: Any, entries: Any, reads_pieces: Any
) -> None:
    """Fill in what a rule that reads entries would find: `left`, `reads` and, if asked, what concerns [a, b) alone."""
    visit.left = first_entry(present, marker, 0, entries)
    visit.reads = entries if visit.left < 0 else visit.left + 1
    if not reads_pieces:
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
        if visit.refaulted_early >= 0:
            visit.reads_rest, visit.rest_empty = visit.refaulted_early + 1, 0
        else:
            visit.reads_rest += broke + 1 - a


@inner
def describe_empty(visit: Any, a: Any, broke: Any, entries: Any) -> None:
    """As describe_leftovers, for a table in which nothing is left."""
    visit.left, visit.reads, visit.entries_inside = -1, entries, 0
    visit.reads_outside, visit.outside_empty = entries - visit.pages, 1
    visit.reads_rest, visit.rest_empty = visit.reads_outside, 1
    if visit.broke == MID_BREAK:
        visit.reads_rest += broke + 1 - a


@inner
def apply_rules(
    rules: Any, counters: Any, gathers: Any, visit: Any, cleared: Any, exists: Any, crosses: Any, is_free: Any, par: Any
) -> Any:
    """Judge and flush a visit under every policy that has the table; return which of them keep it, a bit each.

    rules: RULE[policies]; counters: COUNTERS[policies]; cleared: CLEARED[2]
    gathers: GATHER[policies] of the call, if it crosses a border of tables
    is_free: the advice is MADV_FREE, after which only unmapping frees tables
    Fills in visit.tried and visit.fast.
    """
    entries, ceiling = par.entries, par.ceiling
    visit.tried, visit.fast = 0, 0
    for p in range(rules.size):
        if (exists >> p) & 1 == 0:
            continue
        rule = rules[p]
        own = counters[p]
        verdict = STAYS
        if rule.unmaps or not is_free:
            trylocks, fast = own.pmd_trylocks, own.fast_paths
            verdict = judge(rule, visit, own, 1)
            visit.tried |= (own.pmd_trylocks > trylocks) << p
            visit.fast |= (own.fast_paths > fast) << p
        if verdict != STAYS:
            own.pte_tables_freed += 1
            if visit.refaulted > 0 and not rule.unmaps:
                own.pte_tables_allocated += 1
            else:
                exists &= ~(1 << p)
        if crosses:
            gather_visit(gathers[p], own, cleared[rule.unmaps], visit.base, verdict, entries, ceiling, par.table_batch)
        else:
            flush_one_visit(own, cleared[rule.unmaps], visit.base, verdict, entries, ceiling)
    return exists


@inner
def count_visits(counters: Any, exists: Any) -> None:
    """Count a visit under every policy that has the table. exists: a bit each"""
    for p in range(counters.size):
        counters[p].table_visits += (exists >> p) & 1


@inner
def keep_pace(visit: Any, exists: Any, r: Any, table: Any, call: Any, par: Any, lock_step: Any) -> None:
    """Let the thread that makes a call go one step on under each policy that had the table; note the trylocks.

    visit.step is the step if the calls are in random order; else it is the number of visits that the thread has made
    """
    for p in range(lock_step.attempted.shape[0]):
        if (exists >> p) & 1 == 0:
            continue
        step = visit.step
        if not par.random:
            at = pace_index(par, r, call)
            step = lock_step.pace[p, at]
            lock_step.pace[p, at] += 1
        bit = 1 << p
        if visit.tried & bit:
            note_trylocks(lock_step, p, r, step, table, bit, visit.fast & bit)


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
def scan_table(
    exists: Any, first: Any, base: Any, r: Any, scans: Any, scanning: Any, rules: Any, counters: Any, par: Any
) -> Any:
    """The scans at the end of round `r`. Returns the policies that keep the table, a bit each, of those in `exists`.

    first: the table's first entry, or -1; scans: SCAN[policies]; scanning: the rules that scan, a bit each
    """
    for p in range(rules.size):
        if (exists & scanning) >> p & 1 and (r + 1) % rules[p].every == 0:
            count_scan(rules[p], counters[p], 1, first < 0, par.entries if first < 0 else first + 1)
            if first < 0:
                exists &= ~(1 << p)
                gather_scanned(scans[p], counters[p], base, par.entries, par.ceiling, par.table_batch)
    return exists


@kernel
def walk(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_contents: Any, all_totals: Any,
) -> None:  # fmt: skip
    """Walk tables [first_table, end_table) of the points in `rows` and add to their tallies.

    s: Scratch of these points; rows: int64[*]. Of all n points groups, seeds: int64[n]; offsets: int64[n + 1], where a
    point's rounds begin in all_tables: int64[rounds, 2, policies], all_pages: int64[rounds, 2, 2] and all_upper:
    UPPER[rounds, 2]; all_counters: COUNTERS[n, policies]; all_contents: CONTENT[n, 2]; all_totals: TOTALS[n]. Of all
    groups pars: PARAMETERS[*]; lims: LIMITS[*]. cdfs: engine.random.inverse_cdf.Cdfs; contention: uint64[701]; rules:
    RULE[policies]
    """
    if rows.size == 0:
        return
    rule_set = s.rule_set[0]
    describe_rules(rules, pars[groups[rows[0]]].entries, rule_set)
    unmapping, zapping, scanning = rule_set.unmapping, rule_set.zapping, rule_set.scanning
    reading, acts_on_pieces = rule_set.reading != 0, rule_set.acts_on_pieces != 0

    for point in rows:
        par = pars[groups[point]]
        lim = lims[groups[point]]
        seed = seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        pages_of = all_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, contents = all_counters[point], all_contents[point]
        totals = all_totals[point]
        content = contents[ZAP]
        unmap_content = contents[UNMAP]
        entries, pages, rounds = par.entries, par.pages, par.rounds
        zap, shift = par.zap, par.shift
        is_free = par.free != 0
        refaults = par.refault != NEVER and not is_free
        split = is_free or refaults
        plain = not split and par.pin == NEVER
        spans_slots = par.places == 0 and par.cluster % entries == 0 and par.install == MAYBE
        unit = par.cluster if par.places > 0 else entries
        places = par.places if par.places > 0 else np.int64(1)

        words = entries >> 6
        present, dirty, marker = s.bits[PRESENT][:words], s.bits[DIRTY][:words], s.bits[MARKER][:words]
        placed, seen, refaulted = s.bits[PLACED][:words], s.bits[SEEN][:words], s.bits[REFAULTED][:words]
        present_unmap = s.bits[PRESENT_UNMAP][:words] if split else present
        marker[:] = ZERO
        order, keys, cleared = s.order, s.keys, s.cleared
        visit = s.visit[0]
        by_zap = cleared[ZAP]
        by_unmap = cleared[UNMAP]

        fill_streams(seed, rounds, s.streams)
        fill_pins(seed, s.pins)
        enter_tables(s.levels, s.level_rounds, rounds)
        for r in range(rounds):
            s.side[r] = 0
            for p in range(rules.size):
                s.scans[r, p].tables = 0
        threads = par.threads
        if threads > 1:
            s.lock_step.pace[:] = 0
        hand = calls_per_thread(par)
        pieces_per_call = (zap + entries - 1) // entries + 1

        for table in range(par.first_table, par.end_table):
            base = table * entries
            valid = min(entries, pages - base)
            marked = np.int64(0)
            if par.pin != NEVER:  # the same in every round
                marker[:] = ZERO
                if par.pin == ALWAYS:
                    fill_range(marker, 0, entries)
                else:
                    pinned = resident_extents(table, cdfs, par.pin_cdf, s.pins)
                    place_extents(marker, seen, table, entries, pinned, 1, cdfs, par.pin_spans, s.pins)
                clear_beyond(marker, valid)
                marked, _, _ = count_and_ends(marker, 0, valid)
                totals.markers += marked
            present[:] = ZERO
            if split:
                present_unmap[:] = ZERO
                dirty[:] = ZERO
            exists = np.int64(0)
            resident, resident_unmap, marks_unmap = np.int64(0), np.int64(0), marked

            begin, end = np.int64(0), np.int64(0)  # the calls that meet this table
            if base + valid > shift and par.calls > 0:
                begin = max(base - shift, 0) // zap
                end = (base + valid - 1 - shift) // zap + 1
            start = shift + begin * zap
            one_call_covers = end - begin == 1 and start <= base and min(start + zap, pages) >= base + entries

            for r in range(rounds):
                streams = s.streams[r]
                # Install.
                extents = np.int64(0)
                if spans_slots:
                    extents = np.int64(draw(streams[OF_EXTENT], base // par.cluster) < lim.install)
                elif par.install == ALWAYS:
                    extents = places
                elif par.install == MAYBE and par.places > 0:
                    extents = resident_extents(table, cdfs, par.cdf, streams)
                # Of a table that one call zaps whole, or not at all, the outermost pages are all that is asked for.
                counted = plain and resident == 0 and one_call_covers and valid == entries
                counted = counted and (par.places > 0 or spans_slots or par.install != MAYBE)
                if counted:
                    resident = extents * unit
                    content.installed += resident
                    resident_unmap = resident
                    unmap_content.installed += resident
                elif extents > 0 or (par.install == MAYBE and par.places == 0 and not spans_slots):
                    placed[:] = ZERO
                    if install_table(placed, seen, table, valid, extents, par, lim, cdfs, streams):
                        for w in range(words):
                            placed[w] &= ~marker[w]
                        fresh = add_set(present, placed)
                        resident += fresh
                        content.installed += fresh
                        if split:
                            fresh = add_set(present_unmap, placed)
                            for w in range(words):
                                dirty[w] |= placed[w]
                            resident_unmap += fresh
                        else:
                            resident_unmap = resident
                        unmap_content.installed += fresh
                if resident + marked > 0:
                    need_upper_tables(s.levels, r)
                    exists = allocate(counters, exists, zapping)
                marks_unmap = marked
                if resident_unmap + marked > 0:
                    s.level_rounds[0, r].touched, s.level_rounds[1, r].touched = 1, 1
                    exists = allocate(counters, exists, unmapping)
                count_tables(tables[r, PEAK], exists)
                pages_of[r, PEAK, ZAP] += resident
                pages_of[r, PEAK, UNMAP] += resident_unmap

                # Calls, in order.
                made = calls_made(order, keys, par, lim.cover, streams, begin, end)
                is_unmapped = begin < end and made == end - begin and base >= shift
                if not is_unmapped:
                    s.level_rounds[0, r].mapped, s.level_rounds[1, r].mapped = 1, 1
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
                        for kind in range(2):
                            s.page_batches[r, side, kind].pages, s.page_batches[r, side, kind].batch = 0, 0
                    if exists:
                        # What the piece clears.
                        if counted:
                            by_zap.count, by_zap.first, by_zap.last = resident, -1, -1
                            if resident > 0:
                                low, high = outermost(table, places, extents, cdfs, par.spans, streams)
                                by_zap.first, by_zap.last = low * unit, (high + 1) * unit - 1
                        elif is_free:
                            by_zap.count, by_zap.first, by_zap.last = count_and_ends(dirty, a, b)
                        else:
                            by_zap.count, by_zap.first, by_zap.last = count_and_ends(present, a, b)
                        by_zap.broke = -1
                        by_unmap.count, by_unmap.first, by_unmap.last = by_zap.count, by_zap.first, by_zap.last
                        by_unmap.broke = -1
                        if split:
                            by_unmap.count, by_unmap.first, by_unmap.last = count_and_ends(present_unmap, a, b)
                        visit.pages, visit.whole = b - a, b - a == entries
                        visit.unmaps = is_unmapped and x == made - 1
                        if crosses:
                            batches = s.page_batches[r, side]
                            may_break = par.folio > 1 or batches[ZAP].pages + by_zap.count >= page_capacity(par)
                            if counted and by_zap.count > 0 and may_break:
                                install_table(present, seen, table, valid, extents, par, lim, cdfs, streams)
                            if not is_free:
                                queue_pages(batches[ZAP], by_zap, present, a, b, par)
                                content.breaks += by_zap.broke >= 0
                            if split:
                                queue_pages(batches[UNMAP], by_unmap, present_unmap, a, b, par)
                            else:
                                batches[UNMAP].pages, batches[UNMAP].batch = batches[ZAP].pages, batches[ZAP].batch
                                by_unmap.broke = by_zap.broke
                                by_unmap.first_after, by_unmap.last_after = by_zap.first_after, by_zap.last_after
                            unmap_content.breaks += by_unmap.broke >= 0
                        visit.broke = NO_BREAK
                        visit.after_break = 0
                        if by_zap.broke >= 0:
                            visit.broke = MID_BREAK if by_zap.broke + 1 < b else END_BREAK
                            if by_zap.first_after >= 0:
                                visit.after_break = 1
                        # Clear.
                        count, count_unmap = by_zap.count, by_unmap.count
                        if refaults:
                            placed[:] = ZERO
                            if count > 0:
                                for w in range(a >> 6, ((b - 1) >> 6) + 1):
                                    placed[w] = present[w] & word_mask(w, a, b)
                        if is_free:
                            clear_range(dirty, a, b)
                        else:
                            clear_range(present, a, b)
                            resident -= count
                            content.zapped += count
                        if split:
                            clear_range(present_unmap, a, b)
                        resident_unmap -= count_unmap
                        unmap_content.zapped += count_unmap
                        marks = np.int64(0)
                        if marked > 0:
                            marks, _, _ = count_and_ends(marker, a, b)
                            marks_unmap -= marks
                            unmap_content.zapped += marks
                        visit.markers = marks
                        visit.others = resident + marked
                        # Touch again.
                        visit.refaulted, visit.refaulted_early = 0, -1
                        if refaults and count > 0:
                            stream = key(seed, r, REFAULT)
                            visit.refaulted = touch_again(
                                present, placed, refaulted, base, stream, par.refault == ALWAYS, lim.refault
                            )
                            if visit.broke == MID_BREAK and visit.refaulted > 0:
                                _, visit.refaulted_early, _ = count_and_ends(refaulted, a, by_zap.broke + 1)
                            resident += visit.refaulted
                            content.installed += visit.refaulted
                        if not split:
                            resident_unmap = resident

                        is_idle = not crosses and count == 0 and count_unmap == 0
                        is_idle = is_idle and not visit.whole and not visit.unmaps and not acts_on_pieces
                        visit.base = base
                        if reading and not is_idle and (visit.whole or acts_on_pieces):
                            if resident + marked == 0:
                                describe_empty(visit, a, by_zap.broke, entries)
                            else:
                                describe_leftovers(
                                    visit, present, marker, a, b, by_zap.broke, entries, rule_set.reads_pieces
                                )
                        had = exists
                        count_visits(counters, had)
                        if not is_idle:
                            exists = apply_rules(
                                rules, counters, s.gathers[r, side], visit, cleared, had, crosses, is_free, par
                            )
                        if threads > 1:
                            if par.random:
                                visit.step = scale(keys[x], hand) * pieces_per_call + table - start // entries
                            if is_idle:
                                visit.tried = 0
                            keep_pace(visit, had, r, table, order[x], par, s.lock_step)
                    if crosses and ends:
                        close_gathers(s.gathers[r, side], counters, entries, par.ceiling)
                s.side[r] = side_after

                if exists & scanning:
                    first = np.int64(-1)
                    if counted and resident > 0:
                        low, _ = outermost(table, places, extents, cdfs, par.spans, streams)
                        first = low * unit
                    elif resident + marked > 0:
                        first = first_entry(present, marker, 0, entries)
                    exists = scan_table(exists, first, base, r, s.scans[r], scanning, rules, counters, par)
                if counted and resident > 0 and r + 1 < rounds:
                    install_table(present, seen, table, valid, extents, par, lim, cdfs, streams)
                count_tables(tables[r, END], exists)
                pages_of[r, END, ZAP] += resident
                pages_of[r, END, UNMAP] += resident_unmap

            if resident + marked > 0:
                content.needed_pte += 1
                s.levels[0].needed, s.levels[1].needed = 1, 1
            if resident_unmap + marks_unmap > 0:
                unmap_content.needed_pte += 1
                s.levels[0].needed_unmap, s.levels[1].needed_unmap = 1, 1
            if leave_tables(table + 1, par, s.levels, s.level_rounds, upper, contents, rounds):
                if scanning:
                    flush_scans(s.scans, counters, rounds, par)
                if threads > 1:
                    settle_rounds(s.lock_step, rounds, seed, contention, entries, counters, rules)
