"""The pass for VMAs that allow huge pages: as walk.py, but each policy has entries of its own (docs/method.md, 8).

The pages that the scenario wrote (`used`) are the same under all policies that zap. A policy adds to them those that a
huge page brought along. Policies whose slot is in the same state form a lane: what a piece does to the slot is
worked out once for the lane, by its first policy, and each policy of the lane judges it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import (
    ONE,
    ONES,
    ZERO,
    clear_range,
    count_and_ends,
    fill_range,
    nth_set,
    popcount,
    word_mask,
)
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import OF_EXTENT, OF_PLACE, REFAULT, STREAMS, draw, fill_pins, fill_streams, key, scale
from engine.reclaim.contention import (
    LockStep,
    calls_per_thread,
    lock_step_for,
    note_trylocks,
    pace_index,
    settle_rounds,
)
from engine.reclaim.gather import (
    MMU_GATHER_BUNDLE,
    close_gathers,
    flush,
    flush_gather,
    flush_one_visit,
    flush_scans,
    gather_scanned,
    gather_visit,
    open_gathers,
)
from engine.reclaim.records import CLEARED, END, GATHER, PAGE_BATCHES, PEAK, SCAN, UNMAP, VISIT, ZAP, record
from engine.reclaim.residency import clear_beyond, install_table, place_extents, resident_extents
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
    lock_pmd,
)
from engine.reclaim.upper_tables import LEVEL, LEVEL_ROUND, LEVELS, enter_tables, leave_tables, need_upper_tables
from engine.reclaim.walk import calls_made, describe_leftovers, first_entry, touch_again

VISITED, LEFT, CLEANED, CLEARED_HUGE = range(4)
"""What a piece of a call did: it met a table; a huge page that it left alone, made clean (MADV_FREE) or cleared."""
PARTS = record(
    "full", "single", "flushes", "zapped", "emptied", "emptied_first", "emptied_last", "count", "first", "last"
)
"""What calls inside one slot clear under a lane, as if its table stayed: full flushes and single translations of all
flushes; entries cleared; which call emptied the table, or -1, and the outermost entries that it cleared; and how many
entries the last call cleared, and the outermost."""
PIECE = record("what", "splits", "zapped")
"""What a piece did to the slot of a lane; splits: it split a huge page first; zapped: cleared entries of the table."""
NONE, TABLE, HUGE = range(3)
"""State of a slot: no table, a table, or a huge page and a table that waits for a split."""
PRESENT, PRESENT_UNMAP, BEFORE, BEFORE_UNMAP, DIRTY, MARKER, DRAWN, SEEN, BACK, NOW, BIT_ROWS = range(11)
"""Rows of a slot's bit masks. Pages in use under zapping policies and where ranges are unmapped, each now and before
the piece at hand; written since MADV_FREE; guard marker; scratch."""


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
        levels=np.zeros(LEVELS, LEVEL),
        level_rounds=np.zeros((LEVELS, rounds), LEVEL_ROUND),
        lock_step=lock_step_for(par, policies, pieces),
    )


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which points (PARAMETERS[n]) this pass is for: those of VMAs that allow huge pages, under any rules."""
    return np.asarray(par["thp"] != 0)


@inner
def count_of(words: Any, more: Any) -> Any:
    """How many entries are in either set."""
    total = np.int64(0)
    for w in range(words.size):
        total += popcount(words[w] | more[w])
    return total


@inner
def has_any(words: Any) -> Any:
    """Whether the set has an entry."""
    union = ZERO
    for w in range(words.size):
        union |= words[w]
    return union != ZERO


@inner
def add_singles(batches: Any, count: Any, words: Any, a: Any, b: Any, par: Any) -> Any:
    """Put `count` single pages, the entries of `words` in [a, b), into a gather; the entry of the force break or -1."""
    broke, done = np.int64(-1), np.int64(0)
    while done < count:
        space = (MMU_GATHER_BUNDLE if batches.batch == 0 else par.batch_pages) - 1 - batches.pages
        if count - done < space:
            batches.pages += count - done
            break
        done += space
        batches.pages = 0
        batches.batch += 1
        if batches.batch > par.batches:
            batches.batch = 0
            broke = nth_set(words, a, b, done)
    return broke


@inner
def add_runs(batches: Any, words: Any, of_huge: Any, a: Any, b: Any, par: Any) -> Any:
    """As add_singles, with pages of a huge page (`of_huge`, a subset of `words`) and folios: runs take two entries."""
    broke, e = np.int64(-1), a
    while e < b:
        bit = ONE << np.uint64(e & 63)
        if words[e >> 6] & bit == ZERO:
            e += 1
            continue
        is_huge = of_huge[e >> 6] & bit != ZERO
        stop, last = b if is_huge else min(b, (e // par.folio + 1) * par.folio), e
        while last + 1 < stop:
            bit = ONE << np.uint64((last + 1) & 63)
            if words[(last + 1) >> 6] & bit == ZERO or (of_huge[(last + 1) >> 6] & bit != ZERO) != is_huge:
                break
            last += 1
        batches.pages += 1 if last == e else 2
        if batches.pages >= (MMU_GATHER_BUNDLE if batches.batch == 0 else par.batch_pages) - 1:
            batches.pages = 0
            batches.batch += 1
            if batches.batch > par.batches:
                batches.batch, broke = 0, last
        e = last + 1
    return broke


@inner
def flush_split(counters: Any, par: Any) -> None:
    """The flush of a huge entry that is split or made clean: its own, before that of the call (flush_pmd_tlb_range)."""
    flush(counters, np.int64(0), par.entries, par.huge_unit, par.ceiling)


@inner
def cover_huge(gather: Any, batches: Any, counters: Any, base: Any, is_zapped: Any, par: Any) -> None:
    """Add a huge entry to the gather of a call that has several pieces; a full gather is flushed (zap_huge_pmd)."""
    gather.first, gather.end = min(gather.first, base), max(gather.end, base + par.entries)
    if is_zapped:
        batches.pages += 1
        if batches.pages >= (MMU_GATHER_BUNDLE if batches.batch == 0 else par.batch_pages) - 1:
            batches.pages = 0
            batches.batch += 1
            if batches.batch > par.batches:
                batches.batch = 0
                flush_gather(gather, counters, par.entries, par.ceiling)


@inner
def follow(lane: Any, branch: Any, state: Any, brought: Any) -> None:
    """After a piece: policies whose slot is in another state than that of their lane's first form a lane of their own.

    Only a table that is freed sets policies of a lane apart. It was empty, so no entry of `brought` is left.
    """
    branch[:] = -1
    for p in range(lane.size):
        first = lane[p]
        if first == p or state[p] == state[first]:
            continue
        if branch[first] < 0:
            branch[first] = p
            brought[p] = ZERO
        lane[p] = branch[first]


@inner
def part_unequal_fills(page_batches: Any, lane: Any, brought: Any) -> None:
    """Before a piece of a call: policies whose gather is not as full as that of their lane's first leave the lane.

    A gather may have been filled differently in slots before this one. page_batches: PAGE_BATCHES[policies].
    """
    for p in range(lane.size):
        first = lane[p]
        if first == p:
            continue
        if page_batches[p].pages != page_batches[first].pages or page_batches[p].batch != page_batches[first].batch:
            lane[p] = p
            for w in range(brought.shape[1]):
                brought[p, w] = brought[first, w]


@inner
def clear_piece(
    piece: Any, visit: Any, cleared: Any, batches: Any, state: Any, brought: Any, before: Any, used: Any, dirty: Any,
    marker: Any, now: Any, back: Any, a: Any, b: Any, par: Any, crosses: Any, frees: Any, unmaps: Any, marked: Any,
    marks: Any, returned: Any, written: Any, reads: Any, reads_parts: Any,
) -> None:  # fmt: skip
    """What entries [a, b) of a slot become under the policies of a lane: fills piece, visit and cleared.

    piece, visit, cleared: records PIECE, VISIT and CLEARED; batches: PAGE_BATCHES of the call, if it crosses slots;
    brought: of the lane; before, used: pages in use before and after the piece; dirty, marker: as in Scratch.bits; now:
    scratch; back: pages touched again, `returned` of them; frees: MADV_FREE, with `written` if the slot was written
    since; marked, marks: markers in the slot and in the piece; reads, reads_parts: whether a rule reads entries
    """
    entries = par.entries
    visit.pages, visit.whole, visit.markers = b - a, b - a == entries, marks
    visit.refaulted, visit.refaulted_early = 0 if unmaps else returned, -1
    piece.what, piece.splits, piece.zapped = VISITED, 0, 0
    if state == HUGE:
        if visit.whole:
            piece.what = CLEARED_HUGE
            if frees:
                piece.what = CLEANED if written else LEFT
            return
        piece.splits = 1
        for w in range(before.size):
            brought[w] = ~before[w] if frees else ONES
    cleared.broke, cleared.first_after, cleared.last_after = -1, -1, -1
    visit.broke, visit.after_break = NO_BREAK, 0
    if frees:
        cleared.count, cleared.first, cleared.last = count_and_ends(dirty, a, b)
        return
    for w in range(before.size):
        now[w] = before[w] | brought[w]
    cleared.count, cleared.first, cleared.last = count_and_ends(now, a, b)
    if cleared.count > 0:
        if crosses:
            of_huge, _, _ = count_and_ends(brought, a, b)
            if par.folio == 1 and of_huge == 0:
                cleared.broke = add_singles(batches, cleared.count, now, a, b, par)
            else:
                cleared.broke = add_runs(batches, now, brought, a, b, par)
        if cleared.broke >= 0:
            visit.broke = MID_BREAK if cleared.broke + 1 < b else END_BREAK
            after, cleared.first_after, cleared.last_after = count_and_ends(now, cleared.broke + 1, b)
            visit.after_break = after > 0
            if visit.broke == MID_BREAK and visit.refaulted > 0:
                _, visit.refaulted_early, _ = count_and_ends(back, a, cleared.broke + 1)
    piece.zapped = cleared.count + (marks if unmaps else 0)
    visit.others = count_of(now, now) - cleared.count + marked
    clear_range(brought, a, b)
    if reads and not unmaps:
        for w in range(before.size):
            now[w] = used[w] | brought[w]
        describe_leftovers(visit, now, marker, a, b, cleared.broke, entries, reads_parts)


@inner
def clear_parts(part: Any, words: Any, order: Any, made: Any, base: Any, valid: Any, par: Any) -> None:
    """Add up what calls inside one slot clear of a lane's entries `words`, and their flushes if the table stays.

    part: record PARTS, filled; order: the calls, `made` of them
    """
    part.full, part.single, part.flushes, part.zapped, part.emptied = 0, 0, 0, 0, -1
    left = count_of(words, words)
    for x in range(made):
        a = par.shift + order[x] * par.zap - base
        b = min(a + par.zap, valid)
        if par.zap == 1:
            part.count = np.int64(words[a >> 6] >> np.uint64(a & 63) & ONE)
            part.first, part.last = a, a
        else:
            part.count, part.first, part.last = count_and_ends(words, a, b)
        if part.count == 0:
            continue
        pages = part.last + 1 - part.first
        part.flushes += 1
        if pages > par.ceiling:
            part.full += 1
        else:
            part.single += pages
        part.zapped += part.count
        if part.zapped == left:
            part.emptied, part.emptied_first, part.emptied_last = x, part.first, part.last


@inner
def clear_calls(words: Any, order: Any, made: Any, calls: Any, base: Any, valid: Any, par: Any) -> None:
    """Clear the entries of calls inside one slot: `made` of the `calls` that meet it. Writes `words`."""
    if made == calls:
        clear_range(words, max(par.shift - base, 0), valid)
        return
    for x in range(made):
        a = par.shift + order[x] * par.zap - base
        clear_range(words, a, min(a + par.zap, valid))


@inner
def judge_parts(
    part: Any, rule: Any, counter: Any, mine: Any, state: Any, p: Any, made: Any, is_unmapped: Any, par: Any
) -> None:
    """What policy p does at the calls of clear_parts, and its flushes. state: of each policy, written.

    At pieces so small only a counter notices an empty table; where ranges are unmapped the last call frees the table.
    """
    if state[p] == HUGE:
        mine.splits += 1
        flush_split(counter, par)
        state[p] = TABLE
    mine.zapped += part.zapped
    counter.flushes += part.flushes
    counter.tlb_flushes_full += part.full
    counter.tlb_invlpgs += part.single
    visits, first, last, had_entries = made, np.int64(-1), np.int64(-1), False
    if rule.unmaps and is_unmapped:
        had_entries, first, last = part.count > 0, part.first, part.last
    elif rule.when == AT_VISIT and rule.counts and par.zap >= rule.least and part.emptied >= 0:
        visits, had_entries, first, last = part.emptied + 1, True, part.emptied_first, part.emptied_last
        lock_pmd(rule, counter, 1)
    else:
        counter.table_visits += visits
        return
    counter.table_visits += visits
    counter.pte_tables_freed += 1
    state[p] = NONE
    # The freed table joins the flush of the call that freed it, by the first page of its slot.
    if not had_entries:
        flush(counter, np.int64(0), np.int64(1), par.entries, par.ceiling)
    elif first > 0:
        pages = last + 1 - first
        counter.flushes -= 1
        if pages > par.ceiling:
            counter.tlb_flushes_full -= 1
        else:
            counter.tlb_invlpgs -= pages
        flush(counter, np.int64(0), last + 1, 1, par.ceiling)


@inner
def note_memory(
    tables: Any, pages: Any, own: Any, state: Any, lane: Any, rules: Any, used_of: Any, brought: Any, is_free: Any,
    entries: Any, moment: Any, is_last: Any,
) -> None:  # fmt: skip
    """Add the slot to what each policy has at a round's peak or end: tables and resident pages, int64[policies].

    In the last round also huge pages.
    """
    for p in range(rules.size):
        if state[p] == NONE:
            continue
        tables[p] += 1
        if state[p] == HUGE:
            pages[p] += entries
            if is_last and moment == PEAK:
                own[p].huge_peak += 1
            elif is_last:
                own[p].huge_end += 1
        else:
            used = used_of[rules[p].unmaps]
            more = used if is_free and not rules[p].unmaps else brought[lane[p]]  # zero pages hold no memory
            pages[p] += count_of(used, more)


@kernel
def walk_huge(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_contents: Any, all_totals: Any,
    all_own: Any, all_own_pages: Any,
) -> None:  # fmt: skip
    """Walk tables [first_table, end_table) of the points in `rows` and add to their tallies.

    As engine.reclaim.walk.walk; and all_own: OWN[n, policies]; all_own_pages: int64[rounds, 2, policies].
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
        wide = par.places == 0 and par.cluster % entries == 0 and par.install == MAYBE

        # Where nothing is touched again, unmapping leaves the same pages as zapping.
        is_alike = not is_free and not refaults and par.pin == NEVER
        in_parts = zap < min(entries, least_read) and entries % zap == 0 and shift % zap == 0 and threads == 1
        in_parts = in_parts and is_alike

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
            used_of[ZAP][:] = ZERO
            used_of[UNMAP][:] = ZERO
            dirty[:] = ZERO
            for p in range(rules.size):
                lane[p] = 0 if is_alike else first_of[rules[p].unmaps]
                state[p] = NONE
                if lane[p] == p:
                    brought[p][:words] = ZERO

            begin, end = np.int64(0), np.int64(0)  # the calls that meet this slot
            if base + valid > shift and par.calls > 0:
                begin = max(base - shift, 0) // zap
                end = (base + valid - 1 - shift) // zap + 1
            marks_unmap = marked
            first_call = shift + begin * zap
            covered = begin == end or (
                end - begin == 1 and first_call <= base and min(first_call + zap, pages) >= base + entries
            )
            only_whole = covered and valid == entries and marked == 0 and not refaults

            for r in range(rounds):
                streams = s.streams[r]
                # Install.
                marks_unmap = marked
                resident = np.int64(0)
                if wide:
                    resident = np.int64(draw(streams[OF_EXTENT], base // par.cluster) < lim.install)
                elif par.install == ALWAYS:
                    resident = np.int64(1) if par.places == 0 else par.places
                elif par.install == MAYBE and par.places > 0:
                    resident = resident_extents(table, cdfs, par.cdf, streams)
                drawn[:] = ZERO
                if only_whole and (par.places > 0 or wide or par.install != MAYBE):
                    drawn[0] = np.uint64(resident > 0)  # one page stands for all: a huge page is all that can come
                elif resident > 0 or (par.install == MAYBE and par.places == 0 and not wide):
                    install_table(drawn, seen, table, valid, resident, par, lim, cdfs, streams)
                for w in range(words):
                    drawn[w] &= ~marker[w]
                writes = has_any(drawn)
                for p in range(rules.size):
                    mine = own[p]
                    if state[p] == NONE and (marked > 0 or writes):
                        counters[p].pte_tables_allocated += 1
                        state[p] = TABLE
                        if marked == 0 and valid == entries:
                            state[p] = HUGE
                            mine.faults += 1
                    if state[p] == TABLE and writes:
                        used, more = used_of[rules[p].unmaps], brought[lane[p]]
                        for w in range(words):
                            mine.installed += popcount(drawn[w] & ~(used[w] | more[w]))
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
                            used_of[ZAP], drawn, back, base, stream, par.refault == ALWAYS, lim.refault
                        )
                    marks = np.int64(0)
                    if marked > 0:
                        marks, _, _ = count_and_ends(marker, a, b)
                        marks_unmap -= marks
                    written = is_free and has_any(dirty)
                    if crosses:
                        part_unequal_fills(s.page_batches[r, side], lane, brought)

                    for p in range(rules.size):
                        if state[p] == NONE:
                            continue
                        rule, mine, counter = rules[p], own[p], counters[p]
                        batches, gather, first = s.page_batches[r, side, p], s.gathers[r, side, p], lane[p]
                        piece, visit, cleared = s.pieces[first], s.visits[first], s.cleared[first]
                        if first == p:
                            frees, unmaps = is_free and not rule.unmaps, rule.unmaps and not is_alike
                            clear_piece(
                                piece, visit, cleared, batches, state[p], brought[p], before_of[rule.unmaps],
                                used_of[rule.unmaps], dirty, marker, now, back, a, b, par, crosses,
                                frees, unmaps, marked, marks, returned, written,
                                reading and (whole or acts_on_parts), reads_parts,
                            )  # fmt: skip
                        if piece.splits:
                            mine.splits += 1
                            flush_split(counter, par)
                            state[p] = TABLE
                        if piece.what == LEFT:
                            continue
                        if piece.what != VISITED:
                            if piece.what == CLEANED:
                                flush_split(counter, par)
                            else:
                                counter.pte_tables_freed += 1
                                state[p] = NONE
                                if visit.refaulted > 0:
                                    counter.pte_tables_allocated += 1
                                    mine.faults += 1
                                    state[p] = HUGE
                            if crosses:
                                cover_huge(gather, batches, counter, base, piece.what == CLEARED_HUGE, par)
                            else:
                                flush(counter, base, base + entries, entries, par.ceiling)
                            continue
                        if first != p and crosses:
                            batches.pages, batches.batch = (
                                s.page_batches[r, side, first].pages,
                                s.page_batches[r, side, first].batch,
                            )
                        mine.zapped += piece.zapped
                        mine.breaks += cleared.broke >= 0
                        counter.table_visits += 1
                        step = np.int64(0)
                        if threads > 1 and par.random:
                            step = scale(keys[x], hand) * pieces_per_call + table - start // entries
                        elif threads > 1:
                            at = pace_index(par, r, order[x])
                            step = s.lock_step.pace[p, at]
                            s.lock_step.pace[p, at] += 1
                        visit.base = base
                        visit.unmaps = is_unmapped and x == made - 1
                        verdict = STAYS
                        if rule.unmaps or not is_free:
                            trylocks, fast = counter.pmd_trylocks, counter.fast_paths
                            verdict = judge(rule, visit, counter, 1)
                            if threads > 1 and counter.pmd_trylocks > trylocks:
                                fast_bit = (counter.fast_paths > fast) << p
                                note_trylocks(s.lock_step, p, r, step, table, 1 << p, fast_bit)
                        if verdict == STAYS:
                            mine.installed += visit.refaulted
                        else:
                            counter.pte_tables_freed += 1
                            state[p] = NONE
                            if visit.refaulted > 0:
                                counter.pte_tables_allocated += 1
                                state[p] = HUGE if valid == entries else TABLE
                                mine.faults += state[p] == HUGE
                                mine.installed += 0 if state[p] == HUGE else visit.refaulted
                        if crosses:
                            gather_visit(gather, counter, cleared, base, verdict, entries, par.ceiling, par.table_batch)
                        else:
                            flush_one_visit(counter, cleared, base, verdict, entries, par.ceiling)
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

            for p in range(rules.size):
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
