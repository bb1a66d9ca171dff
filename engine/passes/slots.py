"""The pass for calls of whole slots: a block of tables at once, by counts of extents instead of entries.

Where every piece covers a slot and no entry is pinned, touched again or left by MADV_FREE, what a rule does is decided
beforehand (engine.reclaim.rules.judge, asked once about each kind of visit): a table is empty after its call, so only
how many tables there are, and their outermost pages, still have to be drawn.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ZERO, add_set, count_and_ends, nth_set
from engine.numeric.jit import inner, kernel
from engine.passes.blocks import (
    BLOCK_TABLES,
    CALLS,
    DRAWN,
    EMPTIED,
    EVER,
    HAS_BITS,
    HIGH,
    LOW,
    PAGES,
    PLACED,
    SEEN,
    TABLES,
    Block,
    block_for,
    count_policies,
    draw_block,
    scanning_rules,
    start_block,
    start_point,
)
from engine.passes.residency_blocks import block_calls
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import OF_CALL, OF_CALL_LOW, call_key, fill_streams, scale
from engine.reclaim.contention import (
    LockStep,
    calls_per_thread,
    lock_step_for,
    note_trylocks,
    pace_index,
    settle_rounds,
)
from engine.reclaim.gather import add_flushes, close_gathers, flush_scans, gather_visit, open_gathers, page_capacity
from engine.reclaim.records import END, GATHER, PEAK, UNMAP, ZAP
from engine.reclaim.residency import place_extents
from engine.reclaim.rules import BY_HOLD, END_BREAK, FREED, MID_BREAK, NO_BREAK, READ_NOTHING, STAYS, VERDICTS, judge
from engine.reclaim.upper_tables import enter_tables, leave_tables, need_upper_tables


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which points (PARAMETERS[n]) this pass can compute under these rules (RULE[policies]), as bool[n]."""
    entries = par["entries"]
    aligned = (par["zap"] % entries == 0) & (par["shift"] % entries == 0) & (par["pages"] % entries == 0)
    plain = (par["thp"] == 0) & (par["free"] == 0) & (par["refault"] == NEVER) & (par["pin"] == NEVER)
    drawn = (par["places"] > 0) | (par["install"] != MAYBE) | (par["cluster"] % entries == 0)
    # A call of several slots may fill its gather; where a run of a folio takes two entries, pages would be needed.
    breaks = par["zap"] > entries
    keeps = ((rules["proof"] == BY_HOLD) & (rules["otherwise"] == READ_NOTHING)).any()
    return np.asarray(aligned & plain & drawn & ~(breaks & ((par["folio"] > 1) | keeps)))


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    block: Block  #: its flushed is COUNTERS[VERDICTS], of policies under which a visit has that verdict
    lock_step: LockStep  #: one row
    gathers: NDArray[np.void]  #: GATHER[rounds, VERDICTS], of policies under which a visit has that verdict
    page_batches: NDArray[np.int64]  #: [rounds]: entries of page batches filled
    verdicts: NDArray[
        np.int64
    ]  #: [policies + 2], at a visit without a break; then who tries the PMD lock, and who fast


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Return the memory for the largest of these points, PARAMETERS[n], under RULE[policies]."""
    rounds = int(par["rounds"].max())
    carries = (par["rounds"] > 1) & (par["cover"] != ALWAYS) | (par["zap"] > par["entries"]) | (par["shift"] > 0)
    return Scratch(
        block_for(par, len(rules), BLOCK_TABLES, BLOCK_TABLES if carries.any() else 1, VERDICTS),
        lock_step_for(par, 1),
        np.zeros((rounds, VERDICTS), GATHER),
        np.zeros(rounds, np.int64),
        np.zeros(len(rules) + 2, np.int64),
    )


@inner
def describe_whole(visit: Any, entries: Any, broke: Any, reads_rest: Any) -> None:
    """Fill in a visit of a whole slot that empties the table.

    reads_rest: entries that `otherwise: rest` reads, those up to and with the one of a MID_BREAK
    """
    visit.pages, visit.whole, visit.markers, visit.broke, visit.others = entries, 1, 0, broke, 0
    visit.after_break, visit.refaulted_early, visit.refaulted, visit.left, visit.reads = 0, -1, 0, -1, entries
    visit.reads_rest, visit.rest_empty, visit.reads_outside, visit.outside_empty = reads_rest, 1, 0, 1
    visit.entries_inside, visit.unmaps = 0, 1


@inner
def judge_whole(s: Any, rules: Any, entries: Any) -> Any:
    """Judge a visit without a break under every rule: writes s.verdicts. Returns the rules that free, a bit each."""
    visit, spare = s.block.visit[0], s.block.spare[0]
    describe_whole(visit, entries, NO_BREAK, 0)
    frees, tried, fast = np.int64(0), np.int64(0), np.int64(0)
    for p in range(rules.size):
        spare.pmd_trylocks, spare.fast_paths = 0, 0
        s.verdicts[p] = judge(rules[p], visit, spare, 1)
        frees |= np.int64(s.verdicts[p] != STAYS) << p
        tried |= np.int64(spare.pmd_trylocks) << p
        fast |= np.int64(spare.fast_paths) << p
    s.verdicts[rules.size], s.verdicts[rules.size + 1] = tried, fast & tried
    return frees


@inner
def install(n: Any, block: Any, par: Any, cdfs: Any, streams: Any, b: Any, unit: Any, places: Any) -> Any:
    """Add a round's drawn install to a block: updates PAGES, LOW and HIGH; returns the pages installed."""
    drawn, low, high = b.numbers[DRAWN], b.numbers[LOW], b.numbers[HIGH]
    pages, has_bits = b.numbers[PAGES], b.numbers[HAS_BITS]
    unit16 = np.uint16(unit)
    if b.sums[0].left == 0:
        total = np.uint32(0)
        for i in range(n):
            pages[i] = np.uint16(drawn[i] * unit16)
            total = np.uint32(total + np.uint32(pages[i]))
        return np.int64(total)
    installed = np.int64(0)
    for i in range(n):
        if pages[i] == 0:
            pages[i] = np.uint16(drawn[i] * unit16)
            installed += pages[i]
        elif has_bits[i]:
            row, placed = b.bits[TABLES + i], b.bits[PLACED]
            if drawn[i]:
                placed[:] = ZERO
                place_extents(
                    placed, b.bits[SEEN], block + i, places, np.int64(drawn[i]), unit, cdfs, par.spans, streams
                )
                added = add_set(row, placed)
                pages[i] += np.uint16(added)
                installed += added
            _, first, last = count_and_ends(row, 0, par.entries)
            low[i], high[i] = first // unit, last // unit
    return installed


@inner
def draw_calls(n: Any, block: Any, par: Any, lim: Any, streams: Any, b: Any) -> Any:
    """Write CALLS, 0 or 1, and b.made, a flag per call; return (the first call that meets the block, how many do)."""
    calls, made = b.numbers[CALLS], b.made
    slots, shift = par.zap // par.entries, par.shift // par.entries
    begin = min(max(shift - block, 0), n)
    for i in range(begin):
        calls[i] = 0
    if begin == n or par.calls == 0:
        return np.int64(0), np.int64(0)
    first = (block + begin - shift) // slots
    count = (block + n - 1 - shift) // slots + 1 - first
    if slots == 1:
        made = calls[begin:]
    block_calls(first, count, par, lim.cover, streams, b.hashes[2], made[:count])
    if slots > 1:
        for c in range(count):
            a = max(shift + (first + c) * slots - block, begin)
            for i in range(a, min(shift + (first + c + 1) * slots - block, n)):
                calls[i] = made[c]
    return first, count


@inner
def count_tables(n: Any, b: Any) -> Any:
    """Fill the block's sums of this round, `reads` aside; returns (pages, pages zapped, calls of one slot made)."""
    sums, ever = b.sums[0], b.numbers[EVER]
    numbers, calls = b.numbers[PAGES], b.numbers[CALLS]
    has, emptied, pages, zapped = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    new, visits_ever, made, zero = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    for i in range(n):
        some, called = numbers[i] != 0, calls[i] != 0
        has = np.uint32(has + some)
        emptied = np.uint32(emptied + (some & called))
        pages = np.uint32(pages + np.uint32(numbers[i]))
        zapped = np.uint32(zapped + (np.uint32(numbers[i]) if called else zero))
        new = np.uint32(new + (some & (ever[i] == 0)))
        ever[i] = ever[i] | np.uint16(some)
        visits_ever = np.uint32(visits_ever + (called & (ever[i] != 0)))
        made = np.uint32(made + called)
    sums.had, sums.has, sums.emptied = sums.left, has, emptied
    sums.left = sums.has - sums.emptied
    sums.new, sums.visits_ever = new, visits_ever
    sums.ever += sums.new
    sums.visits, sums.visits_until_empty = sums.emptied, sums.emptied
    return np.int64(pages), np.int64(zapped), np.int64(made)


@inner
def count_reads(n: Any, b: Any, entries: Any, unit: Any) -> None:
    """Fill EMPTIED, and `reads` of the sums: entries up to the first page of each table that is left, all of others."""
    pages, calls, low, emptied = b.numbers[PAGES], b.numbers[CALLS], b.numbers[LOW], b.numbers[EMPTIED]
    reads, u, zero, one = np.uint32(0), np.uint32(unit), np.uint32(0), np.uint32(1)
    for i in range(n):
        some, called = pages[i] != 0, calls[i] != 0
        emptied[i] = some & called
        reads = np.uint32(reads + (np.uint32(low[i]) * u + one if some & (not called) else zero))
    b.sums[0].reads = np.int64(reads) + b.sums[0].emptied * entries


@inner
def flush_single_slots(n: Any, unit: Any, ceiling: Any, b: Any) -> None:
    """Add the flushes of calls of one slot each to flushed[STAYS] and flushed[FREED]."""
    pages, calls, low, high = b.numbers[PAGES], b.numbers[CALLS], b.numbers[LOW], b.numbers[HIGH]
    full, ranged, full_freed, ranged_freed = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    u, c, zero, one = np.uint32(unit), np.uint32(ceiling), np.uint32(0), np.uint32(1)
    for i in range(n):
        zaps = (pages[i] != 0) & (calls[i] != 0)
        end = np.uint32((np.uint32(high[i]) + one) * u)  # in pages of the slot; its first page goes with the table
        span = np.uint32(end - np.uint32(low[i]) * u)
        full = np.uint32(full + (zaps & (span > c)))
        ranged = np.uint32(ranged + (span if zaps & (span <= c) else zero))
        full_freed = np.uint32(full_freed + (zaps & (end > c)))
        ranged_freed = np.uint32(ranged_freed + (end if zaps & (end <= c) else zero))
    kept, freed = b.flushed[STAYS], b.flushed[FREED]
    kept.flushes += b.sums[0].emptied
    kept.tlb_flushes_full += np.int64(full)
    kept.tlb_invlpgs += np.int64(ranged)
    freed.flushes += b.sums[0].emptied
    freed.tlb_flushes_full += np.int64(full_freed)
    freed.tlb_invlpgs += np.int64(ranged_freed)


@inner
def gather_calls(
    n: Any, block: Any, r: Any, first: Any, count: Any, par: Any, cdfs: Any, streams: Any, s: Any, unit: Any,
    places: Any, rules: Any, counters: Any, frees: Any,
) -> Any:  # fmt: skip
    """Calls of several slots: their gathers, visit by visit. Returns the number of visits with a force break.

    These visits are judged here. frees: the rules under which a table exists wherever there is a page, a bit each
    """
    b = s.block
    pages, low, high, has_bits = b.numbers[PAGES], b.numbers[LOW], b.numbers[HIGH], b.numbers[HAS_BITS]
    entries, ceiling, table_batch = par.entries, par.ceiling, par.table_batch
    slots, shift = par.zap // entries, par.shift // entries
    capacity = page_capacity(par)
    cleared, visit, gathers = b.cleared[0], b.visit[0], s.gathers[r]
    broken = np.int64(0)
    for c in range(count):
        if b.made[c] == 0:
            continue
        start, stop = shift + (first + c) * slots - block, shift + (first + c + 1) * slots - block
        if start >= 0:
            open_gathers(gathers)
            s.page_batches[r] = 0
        for i in range(max(start, 0), min(stop, n)):
            if pages[i] == 0:
                continue
            table = block + i
            cleared.count, cleared.first, cleared.last = pages[i], low[i] * unit, (high[i] + 1) * unit - 1
            cleared.broke, cleared.first_after, cleared.last_after = -1, -1, -1
            s.page_batches[r] += pages[i]
            broke = NO_BREAK
            if s.page_batches[r] >= capacity:
                s.page_batches[r] -= capacity
                row = b.bits[TABLES + i]
                if has_bits[i] == 0:
                    row[:] = ZERO
                    place_extents(row, b.bits[SEEN], table, places, pages[i] // unit, unit, cdfs, par.spans, streams)
                cleared.broke = nth_set(row, 0, entries, cleared.count - s.page_batches[r])
                _, cleared.first_after, cleared.last_after = count_and_ends(row, cleared.broke + 1, entries)
                broke = MID_BREAK if cleared.broke + 1 < entries else END_BREAK
            for verdict in range(VERDICTS):
                gather_visit(
                    gathers[verdict], b.flushed[verdict], cleared, table * entries, verdict, entries, ceiling,
                    table_batch,
                )  # fmt: skip
            tried, fast = s.verdicts[rules.size], s.verdicts[rules.size + 1]
            if broke != NO_BREAK:
                broken += 1
                tried, fast = 0, 0
                describe_whole(visit, entries, broke, cleared.broke + 1)
                for p in range(rules.size):
                    if (frees >> p) & 1:
                        own = counters[p]
                        trylocks, fast_paths = own.pmd_trylocks, own.fast_paths
                        judge(rules[p], visit, own, 1)
                        tried |= np.int64(own.pmd_trylocks > trylocks) << p
                        fast |= np.int64(own.fast_paths > fast_paths) << p
            if par.threads > 1:
                step = step_of(first + c, i - start, r, par, streams, s.lock_step)
                if tried:
                    note_trylocks(s.lock_step, 0, r, step, table, tried, fast & tried)
        if stop <= n or block + n == par.end_table:
            close_gathers(gathers, b.flushed, entries, ceiling)
    return broken


@inner
def note_single_slots(n: Any, block: Any, r: Any, first: Any, par: Any, streams: Any, s: Any, rules: Any) -> None:
    """Note the trylocks of calls of one slot each."""
    pages, calls = s.block.numbers[PAGES], s.block.numbers[CALLS]
    tried, fast = s.verdicts[rules.size], s.verdicts[rules.size + 1]
    begin = max(par.shift // par.entries - block, 0)
    for i in range(begin, n):
        if tried and pages[i] and calls[i]:
            step = step_of(first + i - begin, 0, r, par, streams, s.lock_step)
            note_trylocks(s.lock_step, 0, r, step, block + i, tried, fast)


@inner
def step_of(call: Any, slot: Any, r: Any, par: Any, streams: Any, lock_step: Any) -> Any:
    """The step at which a thread visits slot number `slot` of its call."""
    if par.random:
        k = call_key(streams[OF_CALL], streams[OF_CALL_LOW], call)
        return scale(k, calls_per_thread(par)) * (par.zap // par.entries + 1) + slot
    at = pace_index(par, r, call)
    lock_step.pace[0, at] += 1
    return lock_step.pace[0, at] - 1


@inner
def clear_called(
    n: Any, block: Any, is_last: Any, par: Any, cdfs: Any, streams: Any, b: Any, unit: Any, places: Any
) -> None:
    """Clear the tables whose calls are made; draw the entries of the others that a later round will need."""
    pages, calls, has_bits, drawn = b.numbers[PAGES], b.numbers[CALLS], b.numbers[HAS_BITS], b.numbers[DRAWN]
    if b.sums[0].left == 0:
        for i in range(n):
            pages[i] = 0
            has_bits[i] = 0
        return
    draws = places > 1 and par.install == MAYBE and not is_last
    for i in range(n):
        if calls[i]:
            pages[i] = 0
            has_bits[i] = 0
        elif draws and pages[i] and not has_bits[i]:
            row = b.bits[TABLES + i]
            row[:] = ZERO
            place_extents(row, b.bits[SEEN], block + i, places, np.int64(drawn[i]), unit, cdfs, par.spans, streams)
            has_bits[i] = 1


@kernel
def walk_slots(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_contents: Any, all_totals: Any,
) -> None:  # fmt: skip
    """Compute the points in `rows`, which fit this pass. Arguments: those of engine.passes.walk.walk."""
    if rows.size == 0:
        return
    b = s.block
    frees, scanning = judge_whole(s, rules, pars[groups[rows[0]]].entries), scanning_rules(rules)
    for point in rows:
        par, lim, seed = pars[groups[point]], lims[groups[point]], seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        pages_of = all_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, contents, totals = all_counters[point], all_contents[point], all_totals[point]
        content, sums = contents[ZAP], b.sums[0]
        entries, rounds = par.entries, par.rounds
        slots = par.zap // entries
        unit = par.cluster if par.places > 0 else entries
        places = par.places if par.places > 0 else np.int64(1)
        size = min(par.pmd_span, BLOCK_TABLES)
        fill_streams(seed, rounds, b.streams)
        start_point(b, rules, rounds)
        enter_tables(b.levels, b.level_rounds, rounds)
        if par.threads > 1:
            s.lock_step.pace[:] = 0
        unbroken = np.int64(0)  # visits without a break that empty a table

        for block in range(par.first_table, par.end_table, size):
            n = min(size, par.end_table - block)
            start_block(b, n, rules)
            for r in range(rounds):
                streams = b.streams[r]
                draw_block(n, block, par, lim, cdfs, streams, b, True)
                content.installed += install(n, block, par, cdfs, streams, b, unit, places)
                first_call, call_count = draw_calls(n, block, par, lim, streams, b)
                pages, zapped, made = count_tables(n, b)
                content.zapped += zapped
                for kind in range(2):
                    pages_of[r, PEAK, kind] += pages
                    pages_of[r, END, kind] += pages - zapped
                if sums.has > 0:
                    need_upper_tables(b.levels, r)
                    b.level_rounds[0, r].touched, b.level_rounds[1, r].touched = 1, 1
                if made < n:
                    b.level_rounds[0, r].mapped, b.level_rounds[1, r].mapped = 1, 1
                broken = np.int64(0)
                if slots == 1:
                    totals.calls += made
                    flush_single_slots(n, unit, par.ceiling, b)
                    if par.threads > 1:
                        note_single_slots(n, block, r, first_call, par, streams, s, rules)
                else:
                    for c in range(call_count):
                        starts = par.shift + (first_call + c) * par.zap >= block * entries
                        totals.calls += b.made[c] != 0 and starts
                    broken = gather_calls(
                        n, block, r, first_call, call_count, par, cdfs, streams, s, unit, places, rules, counters, frees
                    )
                    content.breaks += broken
                unbroken += sums.emptied - broken
                if scanning:
                    count_reads(n, b, entries, unit)
                count_policies(n, block, r, par, unit, b, rules, frees, counters, tables[r])
                clear_called(n, block, r + 1 == rounds, par, cdfs, streams, b, unit, places)
            if sums.left > 0:
                content.needed_pte += sums.left
                b.levels[0].needed, b.levels[1].needed = 1, 1
            if leave_tables(block + n, par, b.levels, b.level_rounds, upper, contents, rounds):
                if scanning:
                    flush_scans(b.scans, counters, rounds, par)
                if par.threads > 1:
                    settle_rounds(s.lock_step, rounds, seed, contention, entries, counters, rules)

        contents[UNMAP] = content
        describe_whole(b.visit[0], entries, NO_BREAK, 0)
        for p in range(rules.size):
            verdict = s.verdicts[p]
            if verdict != STAYS:
                judge(rules[p], b.visit[0], counters[p], unbroken)
                if slots == 1:
                    verdict = FREED  # of a call of one slot all is flushed at once
            add_flushes(counters[p], b.flushed[verdict], 1)
