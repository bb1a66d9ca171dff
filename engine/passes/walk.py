"""The general pass: table by table, all rounds of a table at once, piece by piece in the order of the calls.

Nothing here grows with virt: what crosses tables is kept for each round (the gathers of a call that goes on, the PMD
and PUD table at hand). docs/method.md has the rules; tests/twin is the slow, readable form.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ZERO, add_set, clear_range, count_and_ends, fill_range, word_mask
from engine.numeric.jit import inlined, inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import OF_EXTENT, OF_PLACE, REFAULT, STREAMS, draw, fill_pins, fill_streams, key, scale
from engine.reclaim.calls import calls_made
from engine.reclaim.contention import LockStep, calls_per_thread, keep_pace, lock_step_for, settle_rounds
from engine.reclaim.gather import (
    add_flushes,
    flush_one_visit,
    flush_scans,
    gather_scanned,
    open_gather,
    page_capacity,
    queue_pages,
)
from engine.reclaim.records import CLEARED, COUNTERS, END, GATHER, PAGE_BATCHES, PEAK, SCAN, UNMAP, VISIT, ZAP, record
from engine.reclaim.residency import (
    clear_beyond,
    install_table,
    outermost,
    place_extents,
    resident_extents,
    touch_again,
)
from engine.reclaim.rules import END_BREAK, MID_BREAK, NO_BREAK, STAYS, count_scan
from engine.reclaim.upper_tables import LEVEL, LEVEL_ROUND, LEVELS, enter_tables, leave_tables, need_upper_tables
from engine.reclaim.visits import (
    RULE_SET,
    acting_rules,
    close_call,
    count_visits,
    describe_empty,
    describe_leftovers,
    describe_rules,
    first_entry,
    free_in_flush,
    gather_in_call,
    judge_visit,
)

PRESENT, DIRTY, MARKER, PLACED, SEEN, REFAULTED, PRESENT_UNMAP, BIT_ROWS = range(8)
"""Rows of `bits`, the entries of the table at hand. Under policies that zap: present, written since MADV_FREE, guard
marker. Scratch: the entries of one install or zap, extents, entries touched again. Last: present under munmap."""

KIND = record("is_free", "refaults", "unmap_kind", "spans_slots", "unit", "places", "is_plain")
"""What kind of point this is.

is_free: the advice is MADV_FREE; refaults: pages are touched again
unmap_kind: UNMAP if entries under policies that unmap differ from those under policies that zap, else ZAP
spans_slots: an extent is one or more slots; unit, places: pages of an extent of a slot, and how many the slot has
is_plain: the outermost pages are all that has to be known of a table that one call zaps whole
"""

TABLE = record(
    "base", "valid", "marked", "begin", "end", "covered", "exists", "visits", "resident", "resident_unmap",
    "marks_unmap", "extents", "counted",
)  # fmt: skip
"""The table at hand.

base: the first page of its slot; valid: pages of the slot inside the VMA; marked: guard markers
begin, end: the calls that meet it; covered: there is one, and it covers the slot
exists: the policies that have the table, a bit each; visits: those not yet counted, of each of these policies
resident, resident_unmap: present entries under policies that zap and that unmap; marks_unmap: markers under the latter
extents: resident extents of the last install; counted: their positions are not drawn, except for the outermost
"""


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    bits: NDArray[np.uint64]  #: [BIT_ROWS, words] of the table at hand
    order: NDArray[np.int64]  #: [calls]: calls that are made, in order
    keys: NDArray[np.uint64]  #: [calls]: their keys, if the order is random
    streams: NDArray[np.uint64]  #: [rounds, STREAMS]: keys of the random streams
    pins: NDArray[np.uint64]  #: [7]: keys of the streams of pinned pages
    kind: NDArray[np.void]  #: KIND[1]
    table: NDArray[np.void]  #: TABLE[1]
    visit: NDArray[np.void]  #: VISIT[1]
    cleared: NDArray[np.void]  #: CLEARED[2]: by policies that zap, and that unmap
    flushed: NDArray[
        np.void
    ]  #: COUNTERS[3]: flushes of policies that zap, and that unmap, if no table is freed; scratch
    shared: NDArray[
        np.void
    ]  #: GATHER[rounds, 2, 2]: of calls that cross a table's border, at most two, if none is freed
    gathers: NDArray[np.void]  #: GATHER[rounds, 2, policies]: of those that freed a table in such a call
    apart: NDArray[np.int64]  #: [rounds, 2]: which these are, a bit each
    page_batches: NDArray[
        np.void
    ]  #: PAGE_BATCHES[rounds, 2, 2]: of these calls, where policies zap and where they unmap
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
        kind=np.zeros(1, KIND),
        table=np.zeros(1, TABLE),
        visit=np.zeros(1, VISIT),
        cleared=np.zeros(2, CLEARED),
        flushed=np.zeros(3, COUNTERS),
        shared=np.zeros((rounds, 2, 2), GATHER),
        gathers=np.zeros((rounds, 2, policies), GATHER),
        apart=np.zeros((rounds, 2), np.int64),
        page_batches=np.zeros((rounds, 2, 2), PAGE_BATCHES),
        side=np.zeros(rounds, np.int64),
        scans=np.zeros((rounds, policies), SCAN),
        rule_set=np.zeros(1, RULE_SET),
        levels=np.zeros(LEVELS, LEVEL),
        level_rounds=np.zeros((LEVELS, rounds), LEVEL_ROUND),
        lock_step=lock_step_for(par, policies),
    )


@inner
def describe_point(par: Any, kind: Any) -> None:
    """Fill in a KIND."""
    kind.is_free = par.free != 0
    kind.refaults = par.refault != NEVER and par.free == 0
    kind.unmap_kind = UNMAP if kind.is_free or kind.refaults else ZAP
    kind.spans_slots = par.places == 0 and par.cluster % par.entries == 0 and par.install == MAYBE
    kind.unit = par.cluster if par.places > 0 else par.entries
    kind.places = par.places if par.places > 0 else 1
    is_drawn = par.places > 0 or kind.spans_slots != 0 or par.install != MAYBE
    kind.is_plain = kind.unmap_kind == ZAP and par.pin == NEVER and is_drawn


@inner
def enter_table(table: Any, number: Any, bits: Any, kind: Any, par: Any, cdfs: Any, pins: Any) -> None:
    """Start a table: fills TABLE, and the rows of `bits`; nothing is present, markers are those of all rounds."""
    words, entries = par.entries >> 6, par.entries
    base = number * entries
    valid = min(entries, par.pages - base)
    table.base, table.valid, table.marked = base, valid, 0
    if par.pin != NEVER:
        marker = bits[MARKER][:words]
        marker[:] = ZERO
        if par.pin == ALWAYS:
            fill_range(marker, 0, entries)
        else:
            pinned = resident_extents(number, cdfs, par.pin_cdf, pins)
            place_extents(marker, bits[SEEN][:words], number, entries, pinned, 1, cdfs, par.pin_spans, pins)
        clear_beyond(marker, valid)
        table.marked, _, _ = count_and_ends(marker, 0, valid)
    for w in range(words):
        bits[PRESENT, w] = ZERO
    if kind.unmap_kind == UNMAP:
        for w in range(words):
            bits[PRESENT_UNMAP, w] = ZERO
            bits[DIRTY, w] = ZERO
    table.exists, table.visits, table.resident, table.resident_unmap = 0, 0, 0, 0
    table.marks_unmap = table.marked
    table.begin, table.end, table.covered = 0, 0, 0
    if base + valid > par.shift and par.calls > 0:
        table.begin = max(base - par.shift, 0) // par.zap
        table.end = (base + valid - 1 - par.shift) // par.zap + 1
        start = par.shift + table.begin * par.zap
        is_whole = start <= base and min(start + par.zap, par.pages) >= base + entries
        table.covered = table.end - table.begin == 1 and is_whole


@inlined
def install(
    table: Any, number: Any, bits: Any, kind: Any, par: Any, lim: Any, cdfs: Any, streams: Any, contents: Any
) -> None:
    """The install of a round: draws its extents and, unless they are only counted, their pages."""
    words, entries = par.entries >> 6, par.entries
    extents, is_drawn = np.int64(0), par.places > 0
    if kind.spans_slots:
        extents = np.int64(draw(streams[OF_EXTENT], table.base // par.cluster) < lim.install)
    elif par.install == ALWAYS:
        extents = kind.places
    elif par.install == MAYBE and is_drawn:
        extents = resident_extents(number, cdfs, par.cdf, streams)
    table.extents = extents
    table.counted = kind.is_plain and table.resident == 0 and table.covered and table.valid == entries
    fresh, fresh_unmap = np.int64(0), np.int64(0)
    if table.counted:
        fresh = extents * kind.unit
        fresh_unmap = fresh
    elif extents > 0 or (par.install == MAYBE and not is_drawn and not kind.spans_slots):
        present, placed = bits[PRESENT][:words], bits[PLACED][:words]
        placed[:] = ZERO
        if install_table(placed, bits[SEEN][:words], number, table.valid, extents, par, lim, cdfs, streams):
            if table.marked:
                for w in range(words):
                    placed[w] &= ~bits[MARKER, w]
            fresh = add_set(present, placed)
            fresh_unmap = fresh
            if kind.unmap_kind == UNMAP:
                fresh_unmap = add_set(bits[PRESENT_UNMAP][:words], placed)
                for w in range(words):
                    bits[DIRTY, w] |= placed[w]
    table.resident += fresh
    table.resident_unmap += fresh_unmap
    contents[ZAP].installed += fresh
    contents[UNMAP].installed += fresh_unmap


@inner
def place_counted(table: Any, number: Any, bits: Any, par: Any, lim: Any, cdfs: Any, streams: Any) -> None:
    """Draw the pages of an install that was only counted."""
    words = par.entries >> 6
    install_table(
        bits[PRESENT][:words], bits[SEEN][:words], number, table.valid, table.extents, par, lim, cdfs, streams
    )


@inner
def change_tables(table: Any, exists: Any, counters: Any) -> None:
    """Let the policies in `exists` have the table from now on. Counts the visits so far, and the tables that are new.

    exists: a bit each. Writes table and counters.
    """
    new = exists & ~table.exists
    if exists == table.exists:
        return
    if table.visits:
        count_visits(counters, table.exists, table.visits)
        table.visits = 0
    if new:
        for p in range(counters.size):
            counters[p].pte_tables_allocated += (new >> p) & 1
    table.exists = exists


@inner
def count_tables(tables: Any, exists: Any) -> None:
    """Add 1 to tables, int64[policies], for each policy that has the table (a bit of `exists`)."""
    for p in range(tables.size):
        tables[p] += (exists >> p) & 1


@inlined
def find_cleared(
    table: Any, number: Any, bits: Any, kind: Any, par: Any, cdfs: Any, streams: Any, cleared: Any, a: Any, b: Any
) -> None:
    """Fill in what a call clears in [a, b), CLEARED[2], breaks aside."""
    words = par.entries >> 6
    zapped, unmapped = cleared[ZAP], cleared[UNMAP]
    zapped.broke, unmapped.broke = -1, -1
    if table.counted:
        zapped.count, zapped.first, zapped.last = table.resident, -1, -1
        if table.resident > 0:
            low, high = outermost(number, kind.places, table.extents, cdfs, par.spans, streams)
            zapped.first, zapped.last = low * kind.unit, (high + 1) * kind.unit - 1
        return
    row = DIRTY if kind.is_free else PRESENT
    zapped.count, zapped.first, zapped.last = count_and_ends(bits[row][:words], a, b)
    if kind.unmap_kind == UNMAP:
        unmapped.count, unmapped.first, unmapped.last = count_and_ends(bits[PRESENT_UNMAP][:words], a, b)


@inlined
def clear_entries(
    table: Any, bits: Any, kind: Any, par: Any, lim: Any, seed: Any, r: Any, cleared: Any, visit: Any, contents: Any,
    a: Any, b: Any,
) -> None:  # fmt: skip
    """Clear what find_cleared found, and let pages be touched again."""
    words = par.entries >> 6
    present, zapped = bits[PRESENT][:words], cleared[ZAP]
    content, content_unmap = contents[ZAP], contents[UNMAP]
    visit.refaulted, visit.refaulted_early, visit.markers = 0, -1, 0
    if kind.is_free:
        clear_range(bits[DIRTY][:words], a, b)
    elif zapped.count > 0:
        content.zapped += zapped.count
        table.resident -= zapped.count
        if kind.refaults:
            for w in range(a >> 6, ((b - 1) >> 6) + 1):
                bits[PLACED, w] = present[w] & word_mask(w, a, b)
        clear_range(present, a, b)
        if kind.refaults:
            visit.refaulted = touch_again(
                present, bits[PLACED][:words], bits[REFAULTED][:words], a, b, table.base, key(seed, r, REFAULT),
                par.refault == ALWAYS, lim.refault,
            )  # fmt: skip
            if visit.broke == MID_BREAK and visit.refaulted > 0:
                _, visit.refaulted_early, _ = count_and_ends(bits[REFAULTED][:words], a, zapped.broke + 1)
            table.resident += visit.refaulted
            content.installed += visit.refaulted
    if kind.unmap_kind == UNMAP:
        if cleared[UNMAP].count > 0:
            clear_range(bits[PRESENT_UNMAP][:words], a, b)
            table.resident_unmap -= cleared[UNMAP].count
            content_unmap.zapped += cleared[UNMAP].count
    else:
        table.resident_unmap = table.resident
        content_unmap.zapped += zapped.count
    if table.marked:
        visit.markers, _, _ = count_and_ends(bits[MARKER][:words], a, b)
        table.marks_unmap -= visit.markers
        content_unmap.zapped += visit.markers
    visit.others = table.resident + table.marked - visit.refaulted


@inner
def break_gather(
    table: Any, number: Any, bits: Any, kind: Any, par: Any, lim: Any, cdfs: Any, streams: Any, cleared: Any,
    batches: Any, visit: Any, contents: Any, a: Any, b: Any,
) -> None:  # fmt: skip
    """Put the pages that a piece clears into the page batches of its call, PAGE_BATCHES[2]; notes a force break."""
    words, zapped = par.entries >> 6, cleared[ZAP]
    if table.counted and zapped.count > 0:
        if par.folio == 1 and batches[ZAP].pages + zapped.count < page_capacity(par):
            batches[ZAP].pages += zapped.count
            return
        place_counted(table, number, bits, par, lim, cdfs, streams)
    if not kind.is_free:
        queue_pages(batches[ZAP], zapped, bits[PRESENT][:words], a, b, par)
        contents[ZAP].breaks += zapped.broke >= 0
    if kind.unmap_kind == UNMAP:
        queue_pages(batches[UNMAP], cleared[UNMAP], bits[PRESENT_UNMAP][:words], a, b, par)
    contents[UNMAP].breaks += cleared[kind.unmap_kind].broke >= 0
    if zapped.broke >= 0:
        visit.broke = MID_BREAK if zapped.broke + 1 < b else END_BREAK
        visit.after_break = zapped.first_after >= 0


@inner
def scan_table(
    exists: Any, first: Any, base: Any, r: Any, scans: Any, scanning: Any, rules: Any, counters: Any, par: Any
) -> Any:
    """Scan the table at the end of round `r`. Returns the policies of `exists` that keep the table, a bit each.

    first: the table's first entry, or -1; scans: SCAN[policies]; scanning: the rules that scan, a bit each
    """
    for p in range(rules.size):
        if (exists & scanning) >> p & 1 and (r + 1) % rules[p].every == 0:
            count_scan(rules[p], counters[p], 1, first < 0, par.entries if first < 0 else first + 1)
            if first < 0:
                exists &= ~(1 << p)
                gather_scanned(scans[p], counters[p], base, par.entries, par.ceiling, par.table_batch)
    return exists


@inner
def start_point(side: Any, scans: Any, flushed: Any, rounds: Any) -> None:
    """Forget what an earlier point left."""
    for r in range(rounds):
        side[r] = 0
        for p in range(scans.shape[1]):
            scans[r, p].tables = 0
    for n in range(2):
        flushed[n].flushes, flushed[n].tlb_flushes_full, flushed[n].tlb_invlpgs = 0, 0, 0


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
    rule_set, kind, table, visit = s.rule_set[0], s.kind[0], s.table[0], s.visit[0]
    describe_rules(rules, pars[groups[rows[0]]].entries, rule_set)
    unmapping, scanning = rule_set.unmapping, rule_set.scanning

    for point in rows:
        par, lim, seed = pars[groups[point]], lims[groups[point]], seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        pages_of = all_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, contents, totals = all_counters[point], all_contents[point], all_totals[point]
        rounds, zap, shift, threads = par.rounds, par.zap, par.shift, par.threads
        words = par.entries >> 6
        present, marker = s.bits[PRESENT][:words], s.bits[MARKER][:words]
        marker[:] = ZERO
        order, cleared = s.order, s.cleared
        describe_point(par, kind)
        unmap_kind = kind.unmap_kind
        fill_streams(seed, rounds, s.streams)
        fill_pins(seed, s.pins)
        enter_tables(s.levels, s.level_rounds, rounds)
        start_point(s.side, s.scans, s.flushed, rounds)
        if threads > 1:
            s.lock_step.pace[:] = 0
        hand = calls_per_thread(par)
        pieces_per_call = (zap + par.entries - 1) // par.entries + 1

        for number in range(par.first_table, par.end_table):
            enter_table(table, number, s.bits, kind, par, cdfs, s.pins)
            totals.markers += table.marked
            base, valid = table.base, table.valid

            for r in range(rounds):
                streams = s.streams[r]
                install(table, number, s.bits, kind, par, lim, cdfs, streams, contents)
                table.marks_unmap = table.marked
                exists = table.exists
                if table.resident + table.marked > 0:
                    need_upper_tables(s.levels, r)
                    exists |= rule_set.all & ~unmapping
                if table.resident_unmap + table.marked > 0:
                    s.level_rounds[0, r].touched, s.level_rounds[1, r].touched = 1, 1
                    exists |= unmapping
                change_tables(table, exists, counters)
                count_tables(tables[r, PEAK], exists)
                pages_of[r, PEAK, ZAP] += table.resident
                pages_of[r, PEAK, UNMAP] += table.resident_unmap

                # Calls, in order.
                made = calls_made(order, s.keys, par, lim.cover, streams, table.begin, table.end)
                is_unmapped = table.begin < table.end and made == table.end - table.begin and base >= shift
                if not is_unmapped:
                    s.level_rounds[0, r].mapped, s.level_rounds[1, r].mapped = 1, 1
                side_after = s.side[r]
                for x in range(made):
                    start = shift + order[x] * zap
                    stop = min(start + zap, par.pages)
                    a, b = max(start - base, 0), min(stop - base, valid)
                    starts, ends = start >= base, stop <= base + valid
                    crosses = not (starts and ends)
                    totals.calls += starts
                    side = s.side[r]
                    if crosses and starts:
                        side = 1 - side
                        side_after = side
                        s.apart[r, side] = 0
                        for n in range(unmap_kind + 1):
                            open_gather(s.shared[r, side, n])
                            s.page_batches[r, side, n].pages, s.page_batches[r, side, n].batch = 0, 0
                    if table.exists:
                        visit.pages, visit.whole = b - a, b - a == par.entries
                        visit.unmaps = is_unmapped and x == made - 1
                        visit.base, visit.broke, visit.after_break = base, NO_BREAK, 0
                        find_cleared(table, number, s.bits, kind, par, cdfs, streams, cleared, a, b)
                        if crosses:
                            break_gather(
                                table, number, s.bits, kind, par, lim, cdfs, streams, cleared, s.page_batches[r, side],
                                visit, contents, a, b,
                            )  # fmt: skip
                        clear_entries(table, s.bits, kind, par, lim, seed, r, cleared, visit, contents, a, b)

                        # What the rules do.
                        had = table.exists
                        table.visits += 1
                        frees = np.int64(0)
                        acting = acting_rules(rule_set, visit, kind.is_free) & had
                        if acting:
                            if acting & rule_set.reading:
                                if table.resident + table.marked == 0:
                                    describe_empty(visit, a, cleared[ZAP].broke, par.entries)
                                else:
                                    describe_leftovers(
                                        visit, present, marker, a, b, cleared[ZAP].broke, par.entries,
                                        rule_set.reading_pieces,
                                    )  # fmt: skip
                            frees = judge_visit(acting, rules, counters, visit)
                        if crosses:
                            s.apart[r, side] = gather_in_call(
                                frees, rules, counters, cleared, unmap_kind, base, par, s.shared[r, side],
                                s.gathers[r, side], s.apart[r, side], s.flushed,
                            )  # fmt: skip
                        else:
                            for n in range(unmap_kind + 1):
                                flush_one_visit(s.flushed[n], cleared[n], base, STAYS, par.entries, par.ceiling)
                            if frees:
                                free_in_flush(frees, rules, counters, cleared, unmap_kind, base, par)
                        if frees:
                            change_tables(table, had & ~frees, counters)
                            if visit.refaulted:
                                change_tables(table, table.exists | (frees & ~unmapping), counters)
                        if threads > 1:
                            if par.random:
                                visit.step = scale(s.keys[x], hand) * pieces_per_call + number - start // par.entries
                            if not acting:
                                visit.tried = 0
                            keep_pace(visit, had, r, number, order[x], par, s.lock_step)
                    if crosses and ends:
                        close_call(
                            rules, counters, unmap_kind, par, s.shared[r, side], s.gathers[r, side], s.apart[r, side],
                            s.flushed,
                        )  # fmt: skip
                s.side[r] = side_after

                if table.exists & scanning:
                    first = np.int64(-1)
                    if table.counted and table.resident > 0:
                        low, _ = outermost(number, kind.places, table.extents, cdfs, par.spans, streams)
                        first = low * kind.unit
                    elif table.resident + table.marked > 0:
                        first = first_entry(present, marker, 0, par.entries)
                    exists = scan_table(table.exists, first, base, r, s.scans[r], scanning, rules, counters, par)
                    change_tables(table, exists, counters)
                if table.counted and table.resident > 0 and r + 1 < rounds:
                    place_counted(table, number, s.bits, par, lim, cdfs, streams)
                count_tables(tables[r, END], table.exists)
                pages_of[r, END, ZAP] += table.resident
                pages_of[r, END, UNMAP] += table.resident_unmap

            if table.visits:
                count_visits(counters, table.exists, table.visits)
            if table.resident + table.marked > 0:
                contents[ZAP].needed_pte += 1
                s.levels[0].needed, s.levels[1].needed = 1, 1
            if table.resident_unmap + table.marks_unmap > 0:
                contents[UNMAP].needed_pte += 1
                s.levels[0].needed_unmap, s.levels[1].needed_unmap = 1, 1
            if leave_tables(number + 1, par, s.levels, s.level_rounds, upper, contents, rounds):
                if scanning:
                    flush_scans(s.scans, counters, rounds, par)
                if threads > 1:
                    settle_rounds(s.lock_step, rounds, seed, contention, par.entries, counters, rules)

        for p in range(rules.size):
            add_flushes(counters[p], s.flushed[rules[p].unmaps * unmap_kind], 1)
