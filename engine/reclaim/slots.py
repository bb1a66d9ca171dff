"""The pass for calls of whole slots: a block of tables at once, by counts of extents instead of entries.

Where every piece covers a slot and no entry is pinned, touched again or left by MADV_FREE, what a rule does is decided
beforehand (engine.reclaim.rules.judge, asked once about each kind of visit): a table is empty after its call, so only
how many tables there are, and their outermost pages, still have to be drawn.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ZERO, nth, survey
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import OF_CALL, OF_CALL_LOW, OF_EXTENT, STREAMS, call_key, draw, fill_streams, scale
from engine.reclaim.contention import ATTEMPT, note_trylocks, settle_trylocks, thread_of
from engine.reclaim.gather import (
    close_gathers,
    flush_scanned,
    gather_scanned,
    gather_visit,
    open_gathers,
    page_capacity,
)
from engine.reclaim.records import CLEARED, COUNTERS, GATHER, SCAN, VISIT
from engine.reclaim.residency import place_extents
from engine.reclaim.residency_blocks import block_calls, block_counts, block_ends
from engine.reclaim.rules import (
    END_BREAK,
    FREE,
    HELD,
    KEEP,
    KEEP_TABLE,
    MID_BREAK,
    NO_BREAK,
    ROUND,
    count_scan,
    judge,
)
from engine.reclaim.walk import END, PEAK, UNMAPPED, ZAPPED, add_pages, upper_if_unmapped

BLOCK_TABLES = 512
FRESH, LOW, HIGH, UNSURE, HELD_PAGES, MADE, TOUCHED, HAS_BITS, NUMBERS = range(9)
"""Rows of `numbers`, one uint16 for each table: extents that an install draws; the outermost resident ones; flags, of
draws that 16 bits do not decide, of calls that are made, or of tables that a scan frees; resident pages; whether its
call is made; whether it ever had a page; whether its entries are drawn."""


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which points (PARAMETERS[n]) this pass is for, under these rules (RULE[policies])."""
    entries = par["entries"]
    aligned = (par["zap"] % entries == 0) & (par["shift"] % entries == 0) & (par["pages"] % entries == 0)
    plain = (par["free"] == 0) & (par["refault"] == NEVER) & (par["pin"] == NEVER)
    drawn = (par["places"] > 0) | (par["install"] != MAYBE) | (par["cluster"] % entries == 0)
    # A call of several slots may fill its gather; where a run of a folio takes two page slots, entries would be needed.
    breaks = par["zap"] > entries
    keeps = ((rules["proof"] == HELD) & (rules["otherwise"] == KEEP_TABLE)).any()
    return np.asarray(aligned & plain & drawn & ~(breaks & ((par["folio"] > 1) | keeps)))


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    hashes: Any  #: uint64[3, *]
    cells: Any  #: uint32[tables]
    numbers: Any  #: uint16[NUMBERS, tables]
    exists: Any  #: uint16[policies, tables]: of rules that scan every few rounds
    present: Any  #: uint64[tables, words]: entries, where they are drawn
    drawn: Any  #: uint64[words]
    seen: Any  #: uint64[words]
    streams: Any  #: uint64[rounds, STREAMS]: keys of the random streams
    gathers: Any  #: GATHER[rounds, 3]: of policies that keep a table, free it, and free it after the call
    flushed: Any  #: COUNTERS[3]: the flushes of these
    page_slots: Any  #: int64[rounds]: page slots filled
    cleared: Any  #: CLEARED[1]
    visit: Any  #: VISIT[1]
    spare: Any  #: COUNTERS[1]
    scans: Any  #: SCAN[rounds, policies]
    touched: Any  #: bool[2, rounds]: the PMD and PUD table at hand, where ranges are unmapped
    mapped: Any  #: bool[2, rounds]
    pace: Any  #: int64[rounds x threads]: visits of each thread
    attempts: Any  #: ATTEMPT[rounds, PMD span]
    attempted: Any  #: int64[rounds]: how many of them
    steps: Any  #: int64[2, *]: a hash table of steps
    modes: Any  #: int64[policies + 2]: at a visit without a break; then which policies try the PMD lock, and how


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Scratch for the largest of these points, whose PMD spans are equal. par: PARAMETERS[n]; rules: RULE[policies]."""
    entries, rounds, policies = int(par["entries"].max()), int(par["rounds"].max()), len(rules)
    threaded = par[par["threads"] > 1]
    trylocks = int(threaded["pmd_span"].max(initial=0))
    carries = (par["rounds"] > 1) & (par["cover"] != ALWAYS) | (par["zap"] > entries) | (par["shift"] > 0)
    rows = BLOCK_TABLES if carries.any() else 1
    return Scratch(
        hashes=np.zeros((3, BLOCK_TABLES // 4 + 2), np.uint64),
        cells=np.zeros(BLOCK_TABLES, np.uint32),
        numbers=np.zeros((NUMBERS, BLOCK_TABLES), np.uint16),
        exists=np.zeros((policies, BLOCK_TABLES), np.uint16),
        present=np.zeros((rows, entries >> 6), np.uint64),
        drawn=np.zeros(entries >> 6, np.uint64),
        seen=np.zeros(entries >> 6, np.uint64),
        streams=np.zeros((rounds, STREAMS), np.uint64),
        gathers=np.zeros((rounds, 3), GATHER),
        flushed=np.zeros(3, COUNTERS),
        page_slots=np.zeros(rounds, np.int64),
        cleared=np.zeros(1, CLEARED),
        visit=np.zeros(1, VISIT),
        spare=np.zeros(1, COUNTERS),
        scans=np.zeros((rounds, policies), SCAN),
        touched=np.zeros((2, rounds), np.bool_),
        mapped=np.zeros((2, rounds), np.bool_),
        pace=np.zeros(int((threaded["rounds"] * threaded["threads"]).max(initial=0)), np.int64),
        attempts=np.zeros((int(threaded["rounds"].max(initial=0)), trylocks), ATTEMPT),
        attempted=np.zeros(int(threaded["rounds"].max(initial=0)), np.int64),
        steps=np.zeros((2, 1 << max(2 * trylocks - 1, 1).bit_length()), np.int64),
        modes=np.zeros(policies + 2, np.int64),
    )


@inner
def visit_whole(visit: Any, entries: Any, broke: Any, reads_before_break: Any) -> None:
    """Describe a visit of a whole slot that empties the table.

    reads_before_break: entries that `otherwise: rest` reads, up to and with the one of a mid break
    """
    visit.pages, visit.whole, visit.markers, visit.broke, visit.others = entries, 1, 0, broke, 0
    visit.after_break, visit.back_early, visit.back, visit.left, visit.reads = 0, -1, 0, -1, entries
    visit.reads_rest, visit.rest_empty, visit.reads_outside, visit.outside_empty = reads_before_break, 1, 0, 1
    visit.entries_inside, visit.unmaps = 0, 1


@inner
def count_single_slots(
    n: Any, unit: Any, ceiling: Any, held: Any, made: Any, low: Any, high: Any, flushed: Any
) -> None:
    """The flushes of calls of a slot each: adds them to flushed[KEEP] and flushed[FREE]. held .. high: uint16[n]."""
    full, ranged, full_freed, ranged_freed, cut = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    u, c, zero, one = np.uint32(unit), np.uint32(ceiling), np.uint32(0), np.uint32(1)
    for i in range(n):
        zaps = (held[i] != 0) & (made[i] != 0)
        end = np.uint32((np.uint32(high[i]) + one) * u)  # in pages of the slot; its first page goes with the table
        span = np.uint32(end - np.uint32(low[i]) * u)
        cut = np.uint32(cut + zaps)
        full = np.uint32(full + (zaps & (span > c)))
        ranged = np.uint32(ranged + (span if zaps & (span <= c) else zero))
        full_freed = np.uint32(full_freed + (zaps & (end > c)))
        ranged_freed = np.uint32(ranged_freed + (end if zaps & (end <= c) else zero))
    flushed[KEEP].flushes += np.int64(cut)
    flushed[KEEP].tlb_flushes_full += np.int64(full)
    flushed[KEEP].tlb_invlpgs += np.int64(ranged)
    flushed[FREE].flushes += np.int64(cut)
    flushed[FREE].tlb_flushes_full += np.int64(full_freed)
    flushed[FREE].tlb_invlpgs += np.int64(ranged_freed)


@inner
def count_block(n: Any, held: Any, made: Any, touched: Any) -> Any:
    """(tables with pages, those zapped, pages, pages zapped, tables touched first, visits of any touched, calls).

    touched: uint16[n], updated.
    """
    has, cut, pages, gone, new, seen = (
        np.uint32(0),
        np.uint32(0),
        np.uint32(0),
        np.uint32(0),
        np.uint32(0),
        np.uint32(0),
    )
    zero, calls = np.uint32(0), np.uint32(0)
    for i in range(n):
        some, called = held[i] != 0, made[i] != 0
        has = np.uint32(has + some)
        cut = np.uint32(cut + (some & called))
        pages = np.uint32(pages + np.uint32(held[i]))
        gone = np.uint32(gone + (np.uint32(held[i]) if called else zero))
        new = np.uint32(new + (some & (touched[i] == 0)))
        touched[i] = touched[i] | np.uint16(some)
        seen = np.uint32(seen + (called & (touched[i] != 0)))
        calls = np.uint32(calls + called)
    return (
        np.int64(has), np.int64(cut), np.int64(pages), np.int64(gone), np.int64(new), np.int64(seen), np.int64(calls)
    )  # fmt: skip


@inner
def first_entries(n: Any, held: Any, made: Any, low: Any, unit: Any) -> Any:
    """Entries that a scan reads in tables that were not zapped: up to and with the first resident page."""
    reads, u, zero, one = np.uint32(0), np.uint32(unit), np.uint32(0), np.uint32(1)
    for i in range(n):
        reads = np.uint32(reads + (np.uint32(low[i]) * u + one if (held[i] != 0) & (made[i] == 0) else zero))
    return np.int64(reads)


@inner
def scan_few_rounds(
    n: Any, is_scan: Any, entries: Any, unit: Any, held: Any, made: Any, low: Any, exists: Any, freed: Any
) -> Any:
    """A rule that scans every few rounds: (new tables, visits, tables at peak, tables at end, entries read by a scan).

    exists: uint16[n], updated; freed: uint16[n], written: tables that this round's scan frees.
    """
    new, visits, peak, end, reads = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for i in range(n):
        some, called = held[i] != 0, made[i] != 0
        new += some and exists[i] == 0
        exists[i] = exists[i] | np.uint16(some)
        visits += called and exists[i] != 0
        peak += exists[i]
        is_left = some and not called
        freed[i] = np.uint16(is_scan and exists[i] != 0 and not is_left)
        if is_scan and exists[i]:
            reads += np.int64(low[i]) * unit + 1 if is_left else entries
            exists[i] = np.uint16(is_left)
        end += exists[i]
    return new, visits, peak, end, reads


@inner
def gather_block(
    n: Any, block: Any, count: Any, freed: Any, scan: Any, counters: Any, entries: Any, ceiling: Any, table_batch: Any
) -> None:
    """`count` tables of a block were freed by a scan at a round's end: those flagged in freed, uint16[n]."""
    if count == 0:
        return
    if scan.tables + count >= table_batch:
        for i in range(n):
            if freed[i]:
                gather_scanned(scan, counters, (block + i) * entries, entries, ceiling, table_batch)
        return
    first, last = 0, n - 1
    while freed[first] == 0:
        first += 1
    while freed[last] == 0:
        last -= 1
    if scan.tables == 0:
        scan.first = (block + first) * entries
    scan.end = (block + last) * entries + 1
    scan.tables += count


@inner
def install(
    n: Any,
    block: Any,
    par: Any,
    lim: Any,
    cdfs: Any,
    streams: Any,
    s: Any,
    unit: Any,
    places: Any,
    carried: Any,
) -> Any:
    """Draw a round's install of a block: updates the numbers HELD_PAGES, LOW and HIGH; returns the pages installed."""
    size = (n + 3) & ~3
    fresh, low, high, unsure = (
        s.numbers[FRESH, :size],
        s.numbers[LOW, :size],
        s.numbers[HIGH, :size],
        s.numbers[UNSURE, :size],
    )
    held, has_bits, cells = s.numbers[HELD_PAGES], s.numbers[HAS_BITS], s.cells[:size]
    hashes, others = s.hashes[0, : size >> 2], s.hashes[1, : size >> 2]
    if par.install == MAYBE and par.places > 0:
        block_counts(block, cdfs, par, streams, hashes, cells, fresh, unsure)
    elif par.install == MAYBE:
        for i in range(n):
            extent = (block + i) * par.entries // par.cluster
            fresh[i] = draw(streams[OF_EXTENT], extent) < lim.install
    else:
        for i in range(n):
            fresh[i] = places if par.install == ALWAYS else 0
    for i in range(n, fresh.size):
        fresh[i] = 0
    if par.install == MAYBE and places > 1:
        block_ends(block, places, fresh, cdfs, par, streams, hashes, others, cells, low, high, unsure)
    else:
        for i in range(n):
            low[i], high[i] = 0, places - 1
    size16 = np.uint16(unit)
    if carried == 0:
        total = np.uint32(0)
        for i in range(n):
            held[i] = np.uint16(fresh[i] * size16)
            total = np.uint32(total + np.uint32(held[i]))
        return np.int64(total)
    installed = np.int64(0)
    for i in range(n):
        if held[i] == 0:
            held[i] = np.uint16(fresh[i] * size16)
            installed += held[i]
        elif has_bits[i]:
            if fresh[i]:
                s.drawn[:] = ZERO
                place_extents(s.drawn, s.seen, block + i, places, np.int64(fresh[i]), unit, cdfs, par.spans, streams)
                added = add_pages(s.present[i], s.drawn)
                held[i] += np.uint16(added)
                installed += added
            _, first, last = survey(s.present[i], 0, par.entries)
            low[i], high[i] = first // unit, last // unit
    return installed


@inner
def clear_called(
    n: Any, block: Any, is_last: Any, par: Any, cdfs: Any, streams: Any, s: Any, unit: Any, places: Any, left: Any
) -> None:
    """Clear the tables whose calls are made; draw the entries of the others that a later round will need."""
    held, made, has_bits, fresh = s.numbers[HELD_PAGES], s.numbers[MADE], s.numbers[HAS_BITS], s.numbers[FRESH]
    if left == 0:
        for i in range(n):
            held[i] = 0
            has_bits[i] = 0
        return
    draws = places > 1 and par.install == MAYBE and not is_last
    for i in range(n):
        if made[i]:
            held[i] = 0
            has_bits[i] = 0
        elif draws and held[i] and not has_bits[i]:
            row = s.present[i]
            row[:] = ZERO
            place_extents(row, s.seen, block + i, places, np.int64(fresh[i]), unit, cdfs, par.spans, streams)
            has_bits[i] = 1


@inner
def calls_of_block(n: Any, block: Any, par: Any, lim: Any, streams: Any, s: Any) -> Any:
    """Write MADE, a flag a table, and return (the first call that meets the block, how many meet it).

    Of calls of several slots, UNSURE has a flag for each call.
    """
    made, flags = s.numbers[MADE], s.numbers[UNSURE]
    slots, shift = par.zap // par.entries, par.shift // par.entries
    begin = max(shift - block, 0)
    if begin >= n or par.calls == 0:
        for i in range(n):
            made[i] = 0
        return np.int64(0), np.int64(0)
    for i in range(begin):
        made[i] = 0
    first = (block + begin - shift) // slots
    count = (block + n - 1 - shift) // slots + 1 - first
    if slots == 1:
        block_calls(first, count, par, lim.cover, streams, s.hashes[2], made[begin:n])
        return first, count
    block_calls(first, count, par, lim.cover, streams, s.hashes[2], flags[:count])
    for c in range(count):
        a = max(shift + (first + c) * slots - block, begin)
        for i in range(a, min(shift + (first + c + 1) * slots - block, n)):
            made[i] = flags[c]
    return first, count


@inner
def gather_calls(
    n: Any, block: Any, r: Any, first: Any, count: Any, par: Any, cdfs: Any, streams: Any, s: Any, unit: Any,
    places: Any, rules: Any, counters: Any, frees: Any,
) -> Any:  # fmt: skip
    """Calls of several slots: their gathers, visit by visit. Returns the visits at which the gather was full.

    These visits are judged here; `frees`: the policies that have a table wherever there is a page, a bit each.
    """
    held, low, high, flags = s.numbers[HELD_PAGES], s.numbers[LOW], s.numbers[HIGH], s.numbers[UNSURE]
    has_bits = s.numbers[HAS_BITS]
    entries, ceiling, table_batch = par.entries, par.ceiling, par.table_batch
    slots, shift = par.zap // entries, par.shift // entries
    capacity = page_capacity(par)
    cleared, visit, gathers = s.cleared[0], s.visit[0], s.gathers[r]
    broken = np.int64(0)
    for c in range(count):
        if flags[c] == 0:
            continue
        start, stop = shift + (first + c) * slots - block, shift + (first + c + 1) * slots - block
        if start >= 0:
            open_gathers(gathers)
            s.page_slots[r] = 0
        for i in range(max(start, 0), min(stop, n)):
            if held[i] == 0:
                continue
            table = block + i
            base = table * entries
            cleared.count, cleared.first, cleared.last = held[i], low[i] * unit, (high[i] + 1) * unit - 1
            cleared.broke, cleared.first_after, cleared.last_after = -1, -1, -1
            s.page_slots[r] += held[i]
            broke = NO_BREAK
            if s.page_slots[r] >= capacity:
                s.page_slots[r] -= capacity
                row = s.present[i]
                if has_bits[i] == 0:
                    row[:] = ZERO
                    place_extents(row, s.seen, table, places, held[i] // unit, unit, cdfs, par.spans, streams)
                cleared.broke = nth(row, 0, entries, cleared.count - s.page_slots[r])
                _, cleared.first_after, cleared.last_after = survey(row, cleared.broke + 1, entries)
                broke = MID_BREAK if cleared.broke + 1 < entries else END_BREAK
            for mode in range(3):
                gather_visit(gathers[mode], s.flushed[mode], cleared, base, mode, entries, ceiling, table_batch)
            tried, fast = s.modes[rules.size], s.modes[rules.size + 1]
            if broke != NO_BREAK:
                broken += 1
                tried, fast = 0, 0
                visit_whole(visit, entries, broke, cleared.broke + 1)
                for p in range(rules.size):
                    if (frees >> p) & 1:
                        own = counters[p]
                        trylocks, fast_paths = own.pmd_trylocks, own.fast_paths
                        judge(rules[p], visit, own, 1)
                        tried |= np.int64(own.pmd_trylocks > trylocks) << p
                        fast |= np.int64(own.fast_paths > fast_paths) << p
            if par.threads > 1:
                call = first + c
                hand = (par.calls + par.threads - 1) // par.threads
                if par.random:
                    k = call_key(streams[OF_CALL], streams[OF_CALL_LOW], call)
                    step = scale(k, hand) * (slots + 1) + i - start
                else:
                    at = r * par.threads + thread_of(call, par.threads, par.calls, par.interleaved)
                    step = s.pace[at]
                    s.pace[at] += 1
                if tried:
                    note_trylocks(s.attempts[r, s.attempted[r]], step, table, tried, fast & tried)
                    s.attempted[r] += 1
        if stop <= n or block + n == par.end_table:
            close_gathers(gathers, s.flushed, entries, ceiling)
    return broken


@inner
def note_single_slots(
    n: Any, block: Any, r: Any, first: Any, par: Any, streams: Any, s: Any, tried: Any, fast: Any
) -> None:
    """The trylocks of calls of a slot each, of threads in lock step."""
    held, made = s.numbers[HELD_PAGES], s.numbers[MADE]
    begin = max(par.shift // par.entries - block, 0)
    hand = (par.calls + par.threads - 1) // par.threads
    for i in range(begin, n):
        if held[i] and made[i]:
            call = first + i - begin
            if par.random:
                step = scale(call_key(streams[OF_CALL], streams[OF_CALL_LOW], call), hand) * 2
            else:
                at = r * par.threads + thread_of(call, par.threads, par.calls, par.interleaved)
                step = s.pace[at]
                s.pace[at] += 1
            note_trylocks(s.attempts[r, s.attempted[r]], step, block + i, tried, fast)
            s.attempted[r] += 1


@inner
def add_flushes(counters: Any, flushed: Any) -> None:
    counters.flushes += flushed.flushes
    counters.tlb_flushes_full += flushed.tlb_flushes_full
    counters.tlb_invlpgs += flushed.tlb_invlpgs


@kernel
def walk_slots(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_lanes: Any, all_totals: Any,
) -> None:  # fmt: skip
    """As engine.reclaim.walk.walk, which see for the arguments, for points that fit."""
    if rows.size == 0:
        return
    visit = s.visit[0]
    spare = s.spare[0]
    visit_whole(visit, pars[groups[rows[0]]].entries, NO_BREAK, 0)
    frees, scanning, tried, fast = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for p in range(rules.size):
        spare.pmd_trylocks, spare.fast_paths = 0, 0
        s.modes[p] = judge(rules[p], visit, spare, 1)
        frees |= np.int64(s.modes[p] != KEEP) << p
        scanning |= np.int64(rules[p].when == ROUND) << p
        tried |= np.int64(spare.pmd_trylocks) << p
        fast |= np.int64(spare.fast_paths) << p
    s.modes[rules.size], s.modes[rules.size + 1] = tried, fast & tried

    for point in rows:
        par = pars[groups[point]]
        lim = lims[groups[point]]
        seed = seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        pages_of = all_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, lanes = all_counters[point], all_lanes[point]
        lane = lanes[ZAPPED]
        totals = all_totals[point]
        entries, rounds, ceiling, threads = par.entries, par.rounds, par.ceiling, par.threads
        slots = par.zap // entries
        unit = par.cluster if par.places > 0 else entries
        places = par.places if par.places > 0 else np.int64(1)
        size = min(par.pmd_span, BLOCK_TABLES)

        fill_streams(seed, rounds, s.streams)
        touched, mapped = s.touched[:, :rounds], s.mapped[:, :rounds]
        touched[:], mapped[:] = False, False
        for mode in range(3):
            s.flushed[mode].flushes, s.flushed[mode].tlb_flushes_full, s.flushed[mode].tlb_invlpgs = 0, 0, 0
        for r in range(rounds):
            for p in range(rules.size):
                s.scans[r, p].tables = 0
        if threads > 1:
            s.pace[:] = 0
            s.attempted[:] = 0
        clean = np.int64(0)
        pmd_first, pud_first, pmd_needed, pud_needed = rounds, rounds, False, False
        held, made, low, unsure = s.numbers[HELD_PAGES], s.numbers[MADE], s.numbers[LOW], s.numbers[UNSURE]
        ever, has_bits = s.numbers[TOUCHED], s.numbers[HAS_BITS]

        for block in range(par.first_table, par.end_table, size):
            n = min(size, par.end_table - block)
            for i in range(held.size):
                held[i], ever[i], has_bits[i] = 0, 0, 0
            for p in range(rules.size):
                if rules[p].every > 1:
                    for i in range(n):
                        s.exists[p, i] = 0
            carried, ever_count = np.int64(0), np.int64(0)
            for r in range(rounds):
                streams = s.streams[r]
                installed = install(n, block, par, lim, cdfs, streams, s, unit, places, carried)
                first_call, call_count = calls_of_block(n, block, par, lim, streams, s)
                has, cut, pages, gone, new, seen, calls = count_block(n, held, made, ever)
                left = has - cut
                ever_count += new
                lane.installed += installed
                lane.zapped += gone
                pages_of[r, PEAK, ZAPPED] += pages
                pages_of[r, PEAK, UNMAPPED] += pages
                pages_of[r, END, ZAPPED] += pages - gone
                pages_of[r, END, UNMAPPED] += pages - gone
                if has > 0:
                    pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                    touched[0, r], touched[1, r] = True, True
                if calls < n:
                    mapped[0, r], mapped[1, r] = True, True
                broken = np.int64(0)
                if slots == 1:
                    totals.calls += calls
                    count_single_slots(n, unit, ceiling, held, made, low, s.numbers[HIGH], s.flushed)
                    if threads > 1 and tried:
                        note_single_slots(n, block, r, first_call, par, streams, s, tried, fast & tried)
                else:
                    for c in range(call_count):
                        starts = par.shift + (first_call + c) * par.zap >= block * entries
                        totals.calls += unsure[c] != 0 and starts
                    broken = gather_calls(
                        n, block, r, first_call, call_count, par, cdfs, streams, s, unit, places, rules, counters, frees
                    )
                    lane.breaks += broken
                clean += cut - broken
                reads = np.int64(0)
                if scanning:
                    reads = first_entries(n, held, made, low, unit) + cut * entries
                    for i in range(n):  # what a scan frees where it scans every round
                        unsure[i] = np.uint16((held[i] != 0) & (made[i] != 0))
                for p in range(rules.size):
                    own = counters[p]
                    if (frees >> p) & 1 or ((scanning >> p) & 1 and rules[p].every == 1):
                        own.pte_tables_allocated += has - carried
                        own.table_visits += cut
                        tables[r, PEAK, p] += has
                        tables[r, END, p] += left
                        if (frees >> p) & 1:
                            own.pte_tables_freed += cut
                        else:
                            count_scan(rules[p], own, has, cut, reads)
                            gather_block(n, block, cut, unsure, s.scans[r, p], own, entries, ceiling, par.table_batch)
                    elif (scanning >> p) & 1:
                        is_scan = (r + 1) % rules[p].every == 0
                        new_here, visits, peak, end, read = scan_few_rounds(
                            n, is_scan, entries, unit, held, made, low, s.exists[p], s.numbers[UNSURE]
                        )
                        own.pte_tables_allocated += new_here
                        own.table_visits += visits
                        tables[r, PEAK, p] += peak
                        tables[r, END, p] += end
                        if is_scan:
                            freed = peak - end
                            count_scan(rules[p], own, peak, freed, read)
                            gather_block(n, block, freed, unsure, s.scans[r, p], own, entries, ceiling, par.table_batch)
                        for i in range(n):
                            unsure[i] = np.uint16((held[i] != 0) & (made[i] != 0))
                    else:
                        own.pte_tables_allocated += new
                        own.table_visits += seen
                        tables[r, PEAK, p] += ever_count
                        tables[r, END, p] += ever_count
                clear_called(n, block, r + 1 == rounds, par, cdfs, streams, s, unit, places, left)
                carried = left
            if carried > 0:
                lane.needed_pte += carried
                pmd_needed, pud_needed = True, True

            done = block + n
            if done % par.pmd_span == 0 or done == par.end_table:
                if pmd_first < rounds:
                    upper[pmd_first].pmd_new += 1
                upper_if_unmapped(upper, touched[0], mapped[0], False)
                lane.needed_pmd += pmd_needed
                pmd_first, pmd_needed = rounds, False
                if scanning:
                    for r in range(rounds):
                        for p in range(rules.size):
                            flush_scanned(s.scans[r, p], counters[p], entries, ceiling)
                if threads > 1:
                    for r in range(rounds):
                        settle_trylocks(
                            s.attempts[r], s.attempted[r], seed, r, contention, s.steps, entries, counters, rules
                        )
                        s.attempted[r] = 0
            if par.pud_span > 0 and (done % par.pud_span == 0 or done == par.end_table):
                if pud_first < rounds:
                    upper[pud_first].pud_new += 1
                upper_if_unmapped(upper, touched[1], mapped[1], True)
                lane.needed_pud += pud_needed
                pud_first, pud_needed = rounds, False

        other = lanes[UNMAPPED]
        other.installed += lane.installed
        other.zapped += lane.zapped
        other.breaks += lane.breaks
        other.needed_pte += lane.needed_pte
        other.needed_pmd += lane.needed_pmd
        other.needed_pud += lane.needed_pud
        visit_whole(visit, entries, NO_BREAK, 0)
        for p in range(rules.size):
            mode = s.modes[p]
            if mode != KEEP:
                judge(rules[p], visit, counters[p], clean)
                if slots == 1:
                    mode = FREE  # of a call of one slot all is flushed at once
            add_flushes(counters[p], s.flushed[mode])
