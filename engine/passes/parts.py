"""The pass for calls that are aligned parts of a slot.

Pages have to be placed, but only two visits of a table can free it: the one that clears its last page, if a rule looks
at so small a piece, and the last one of a slot that is unmapped part by part. All others are counted, and where a rule
reads entries, the entries that it reads (engine.passes.part_reads).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import (
    ONE,
    ONES,
    ZERO,
    add_set,
    count_and_ends,
    fill_range,
    first_of,
    first_set,
)
from engine.numeric.jit import inlined, inner, kernel
from engine.passes.blocks import (
    BLOCK_TABLES,
    CALLS,
    DRAWN,
    EMPTIED,
    EVER,
    HIGH,
    LOW,
    PAGES,
    PLACED,
    SEEN,
    TABLES,
    UNMAP_HAS,
    Block,
    block_for,
    count_policies,
    draw_block,
    scanning_rules,
    start_block,
    start_point,
)
from engine.passes.part_masks import clear_large_parts, clear_small_parts, fill_part_masks
from engine.passes.part_order import last_call, last_nonempty, later_calls
from engine.passes.part_reads import add_reads, judge_left, reads_at_visits
from engine.passes.residency_blocks import block_calls
from engine.random.binomial import MAYBE, NEVER
from engine.random.splitmix import GOLDEN, OF_PLACE, draw, fill_streams, mix
from engine.reclaim.gather import add_flushes, flush_one_visit, flush_scans
from engine.reclaim.records import END, PEAK, UNMAP, ZAP
from engine.reclaim.residency import install_table
from engine.reclaim.rules import AFTER_CALL, AT_VISIT, FREED, NO_BREAK, STAYS, judge
from engine.reclaim.upper_tables import enter_tables, leave_tables, need_upper_tables

BLOCK_CALLS = 1 << 12
ANY, EMPTIED_KEPT, EMPTIED_FREED, LAST_KEPT, LAST_FREED, FLUSH_KINDS = range(6)
"""Flushes of all calls; of those that clear a table's last page, if the table is kept and if it is freed; of a slot's
last call likewise."""


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which points (PARAMETERS[n]) this pass can compute under these rules (RULE[policies]), as bool[n]."""
    entries, zap = par["entries"], par["zap"]
    aligned = (zap < entries) & (entries % zap == 0) & (par["shift"] % zap == 0) & (par["pages"] % entries == 0)
    plain = (par["thp"] == 0) & (par["free"] == 0) & (par["refault"] == NEVER) & (par["pin"] == NEVER)
    looks = np.isin(rules["when"], (AT_VISIT, AFTER_CALL))[None] & (rules["least"][None] <= zap[:, None])
    tries = (looks & rules["tries"].astype(bool)[None]).any(axis=1) & (par["threads"] > 1)
    return np.asarray(aligned & plain & ~tries)


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    block: Block  #: its flushed is COUNTERS[FLUSH_KINDS]
    keys: NDArray[np.uint16]  #: [entries]: upper 16 bits of call keys
    part_masks: NDArray[np.uint64]  #: [6]: for shifts inside a part


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Return the memory for the largest of these points, PARAMETERS[n], under RULE[policies]."""
    entries = int(par["entries"].max())
    calls = BLOCK_CALLS + 4 * entries
    block = block_for(par, len(rules), calls, BLOCK_TABLES, FLUSH_KINDS)
    return Scratch(block, np.zeros(entries, np.uint16), np.zeros(6, np.uint64))


@inner
def place_pages(row: Any, table: Any, places: Any, count: Any, first: Any, last: Any, bag: Any, stream: Any) -> None:
    """Set `count` of a table's pages, 0 < count < places, of which the outermost are known, in a cleared row.

    As engine.reclaim.residency.place_extents with extents of a page. bag: the table's first hash of stream PLACE.
    """
    row[first >> 6] |= ONE << np.uint64(first & 63)
    row[last >> 6] |= ONE << np.uint64(last & 63)
    between, within = last - first - 1, count - 2
    if within <= 0:
        return
    absent = within > between - within
    flip = ONES if absent else ZERO
    if absent:
        fill_range(row, first, last)
    bits = first_set(np.uint64(places))
    low, shift, fields = np.uint64(places - 1), np.uint64(bits), 64 // bits
    before, reach = np.uint64(first + 1), np.uint64(between)
    number, wanted = np.int64(1), min(within, between - within)
    while wanted > 0:
        for _ in range(fields):
            x = bag & low
            bag >>= shift
            word = np.int64(x >> np.uint64(6))
            old = row[word]
            new = ((old ^ flip) | (np.uint64(x - before < reach) << (x & np.uint64(63)))) ^ flip
            row[word] = new
            wanted -= old != new  # no branch, which nothing could predict
            if wanted == 0:
                break
        if wanted > 0:
            bag = draw(stream, table * 4096 + number)
            number += 1


@inner
def install(n: Any, block: Any, par: Any, lim: Any, cdfs: Any, streams: Any, b: Any) -> Any:
    """Draw a round's install of a block and place its pages: updates PAGES and the rows; returns pages installed."""
    drawn, low, high, pages = b.numbers[DRAWN], b.numbers[LOW], b.numbers[HIGH], b.numbers[PAGES]
    places = par.places
    single = par.install == MAYBE and par.cluster == 1 and places > 1
    draw_block(n, block, par, lim, cdfs, streams, b, single)
    bags, placed = b.hashes[3], b.bits[PLACED]
    if single:
        z, step = streams[OF_PLACE] + np.uint64(block * 4096 + 1) * GOLDEN, np.uint64(4096) * GOLDEN
        for i in range(n):
            bags[i] = mix(z + np.uint64(i) * step)
    total = np.int64(0)
    for i in range(n):
        if drawn[i] == 0:
            continue
        row, count = b.bits[TABLES + i], np.int64(drawn[i])
        added = count
        if single and count < places:
            first, last = np.int64(low[i]), np.int64(high[i])
            if pages[i] == 0:
                place_pages(row, block + i, places, count, first, last, bags[i], streams[OF_PLACE])
            else:
                placed[:] = ZERO
                place_pages(placed, block + i, places, count, first, last, bags[i], streams[OF_PLACE])
                added = add_set(row, placed)
        else:
            placed[:] = ZERO
            install_table(placed, b.bits[SEEN], block + i, par.entries, count, par, lim, cdfs, streams)
            added = add_set(row, placed)
        pages[i] += np.uint16(added)
        total += added
    return total


@inner
def describe_last_page(visit: Any, pages: Any, entries: Any) -> None:
    """Fill in the visit of a piece that clears a table's last page."""
    visit.pages, visit.whole, visit.markers, visit.broke, visit.others = pages, 0, 0, NO_BREAK, 0
    visit.after_break, visit.refaulted_early, visit.refaulted, visit.left, visit.reads = 0, -1, 0, -1, entries
    visit.reads_rest, visit.rest_empty = entries - pages, 1
    visit.reads_outside, visit.outside_empty = entries - pages, 1
    visit.entries_inside, visit.unmaps = 0, 0


@inner
def freeing_rules(rules: Any, visit: Any, spare: Any) -> Any:
    """The rules that free a table at the visit that clears its last page, a bit each."""
    frees = np.int64(0)
    for p in range(rules.size):
        frees |= np.int64(rules[p].unmaps == 0 and judge(rules[p], visit, spare, 1) != STAYS) << p
    return frees


@inner
def draw_calls(base: Any, count: Any, par: Any, lim: Any, streams: Any, b: Any) -> Any:
    """Draw which calls are made: b.made[i] is 1 if the call on part i of `count`, counted from page `base`, is made.

    Returns the call number of part 0. It is negative if that part is before the first call.
    """
    lead = min(max(par.shift - base, 0) // par.zap, count)
    for j in range(lead):
        b.made[j] = 0
    first_call = (base + lead * par.zap - par.shift) // par.zap
    if count > lead:
        block_calls(first_call, count - lead, par, lim.cover, streams, b.hashes[2], b.made[lead:count])
    return first_call - lead


@inlined
def copy_keys(first_call: Any, i: Any, parts: Any, s: Any) -> None:
    """Write the upper 16 bits of the call keys of slot number `i` of a block to s.keys[:parts], 0 if there is no call.

    first_call: number of the call of the block's first part, negative before the first call
    """
    drawn = s.block.hashes[2].view(np.uint16)  # by block_calls, from a multiple of 4 on
    at = i * parts + max(first_call, 0) % 4 + min(first_call, 0)
    for x in range(parts):
        s.keys[x] = drawn[at + x] if at + x >= 0 else np.uint16(0)


@inlined
def flush_last_page(i: Any, keys: Any, par: Any, is_random: Any, streams: Any, first_call: Any, b: Any) -> Any:
    """Count the flush of the call that clears a table's last page; returns how many calls of the slot come after it.

    The entries cleared are in row PLACED of b.bits. first_call: number of the call of the slot's first part
    """
    parts = par.entries // par.zap
    calls, gone, cleared = b.made[i * parts : (i + 1) * parts], b.bits[PLACED], b.cleared[0]
    piece = last_nonempty(gone, keys, first_set(np.uint64(par.zap)), is_random, streams, first_call)
    cleared.count, cleared.first, cleared.last = count_and_ends(gone, piece * par.zap, (piece + 1) * par.zap)
    flush_one_visit(b.flushed[EMPTIED_KEPT], cleared, 0, STAYS, par.entries, par.ceiling)
    flush_one_visit(b.flushed[EMPTIED_FREED], cleared, 0, FREED, par.entries, par.ceiling)
    return later_calls(calls, keys, parts, piece, is_random, streams, first_call)


@inlined
def flush_last_call(keys: Any, par: Any, is_random: Any, streams: Any, first_call: Any, b: Any) -> None:
    """Count the flush of the last call of a slot that is unmapped part by part. Arguments: see flush_last_page."""
    gone, cleared = b.bits[PLACED], b.cleared[0]
    piece = last_call(keys, par.entries // par.zap, is_random, streams, first_call)
    cleared.count, cleared.first, cleared.last = count_and_ends(gone, piece * par.zap, (piece + 1) * par.zap)
    flush_one_visit(b.flushed[LAST_KEPT], cleared, 0, STAYS, par.entries, par.ceiling)
    flush_one_visit(b.flushed[LAST_FREED], cleared, 0, FREED, par.entries, par.ceiling)


@inner
def zap_block(
    n: Any, first_call: Any, par: Any, streams: Any, s: Any, unmapping: Any, scanning: Any, counting: Any, reading: Any
) -> Any:
    """Make the calls of a block: clears entries, and fills CALLS, EMPTIED, LOW and the block's sums of this round.

    first_call: number of the call of the block's first part, negative before the first call
    unmapping, counting: the rules that unmap, and that free a table with its last page; reading: whether rules read
    entries at visits; scanning: the rules that scan at a round's end
    Returns (calls made, pages zapped, whether every page is unmapped).
    """
    b = s.block
    sums = b.sums[0]
    pages, ever, unmap_has = b.numbers[PAGES], b.numbers[EVER], b.numbers[UNMAP_HAS]
    calls_of, emptied, low = b.numbers[CALLS], b.numbers[EMPTIED], b.numbers[LOW]
    entries, zap, ceiling = par.entries, par.zap, par.ceiling
    parts = entries // zap
    is_small = zap <= 64 and zap <= ceiling  # no flush of a piece is a full one
    is_random = par.random != 0
    gone, total_made, zapped, sent, ranged = b.bits[PLACED], np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    has, left, new, reads, visits, visits_ever, late = (
        np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    )  # fmt: skip
    freed, all_unmapped = np.int64(0), True
    sums.unmap_new, sums.unmap_visits, sums.unmap_freed, sums.unmap_peak, sums.unmap_end = 0, 0, 0, 0, 0
    for i in range(n):
        calls = b.made[i * parts : (i + 1) * parts]
        made16 = np.uint16(0)
        for x in range(parts):
            made16 = np.uint16(made16 + calls[x])
        made, some = np.int64(made16), pages[i] != 0
        calls_of[i], emptied[i] = made16, 0
        total_made += made
        has += some
        new += some and ever[i] == 0
        ever[i] |= np.uint16(some)
        visits_ever += made if ever[i] else 0
        is_unmapped = made == parts
        all_unmapped = all_unmapped and is_unmapped
        if unmapping:
            sums.unmap_new += some and unmap_has[i] == 0
            unmap_has[i] |= np.uint16(some)
            sums.unmap_peak += unmap_has[i]
            sums.unmap_visits += made if unmap_has[i] else 0
        ends = unmapping != 0 and is_unmapped and unmap_has[i] != 0
        if some:
            visits += made
            if made:
                if is_small:
                    cleared, pieces, spans, kept = clear_small_parts(b.bits[TABLES + i], gone, calls, zap, s.part_masks)
                    sent += pieces
                    ranged += spans
                else:
                    cleared, kept = clear_large_parts(b.bits[TABLES + i], gone, calls, zap, ceiling, b.flushed[ANY])
                zapped += cleared
                pages[i] -= np.uint16(cleared)
                if is_random and (reading or (kept == ZERO and counting)):
                    copy_keys(first_call, i, parts, s)
                if reading:
                    call, keys = first_call + i * parts, s.keys[:parts]
                    add_reads(b.bits[TABLES + i], gone, calls, keys, zap, is_random, streams, call, sums)
                if kept == ZERO:
                    emptied[i] = 1
                    freed += 1
                    if counting:
                        late += flush_last_page(i, s.keys, par, is_random, streams, first_call + i * parts, b)
        elif ends:
            gone[:] = ZERO
        if ends:
            sums.unmap_freed += 1
            unmap_has[i] = 0
            if is_random:
                copy_keys(first_call, i, parts, s)
            flush_last_call(s.keys, par, is_random, streams, first_call + i * parts, b)
        sums.unmap_end += unmap_has[i]
        if pages[i]:
            left += 1
            if scanning:
                low[i] = np.uint16(first_of(b.bits[TABLES + i]))
                reads += low[i] + 1
    b.flushed[ANY].flushes += sent
    b.flushed[ANY].tlb_invlpgs += ranged
    sums.had, sums.has, sums.left, sums.emptied, sums.new = sums.left, has, left, freed, new
    sums.ever += new
    sums.reads = reads + freed * entries
    sums.visits, sums.visits_ever, sums.visits_until_empty = visits, visits_ever, visits - late
    return total_made, zapped, all_unmapped


@kernel
def walk_parts(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_contents: Any, all_totals: Any,
) -> None:  # fmt: skip
    """Compute the points in `rows`, which fit this pass. Arguments: those of engine.passes.walk.walk."""
    b = s.block
    visit, sums, scanning, unmapping = b.visit[0], b.sums[0], scanning_rules(rules), np.int64(0)
    for p in range(rules.size):
        unmapping |= np.int64(rules[p].unmaps) << p
    for point in rows:
        par, lim, seed = pars[groups[point]], lims[groups[point]], seeds[point]
        tables = all_tables[offsets[point] : offsets[point + 1]]
        pages_of = all_pages[offsets[point] : offsets[point + 1]]
        upper = all_upper[offsets[point] : offsets[point + 1]]
        counters, contents, totals = all_counters[point], all_contents[point], all_totals[point]
        content = contents[ZAP]
        entries, rounds = par.entries, par.rounds
        parts = entries // par.zap
        fill_part_masks(par.zap, s.part_masks)
        describe_last_page(visit, par.zap, entries)
        frees = freeing_rules(rules, visit, b.spare[0])
        reading = reads_at_visits(rules, par.zap, visit, b.spare[0])
        sums.visit_reads, sums.visit_reads_outside = 0, 0
        size = min(par.pmd_span, BLOCK_TABLES)
        while size > 4 and size * parts > BLOCK_CALLS:
            size >>= 1
        fill_streams(seed, rounds, b.streams)
        start_point(b, rules, rounds)
        enter_tables(b.levels, b.level_rounds, rounds)
        emptied, left = np.int64(0), np.int64(0)  # visits that clear a table's last page, and those before them

        for block in range(par.first_table, par.end_table, size):
            n = min(size, par.end_table - block)
            start_block(b, n, rules)
            for i in range(n):
                for w in range(entries >> 6):
                    b.bits[TABLES + i, w] = ZERO
            pages = np.int64(0)
            for r in range(rounds):
                streams = b.streams[r]
                installed = install(n, block, par, lim, cdfs, streams, b)
                first_call = draw_calls(block * entries, n * parts, par, lim, streams, b)
                made, zapped, all_unmapped = zap_block(
                    n, first_call, par, streams, s, unmapping, scanning, frees, reading
                )
                totals.calls += made
                content.installed += installed
                content.zapped += zapped
                pages += installed
                for kind in range(2):
                    pages_of[r, PEAK, kind] += pages
                    pages_of[r, END, kind] += pages - zapped
                pages -= zapped
                emptied += sums.emptied
                left += sums.visits_until_empty - sums.emptied
                if sums.has > 0:
                    need_upper_tables(b.levels, r)
                    b.level_rounds[0, r].touched, b.level_rounds[1, r].touched = 1, 1
                if not all_unmapped:
                    b.level_rounds[0, r].mapped, b.level_rounds[1, r].mapped = 1, 1
                count_policies(n, block, r, par, 1, b, rules, frees, counters, tables[r])
            if sums.left > 0:
                content.needed_pte += sums.left
                b.levels[0].needed, b.levels[1].needed = 1, 1
            if leave_tables(block + n, par, b.levels, b.level_rounds, upper, contents, rounds) and scanning:
                flush_scans(b.scans, counters, rounds, par)

        contents[UNMAP] = content
        for p in range(rules.size):
            add_flushes(counters[p], b.flushed[ANY], 1)
            if rules[p].unmaps:
                add_flushes(counters[p], b.flushed[LAST_FREED], 1)
                add_flushes(counters[p], b.flushed[LAST_KEPT], -1)
            elif (frees >> p) & 1:
                describe_last_page(visit, par.zap, entries)
                judge(rules[p], visit, counters[p], emptied)
                judge_left(rules[p], par.zap, left, sums, visit, counters[p], b.spare[0])
                add_flushes(counters[p], b.flushed[EMPTIED_FREED], 1)
                add_flushes(counters[p], b.flushed[EMPTIED_KEPT], -1)
