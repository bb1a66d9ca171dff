"""The pass for VMAs that allow huge pages: each policy has entries of its own (docs/method.md, section 8).

slot.py says what a slot is, faults.py what an install does to it, zaps_and_splits.py what a piece of a call clears,
judge.py what each policy does then. Two short cuts: slots that only calls over the whole slot meet
(whole_slots.py), and calls inside one slot, all at once (small_calls.py).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.huge_pages.faults import drawn_extents, fault_in, is_counted
from engine.huge_pages.judge import judge_piece
from engine.huge_pages.slot import (
    BACK,
    BEFORE,
    BEFORE_UNMAP,
    BIT_ROWS,
    DIRTY,
    DRAWN,
    HUGE,
    MARKER,
    NONE,
    NOW,
    PRESENT,
    PRESENT_UNMAP,
    SEEN,
    TABLE,
    count_of,
    follow,
    has_any,
    note_memory,
    part_unequal_fills,
)
from engine.huge_pages.small_calls import PARTS, clear_calls, clear_parts, judge_parts
from engine.huge_pages.whole_slots import WHOLE, add_whole_slots, enter_whole_slots, pass_whole_slot
from engine.huge_pages.zaps_and_splits import PIECE, VISITED, clear_piece
from engine.numeric.bit_ops import ONES, ZERO, clear_range, count_and_ends, fill_range, word_mask
from engine.numeric.jit import kernel
from engine.random.binomial import ALWAYS, NEVER
from engine.random.splitmix import OF_PLACE, REFAULT, STREAMS, fill_pins, fill_streams, key, scale
from engine.reclaim.calls import calls_made
from engine.reclaim.contention import LockStep, calls_per_thread, lock_step_for, settle_rounds
from engine.reclaim.gather import close_gathers, flush_scans, gather_scanned, open_gathers
from engine.reclaim.records import CLEARED, END, GATHER, PAGE_BATCHES, PEAK, SCAN, UNMAP, VISIT, ZAP
from engine.reclaim.residency import clear_beyond, install_table, place_extents, resident_extents, touch_again
from engine.reclaim.rules import AFTER_CALL, AFTER_ROUND, AT_VISIT, BY_HOLD, READ_OUTSIDE, READ_REST, count_scan
from engine.reclaim.upper_tables import LEVEL, LEVEL_ROUND, LEVELS, enter_tables, leave_tables, need_upper_tables
from engine.reclaim.visits import first_entry


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    bits: Any  #: uint64[BIT_ROWS, words] of the slot at hand
    brought: Any  #: uint64[policies, words]: by lane, entries with pages of the huge page, or with its zero pages
    state: Any  #: int64[policies]
    lane: Any  #: int64[policies]: the first policy of the lane
    branch: Any  #: int64[policies]: by lane, the first policy that left it at the piece at hand, or -1
    needs: Any  #: bool[2, policies]: whether the PMD and PUD table at hand have an entry below them
    order: Any  #: int64[calls]: calls that are made, in order
    keys: Any  #: uint64[calls]: their keys
    streams: Any  #: uint64[rounds, STREAMS]: keys of the random streams
    pins: Any  #: uint64[7]: keys of the streams of pinned pages
    visits: Any  #: VISIT[policies], by lane
    cleared: Any  #: CLEARED[policies], by lane
    pieces: Any  #: PIECE[policies], by lane
    parts: Any  #: PARTS[policies], by lane
    gathers: Any  #: GATHER[rounds, 2, policies]: of at most two calls that cross a slot's border
    page_batches: Any  #: PAGE_BATCHES[rounds, 2, policies]: theirs
    side: Any  #: int64[rounds]: which of the two is open at the border
    scans: Any  #: SCAN[rounds, policies]
    whole: Any  #: WHOLE[1]
    whole_tables: Any  #: int64[rounds, 2]: slots that whole_slots.py takes with a huge page, at a round's peak and end
    levels: Any  #: LEVEL[LEVELS]
    level_rounds: Any  #: LEVEL_ROUND[LEVELS, rounds]
    lock_step: LockStep  #: one row per policy


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Scratch for the largest of these points. par: PARAMETERS[n]; rules: RULE[policies]."""
    entries, rounds, policies = int(par["entries"].max()), int(par["rounds"].max()), len(rules)
    pieces = int(np.minimum(par["entries"], -(-par["entries"] // par["zap"]) + 1).max())
    return Scratch(
        bits=np.zeros((BIT_ROWS, entries >> 6), np.uint64),
        brought=np.zeros((policies, entries >> 6), np.uint64),
        state=np.zeros(policies, np.int64),
        lane=np.zeros(policies, np.int64),
        branch=np.zeros(policies, np.int64),
        needs=np.zeros((2, policies), np.bool_),
        order=np.zeros(entries + 2, np.int64),
        keys=np.zeros(entries + 2, np.uint64),
        streams=np.zeros((rounds, STREAMS), np.uint64),
        pins=np.zeros(OF_PLACE + 1, np.uint64),
        visits=np.zeros(policies, VISIT),
        cleared=np.zeros(policies, CLEARED),
        pieces=np.zeros(policies, PIECE),
        parts=np.zeros(policies, PARTS),
        gathers=np.zeros((rounds, 2, policies), GATHER),
        page_batches=np.zeros((rounds, 2, policies), PAGE_BATCHES),
        side=np.zeros(rounds, np.int64),
        scans=np.zeros((rounds, policies), SCAN),
        whole=np.zeros(1, WHOLE),
        whole_tables=np.zeros((rounds, 2), np.int64),
        levels=np.zeros(LEVELS, LEVEL),
        level_rounds=np.zeros((LEVELS, rounds), LEVEL_ROUND),
        lock_step=lock_step_for(par, policies, pieces),
    )


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which points (PARAMETERS[n]) this pass is for: those of VMAs that allow huge pages, under any rules."""
    return np.asarray(par["thp"] != 0)


@kernel
def walk_huge(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_contents: Any, all_totals: Any,
    all_own: Any, all_own_pages: Any,
) -> None:  # fmt: skip
    """Walk tables [first_table, end_table) of the points in `rows` and add to their tallies.

    As engine.passes.walk.walk; and all_own: OWN[n, policies]; all_own_pages: int64[rounds, 2, policies].
    """
    if rows.size == 0:
        return
    reading, reads_parts, acts_on_parts = False, False, False
    first_of = (np.int64(-1), np.int64(-1))
    for p in range(rules.size):
        rule = rules[p]
        looks = rule.when == AT_VISIT or rule.when == AFTER_CALL
        reading |= looks and (rule.counts == 0 or rule.when == AFTER_CALL)
        reads_parts |= (
            looks and rule.proof == BY_HOLD and (rule.otherwise == READ_REST or rule.otherwise == READ_OUTSIDE)
        )
        asks_always = rule.counts and rule.least <= 1 and rule.when == AT_VISIT
        acts_on_parts |= looks and rule.least < pars[groups[rows[0]]].entries and not asks_always
        if rule.unmaps and first_of[UNMAP] < 0:
            first_of = (first_of[ZAP], np.int64(p))
        elif not rule.unmaps and first_of[ZAP] < 0:
            first_of = (np.int64(p), first_of[UNMAP])
    state, lane, brought = s.state, s.lane, s.brought
    least_read = np.int64(1) << 60  # the smallest piece after which a rule does more than to ask a counter
    for p in range(rules.size):
        if (rules[p].when == AT_VISIT or rules[p].when == AFTER_CALL) and not (
            rules[p].counts and rules[p].when == AT_VISIT
        ):
            least_read = min(least_read, rules[p].least)

    for point in rows:
        par = pars[groups[point]]
        lim = lims[groups[point]]
        seed = seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        own_pages = all_own_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, contents, totals = all_counters[point], all_contents[point], all_totals[point]
        own = all_own[point]
        entries, pages, rounds = par.entries, par.pages, par.rounds
        zap, shift, threads = par.zap, par.shift, par.threads
        is_free = par.free != 0
        refaults = par.refault != NEVER and not is_free

        # Where nothing is touched again, unmapping leaves the same pages as zapping.
        is_alike = not is_free and not refaults and par.pin == NEVER
        in_parts = zap < min(entries, least_read) and entries % zap == 0 and shift % zap == 0 and threads == 1
        in_parts = in_parts and is_alike
        is_simple = not is_free and not refaults and is_counted(par)

        words = entries >> 6
        used_of = (s.bits[PRESENT][:words], s.bits[PRESENT_UNMAP][:words])
        before_of = (s.bits[BEFORE][:words], s.bits[BEFORE_UNMAP][:words])
        dirty, marker, drawn = s.bits[DIRTY][:words], s.bits[MARKER][:words], s.bits[DRAWN][:words]
        seen, back, now = s.bits[SEEN][:words], s.bits[BACK][:words], s.bits[NOW][:words]
        marker[:] = ZERO
        order, keys = s.order, s.keys

        fill_streams(seed, rounds, s.streams)
        fill_pins(seed, s.pins)
        enter_tables(s.levels, s.level_rounds, rounds)
        enter_whole_slots(s, rounds)
        s.needs[:] = False
        for r in range(rounds):
            s.side[r] = 0
            for p in range(rules.size):
                s.scans[r, p].tables = 0
        if threads > 1:
            s.lock_step.pace[:] = 0
            s.lock_step.attempted[:] = 0
        hand = calls_per_thread(par)
        pieces_per_call = (zap + entries - 1) // entries + 1

        for table in range(par.first_table, par.end_table):
            base = table * entries
            valid = min(entries, pages - base)
            marked = np.int64(0)
            if par.pin != NEVER:
                marker[:] = ZERO
                if par.pin == ALWAYS:
                    fill_range(marker, 0, entries)
                else:
                    pinned = resident_extents(table, cdfs, par.pin_cdf, s.pins)
                    place_extents(marker, seen, table, entries, pinned, 1, cdfs, par.pin_spans, s.pins)
                clear_beyond(marker, valid)
                marked, _, _ = count_and_ends(marker, 0, valid)
                totals.markers += marked
            begin, end = np.int64(0), np.int64(0)  # the calls that meet this slot
            if base + valid > shift and par.calls > 0:
                begin = max(base - shift, 0) // zap
                end = (base + valid - 1 - shift) // zap + 1
            marks_unmap = marked
            first_call = shift + begin * zap
            covered = begin == end or (
                end - begin == 1 and first_call <= base and min(first_call + zap, pages) >= base + entries
            )
            only_whole = covered and valid == entries and marked == 0 and is_simple
            if only_whole and pass_whole_slot(table, begin, end, s, par, lim, cdfs, counters, totals):
                s.needs[:] = True
            for p in range(0 if only_whole else rules.size):
                lane[p] = 0 if is_alike else first_of[rules[p].unmaps]
                state[p] = NONE
                if lane[p] == p:
                    brought[p][:words] = ZERO
            for row in (PRESENT, PRESENT_UNMAP, DIRTY):
                s.bits[row][:words] = ZERO

            for r in range(0 if only_whole else rounds):
                streams = s.streams[r]
                # Install.
                marks_unmap = marked
                resident = drawn_extents(par, lim, cdfs, streams, table)
                drawn[:] = ZERO
                if resident > 0 or not is_counted(par):
                    install_table(drawn, seen, table, valid, resident, par, lim, cdfs, streams)
                for w in range(words):
                    drawn[w] &= ~marker[w]
                writes = has_any(drawn)
                fault_in(drawn, writes, marked, valid == entries, state, lane, rules, used_of, brought, own, counters)
                for w in range(words):
                    used_of[ZAP][w] |= drawn[w]
                    used_of[UNMAP][w] |= drawn[w]
                    dirty[w] |= drawn[w]
                if has_any(used_of[ZAP]) or marked > 0:
                    need_upper_tables(s.levels, r)
                if has_any(used_of[UNMAP]) or marked > 0:
                    for n in range(LEVELS):
                        s.level_rounds[n, r].touched = 1
                note_memory(
                    tables[r, PEAK], own_pages[r, PEAK], own, state, lane, rules, used_of, brought, is_free, entries,
                    PEAK, r + 1 == rounds,
                )  # fmt: skip

                # Calls, in order.
                made = calls_made(order, keys, par, lim.cover, streams, begin, end)
                is_unmapped = begin < end and made == end - begin and base >= shift
                if not is_unmapped:
                    for n in range(LEVELS):
                        s.level_rounds[n, r].mapped = 1
                side_after = s.side[r]
                if in_parts and valid % zap == 0:
                    totals.calls += made
                    for p in range(rules.size):
                        if lane[p] == p and state[p] != NONE and made > 0:
                            for w in range(words):
                                brought[p, w] = ONES if state[p] == HUGE else brought[p, w]
                                now[w] = used_of[ZAP][w] | brought[p, w]
                            clear_parts(s.parts[p], now, order, made, base, valid, par)
                            clear_calls(brought[p, :words], order, made, end - begin, base, valid, par)
                    for p in range(rules.size):
                        if state[p] != NONE and made > 0:
                            judge_parts(
                                s.parts[lane[p]], rules[p], counters[p], own[p], state, p, made, is_unmapped, par
                            )
                    clear_calls(used_of[ZAP], order, made, end - begin, base, valid, par)
                    clear_calls(used_of[UNMAP], order, made, end - begin, base, valid, par)
                    follow(lane, s.branch, state, brought)
                    made = np.int64(0)
                for x in range(made):
                    start = shift + order[x] * zap
                    stop = min(start + zap, pages)
                    a, b = max(start - base, 0), min(stop - base, valid)
                    whole = b - a == entries
                    starts, ends = start >= base, stop <= base + valid
                    crosses = not (starts and ends)
                    totals.calls += starts
                    side = s.side[r]
                    if crosses and starts:
                        side = 1 - side
                        side_after = side
                        open_gathers(s.gathers[r, side])
                        for p in range(rules.size):
                            s.page_batches[r, side, p].pages, s.page_batches[r, side, p].batch = 0, 0

                    # The pages in use that the piece clears, and which of them are touched again.
                    for kind in range(2):
                        used, before = used_of[kind], before_of[kind]
                        for w in range(words):
                            before[w] = used[w]
                        if kind == UNMAP or not is_free:
                            clear_range(used, a, b)
                    returned = np.int64(0)
                    if refaults:
                        drawn[:] = ZERO
                        for w in range(a >> 6, ((b - 1) >> 6) + 1):
                            drawn[w] = before_of[ZAP][w] & word_mask(w, a, b)
                        stream = key(seed, r, REFAULT)
                        returned = touch_again(
                            used_of[ZAP], drawn, back, a, b, base, stream, par.refault == ALWAYS, lim.refault
                        )
                    marks = np.int64(0)
                    if marked > 0:
                        marks, _, _ = count_and_ends(marker, a, b)
                        marks_unmap -= marks
                    written = is_free and has_any(dirty)
                    if crosses:
                        part_unequal_fills(s.page_batches[r, side], lane, brought)

                    step = np.int64(0)
                    if threads > 1 and par.random:
                        step = scale(keys[x], hand) * pieces_per_call + table - start // entries
                    for p in range(rules.size):
                        if state[p] == NONE:
                            continue
                        rule, batches, first = rules[p], s.page_batches[r, side, p], lane[p]
                        piece, visit, cleared = s.pieces[first], s.visits[first], s.cleared[first]
                        if first == p:
                            frees, unmaps = is_free and not rule.unmaps, rule.unmaps and not is_alike
                            clear_piece(
                                piece, visit, cleared, batches, state[p], brought[p], before_of[rule.unmaps],
                                used_of[rule.unmaps], dirty, marker, now, back, a, b, par, crosses,
                                frees, unmaps, marked, marks, returned, written,
                                reading and (whole or acts_on_parts), reads_parts,
                            )  # fmt: skip
                            visit.base, visit.unmaps = base, is_unmapped and x == made - 1
                        elif crosses and piece.what == VISITED:
                            batches.pages = s.page_batches[r, side, first].pages
                            batches.batch = s.page_batches[r, side, first].batch
                        judge_piece(
                            piece, visit, cleared, rule, state, p, own[p], counters[p], s.gathers[r, side, p],
                            batches, base, crosses, is_free, step, r, order[x], s.lock_step, par,
                        )  # fmt: skip
                    follow(lane, s.branch, state, brought)
                    if is_free:
                        clear_range(dirty, a, b)
                    if crosses and ends:
                        close_gathers(s.gathers[r, side], counters, entries, par.ceiling)
                s.side[r] = side_after

                # Scans at the round's end.
                for p in range(rules.size):
                    if rules[p].when == AFTER_ROUND and state[p] == TABLE and (r + 1) % rules[p].every == 0:
                        for w in range(words):
                            now[w] = used_of[ZAP][w] | brought[lane[p], w]
                        at = first_entry(now, marker, 0, entries)
                        count_scan(rules[p], counters[p], 1, at < 0, entries if at < 0 else at + 1)
                        if at < 0:
                            state[p] = NONE
                            gather_scanned(s.scans[r, p], counters[p], base, entries, par.ceiling, par.table_batch)
                follow(lane, s.branch, state, brought)
                note_memory(
                    tables[r, END], own_pages[r, END], own, state, lane, rules, used_of, brought, is_free, entries,
                    END, r + 1 == rounds,
                )  # fmt: skip

            for p in range(0 if only_whole else rules.size):
                marks = marks_unmap if rules[p].unmaps else marked
                if state[p] == HUGE or marks > 0 or count_of(used_of[rules[p].unmaps], brought[lane[p]]) > 0:
                    own[p].needed_pte += state[p] != NONE
                    s.needs[0, p] |= state[p] != NONE
                    s.needs[1, p] |= state[p] != NONE

            done = table + 1
            if leave_tables(done, par, s.levels, s.level_rounds, upper, contents, rounds):
                for p in range(rules.size):
                    own[p].needed_pmd += s.needs[0, p]
                    s.needs[0, p] = False
                    if par.pud_span > 0 and (done % par.pud_span == 0 or done == par.end_table):
                        own[p].needed_pud += s.needs[1, p]
                        s.needs[1, p] = False
                flush_scans(s.scans, counters, rounds, par)
                if threads > 1:
                    settle_rounds(s.lock_step, rounds, seed, contention, entries, counters, rules)
        add_whole_slots(s, par, counters, own, tables, own_pages)
