"""The pass for calls that are aligned parts of a slot, under rules that leave a table alone after so small a piece.

Pages have to be placed, but only two visits of a table can free it: the one that clears its last page (a counter), and
the last one of a slot that is unmapped part by part. All others are counted, not judged.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ONE, ONES, ZERO, fill, first_set, last_set, popcount, survey, window
from engine.numeric.jit import inner, kernel
from engine.random.binomial import MAYBE, NEVER
from engine.random.splitmix import GOLDEN, OF_CALL, OF_CALL_LOW, OF_PLACE, STREAMS, call_key, draw, fill_streams, mix
from engine.reclaim.gather import flush, flush_one_visit, flush_scanned
from engine.reclaim.records import CLEARED, COUNTERS, SCAN, VISIT
from engine.reclaim.residency_blocks import block_calls, block_counts, block_ends
from engine.reclaim.rules import CALL, COUNT, FREE, KEEP, NO_BREAK, ROUND, count_scan, judge
from engine.reclaim.rules import VISIT as AT_VISIT
from engine.reclaim.slots import add_flushes, gather_block
from engine.reclaim.walk import END, PEAK, UNMAPPED, ZAPPED, add_pages, draw_install, upper_if_unmapped

BLOCK_CALLS = 1 << 12
FRESH, LOW, HIGH, UNSURE, PAGES, EVER, UNMAP_HAS, FREED, FIRST, NUMBERS = range(10)
"""Rows of `numbers`, one uint16 for each table: extents that an install draws; the outermost of them; scratch; pages;
whether it ever had a page, and whether it has a table where ranges are unmapped; whether a scan frees it; its first
page after the calls."""
ANY, EMPTIED_KEPT, EMPTIED_FREED, LAST_KEPT, LAST_FREED, ACCOUNTS = range(6)
"""Flushes of all calls; of those that clear a table's last page, if the table is kept and if it is freed; of a slot's
last call likewise."""


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which points (PARAMETERS[n]) this pass is for, under these rules (RULE[policies])."""
    entries, zap = par["entries"], par["zap"]
    aligned = (zap < entries) & (entries % zap == 0) & (par["shift"] % zap == 0) & (par["pages"] % entries == 0)
    plain = (par["free"] == 0) & (par["refault"] == NEVER) & (par["pin"] == NEVER)
    looks = np.isin(rules["when"], (AT_VISIT, CALL))[None] & (rules["least"][None] <= zap[:, None])
    counts = (rules["proof"] == COUNT)[None]
    tries = (looks & rules["tries"].astype(bool)[None]).any(axis=1) & (par["threads"] > 1)
    return np.asarray(aligned & plain & ~(looks & ~counts).any(axis=1) & ~tries)


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    hashes: Any  #: uint64[4, *]
    cells: Any  #: uint32[tables]
    numbers: Any  #: uint16[NUMBERS, tables]
    exists: Any  #: uint16[policies, tables]: of rules that scan every few rounds
    present: Any  #: uint64[tables, words]: entries
    drawn: Any  #: uint64[words]
    seen: Any  #: uint64[words]
    made: Any  #: uint16[*]: a flag for each call
    keys: Any  #: uint16[entries]: upper 16 bits of call keys
    part_masks: Any  #: uint64[2, 6]: for shifts inside a part
    streams: Any  #: uint64[rounds, STREAMS]: keys of the random streams
    flushed: Any  #: COUNTERS[ACCOUNTS]
    cleared: Any  #: CLEARED[1]
    visit: Any  #: VISIT[1]
    spare: Any  #: COUNTERS[1]
    scans: Any  #: SCAN[rounds, policies]
    touched: Any  #: bool[2, rounds]: the PMD and PUD table at hand, where ranges are unmapped
    mapped: Any  #: bool[2, rounds]


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Scratch for the largest of these points, whose tables are of one size: PARAMETERS[n], RULE[policies]."""
    entries, rounds, policies = int(par["entries"].max()), int(par["rounds"].max()), len(rules)
    tables, calls = 512, BLOCK_CALLS + 4 * entries
    return Scratch(
        hashes=np.zeros((4, max(calls, tables) // 4 + 4), np.uint64),
        cells=np.zeros(tables, np.uint32),
        numbers=np.zeros((NUMBERS, tables), np.uint16),
        exists=np.zeros((policies, tables), np.uint16),
        present=np.zeros((tables, entries >> 6), np.uint64),
        drawn=np.zeros(entries >> 6, np.uint64),
        seen=np.zeros(max(entries >> 6, 1), np.uint64),
        made=np.zeros(calls, np.uint16),
        keys=np.zeros(entries, np.uint16),
        part_masks=np.zeros((2, 6), np.uint64),
        streams=np.zeros((rounds, STREAMS), np.uint64),
        flushed=np.zeros(ACCOUNTS, COUNTERS),
        cleared=np.zeros(1, CLEARED),
        visit=np.zeros(1, VISIT),
        spare=np.zeros(1, COUNTERS),
        scans=np.zeros((rounds, policies), SCAN),
        touched=np.zeros((2, rounds), np.bool_),
        mapped=np.zeros((2, rounds), np.bool_),
    )


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
        fill(row, first, last)
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
def install(n: Any, block: Any, par: Any, lim: Any, cdfs: Any, streams: Any, s: Any) -> Any:
    """Draw a round's install of a block and place its pages: updates PAGES and the rows; returns pages installed."""
    size = (n + 3) & ~3
    fresh, low, high, unsure = (
        s.numbers[FRESH, :size],
        s.numbers[LOW, :size],
        s.numbers[HIGH, :size],
        s.numbers[UNSURE, :size],
    )
    pages, cells = s.numbers[PAGES], s.cells[:size]
    hashes, others = s.hashes[0, : size >> 2], s.hashes[1, : size >> 2]
    entries, places, unit = par.entries, par.places, par.cluster
    single = par.install == MAYBE and unit == 1 and places > 1
    if par.install == MAYBE and places > 0:
        block_counts(block, cdfs, par, streams, hashes, cells, fresh, unsure)
        if single:
            block_ends(block, places, fresh, cdfs, par, streams, hashes, others, cells, low, high, unsure)
            z, step = streams[OF_PLACE] + np.uint64(block * 4096 + 1) * GOLDEN, np.uint64(4096) * GOLDEN
            bags = s.hashes[3]
            for i in range(n):
                bags[i] = mix(z + np.uint64(i) * step)
    else:
        for i in range(n):
            fresh[i] = 0 if par.install == NEVER else 1 if places == 0 else places
    total = np.int64(0)
    for i in range(n):
        if fresh[i] == 0:
            continue
        row, count = s.present[i], np.int64(fresh[i])
        if single and count < places:
            first, last = np.int64(low[i]), np.int64(high[i])
            if pages[i] == 0:
                place_pages(row, block + i, places, count, first, last, s.hashes[3][i], streams[OF_PLACE])
                added = count
            else:
                s.drawn[:] = ZERO
                place_pages(s.drawn, block + i, places, count, first, last, s.hashes[3][i], streams[OF_PLACE])
                added = add_pages(row, s.drawn)
        else:
            s.drawn[:] = ZERO
            draw_install(s.drawn, s.seen, block + i, entries, count, par, lim, cdfs, streams)
            added = add_pages(row, s.drawn)
        pages[i] += np.uint16(added)
        total += added
    return total


@inner
def comes_later(streams: Any, one: Any, other: Any) -> Any:
    """Whether call `one` is after `other` in random order, by all 64 bits of their keys."""
    a = call_key(streams[OF_CALL], streams[OF_CALL_LOW], one)
    b = call_key(streams[OF_CALL], streams[OF_CALL_LOW], other)
    return a > b or (a == b and one > other)


@inner
def later_calls(made: Any, keys: Any, parts: Any, piece: Any, is_random: Any, streams: Any, first_call: Any) -> Any:
    """How many of a slot's calls come after that of `piece`. made, keys (upper 16 bits of call keys): uint16[parts]."""
    count = np.uint16(0)
    if not is_random:
        for x in range(piece + 1, parts):
            count = np.uint16(count + made[x])
        return np.int64(count)
    own, equal = keys[piece], np.uint16(0)
    for x in range(parts):
        count = np.uint16(count + (made[x] if keys[x] > own else np.uint16(0)))
        equal = np.uint16(equal + (made[x] if keys[x] == own else np.uint16(0)))
    total = np.int64(count)
    if equal > 1:
        for x in range(parts):
            if made[x] and keys[x] == own and x != piece:
                total += comes_later(streams, first_call + x, first_call + piece)
    return total


@inner
def last_call(keys: Any, parts: Any, is_random: Any, streams: Any, first_call: Any) -> Any:
    """The piece of the last call of a slot whose calls are all made."""
    if not is_random:
        return parts - 1
    best = np.int64(0)
    for x in range(1, parts):
        if keys[x] > keys[best] or (keys[x] == keys[best] and comes_later(streams, first_call + x, first_call + best)):
            best = np.int64(x)
    return best


@inner
def fill_part_masks(zap: Any, right: Any, left: Any) -> Any:
    """Masks that keep a shift inside parts of `zap` bits, for steps 1, 2, 4, ...: writes uint64[6] each.

    Returns a word with the lowest bit of each part.
    """
    lowest = ZERO
    for at in range(0, 64, zap):
        lowest |= ONE << np.uint64(at)
    part, step = ONES >> np.uint64(64 - zap), 1
    for i in range(6):
        if step < zap:
            right[i] = lowest * (part >> np.uint64(step))
            left[i] = lowest * (part & ~((ONE << np.uint64(step)) - ONE))
        step *= 2
    return lowest


@inner
def clear_small_parts(
    row: Any, cleared: Any, made: Any, zap: Any, steps: Any, lowest: Any, right: Any, left: Any
) -> Any:
    """Clear the parts of up to 64 pages whose calls are made; writes the cleared entries to uint64[words].

    Returns (entries cleared, pieces with one, pages from the first to the last of each piece, entries left). Works on
    whole words: in each part of `zap` bits, smearing right and left leaves what lies between its outermost bits.
    """
    in_word, part = 64 // zap, ONES >> np.uint64(64 - zap)
    count, pieces, spans, kept = np.int64(0), np.int64(0), np.int64(0), ZERO
    for w in range(row.size):
        calls = ZERO
        for j in range(in_word):
            calls |= np.uint64(made[w * in_word + j]) << np.uint64(j * zap)
        calls *= part
        x = row[w] & calls
        row[w] &= ~calls
        kept |= row[w]
        cleared[w] = x
        below, above = x, x
        for i in range(steps):
            below |= (below >> np.uint64(1 << i)) & right[i]
            above |= (above << np.uint64(1 << i)) & left[i]
        count += popcount(x)
        pieces += popcount(below & lowest)
        spans += popcount(below & above)
    return count, pieces, spans, kept


@inner
def clear_large_parts(row: Any, cleared: Any, made: Any, zap: Any, ceiling: Any, flushed: Any) -> Any:
    """The same for parts that are large enough for a full flush, or several words; counts their flushes itself."""
    count, kept = np.int64(0), ZERO
    for w in range(row.size):
        cleared[w] = ZERO
    for piece in range(row.size * 64 // zap):
        a = piece * zap
        if made[piece] == 0:
            continue
        n, first, last = survey(row, a, a + zap)
        if n == 0:
            continue
        count += n
        for w in range(a >> 6, (a + zap - 1 >> 6) + 1):
            inside = window(w, a, a + zap)
            cleared[w] |= row[w] & inside
            row[w] &= ~inside
        flush(flushed, first, last + 1, 1, ceiling)
    for w in range(row.size):
        kept |= row[w]
    return count, kept


@inner
def last_nonempty(cleared: Any, keys: Any, shift: Any, is_random: Any, streams: Any, first_call: Any) -> Any:
    """The piece of the last call that cleared an entry; cleared: uint64[words], at least one bit set."""
    if not is_random:
        w = cleared.size - 1
        while cleared[w] == ZERO:
            w -= 1
        return np.int64((w * 64 + last_set(cleared[w])) >> shift)
    best = np.int64(-1)
    for w in range(cleared.size):
        x = cleared[w]
        while x != ZERO:
            piece = np.int64((w * 64 + first_set(x)) >> shift)
            end = ((piece + 1) << shift) - w * 64
            x = (x >> np.uint64(end)) << np.uint64(end) if end < 64 else ZERO
            is_tie = best >= 0 and keys[piece] == keys[best]  # of the upper 16 bits
            if is_tie:
                is_later = comes_later(streams, first_call + piece, first_call + best)
            else:
                is_later = best < 0 or keys[piece] > keys[best]
            if is_later:
                best = piece
    return best


@inner
def first_set_in(row: Any) -> Any:
    """The first entry set of uint64[words], at least one of which is."""
    w = 0
    while row[w] == ZERO:
        w += 1
    return w * 64 + first_set(row[w])


@inner
def describe_last_page(visit: Any, pages: Any, entries: Any, unmaps: Any) -> None:
    """A piece that clears a table's last page, or the last piece of a slot that is unmapped part by part."""
    visit.pages, visit.whole, visit.markers, visit.broke, visit.others = pages, 0, 0, NO_BREAK, 0
    visit.after_break, visit.back_early, visit.back, visit.left, visit.reads = 0, -1, 0, -1, entries
    visit.reads_rest, visit.rest_empty, visit.reads_outside, visit.outside_empty = 0, 1, 0, 1
    visit.entries_inside, visit.unmaps = 0, unmaps


@kernel
def walk_parts(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    rules: Any, all_tables: Any, all_pages: Any, all_upper: Any, all_counters: Any, all_lanes: Any, all_totals: Any,
) -> None:  # fmt: skip
    """As engine.reclaim.walk.walk, which see for the arguments, for points that fit."""
    visit, spare, cleared_range = s.visit[0], s.spare[0], s.cleared[0]
    scanning, unmapping = np.int64(0), np.int64(0)
    for p in range(rules.size):
        scanning |= np.int64(rules[p].when == ROUND) << p
        unmapping |= np.int64(rules[p].unmaps) << p
    pages_in, ever, unmap_has = s.numbers[PAGES], s.numbers[EVER], s.numbers[UNMAP_HAS]
    freed, first_left = s.numbers[FREED], s.numbers[FIRST]

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
        entries, rounds, ceiling, zap, shift = par.entries, par.rounds, par.ceiling, par.zap, par.shift
        parts = entries // zap
        shift_bits = first_set(np.uint64(zap))
        is_small = zap <= 64 and zap <= ceiling  # no flush of a piece is a full one
        steps = shift_bits
        lowest = fill_part_masks(zap, s.part_masks[0], s.part_masks[1]) if is_small else ZERO
        is_random = par.random != 0
        counting = np.int64(0)
        describe_last_page(visit, zap, entries, 0)
        for p in range(rules.size):
            counting |= np.int64(rules[p].unmaps == 0 and judge(rules[p], visit, spare, 1) != KEEP) << p
        size = min(par.pmd_span, s.cells.size)
        while size > 4 and size * parts > BLOCK_CALLS:
            size >>= 1

        fill_streams(seed, rounds, s.streams)
        touched, mapped = s.touched[:, :rounds], s.mapped[:, :rounds]
        touched[:], mapped[:] = False, False
        for a in range(ACCOUNTS):
            s.flushed[a].flushes, s.flushed[a].tlb_flushes_full, s.flushed[a].tlb_invlpgs = 0, 0, 0
        for r in range(rounds):
            for p in range(rules.size):
                s.scans[r, p].tables = 0
        pmd_first, pud_first, pmd_needed, pud_needed = rounds, rounds, False, False
        emptied = np.int64(0)

        for block in range(par.first_table, par.end_table, size):
            n = min(size, par.end_table - block)
            for i in range(n):
                pages_in[i], ever[i], unmap_has[i] = 0, 0, 0
                for w in range(s.drawn.size):
                    s.present[i, w] = ZERO
            for p in range(rules.size):
                if rules[p].every > 1:
                    for i in range(n):
                        s.exists[p, i] = 0
            base = block * entries
            ever_count = np.int64(0)
            left_tables = np.int64(0)
            for r in range(rounds):
                streams = s.streams[r]
                before = np.int64(0)
                for i in range(n):
                    before += pages_in[i] != 0
                held = np.int64(0)
                for i in range(n):
                    held += pages_in[i]
                installed = install(n, block, par, lim, cdfs, streams, s)
                lane.installed += installed
                held += installed
                pages_of[r, PEAK, ZAPPED] += held
                pages_of[r, PEAK, UNMAPPED] += held

                # Which calls are made, a flag each; those before the first call's start never.
                lead = min(max(shift - base, 0) // zap, n * parts)
                for j in range(lead):
                    s.made[j] = 0
                count = n * parts - lead
                first_call = (base + lead * zap - shift) // zap
                offset = first_call & 3
                if count > 0:
                    block_calls(first_call, count, par, lim.cover, streams, s.hashes[2], s.made[lead : n * parts])
                keys = s.hashes[2].view(np.uint16)

                has, new, freed_count, reads = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                sent, ranged = np.int64(0), np.int64(0)
                visits_ever, visits_has, visits_unmap, late = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                peak_unmap, end_unmap, new_unmap, gone = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                left_tables, freed_unmap, emptied_here = np.int64(0), np.int64(0), np.int64(0)
                all_mapped = True
                for i in range(n):
                    calls = s.made[i * parts : (i + 1) * parts]
                    n_made = np.uint16(0)
                    for x in range(parts):
                        n_made = np.uint16(n_made + calls[x])
                    totals.calls += np.int64(n_made)
                    some = pages_in[i] != 0
                    has += some
                    new += some and ever[i] == 0
                    ever[i] |= np.uint16(some)
                    visits_ever += np.int64(n_made) if ever[i] else 0
                    is_unmapped = np.int64(n_made) == parts
                    all_mapped = all_mapped and is_unmapped
                    freed[i] = 0
                    if unmapping:
                        new_unmap += some and unmap_has[i] == 0
                        unmap_has[i] |= np.uint16(some)
                        peak_unmap += unmap_has[i]
                        visits_unmap += np.int64(n_made) if unmap_has[i] else 0
                    ends = unmapping != 0 and is_unmapped and unmap_has[i] != 0
                    if not some and not ends:
                        end_unmap += unmap_has[i]
                        continue
                    visits_has += np.int64(n_made) if some else 0
                    first_of_slot = first_call - lead + i * parts
                    at = i * parts - lead + offset
                    own_keys = keys[at : at + parts] if at >= 0 and is_random else keys[:parts]
                    if at < 0 and is_random:  # no call before the first: their keys are not asked for
                        for x in range(parts):
                            s.keys[x] = keys[at + x] if at + x >= 0 else np.uint16(0)
                        own_keys = s.keys[:parts]
                    if some and n_made:
                        row = s.present[i]
                        if is_small:
                            cleared, pieces, spans, kept = clear_small_parts(
                                row, s.drawn, calls, zap, steps, lowest, s.part_masks[0], s.part_masks[1]
                            )
                            sent += pieces
                            ranged += spans
                        else:
                            cleared, kept = clear_large_parts(row, s.drawn, calls, zap, ceiling, s.flushed[ANY])
                        gone += cleared
                        pages_in[i] -= np.uint16(cleared)
                        if kept == ZERO:
                            freed[i] = 1
                            freed_count += 1
                            if counting:
                                emptied_here += 1
                                piece = last_nonempty(s.drawn, own_keys, shift_bits, is_random, streams, first_of_slot)
                                late += later_calls(calls, own_keys, parts, piece, is_random, streams, first_of_slot)
                                _, low, high = survey(s.drawn, piece * zap, (piece + 1) * zap)
                                cleared_range.count, cleared_range.first, cleared_range.last = 1, low, high
                                flush_one_visit(s.flushed[EMPTIED_KEPT], cleared_range, 0, KEEP, entries, ceiling)
                                flush_one_visit(s.flushed[EMPTIED_FREED], cleared_range, 0, FREE, entries, ceiling)
                    elif ends:
                        s.drawn[:] = ZERO
                    if ends:
                        freed_unmap += 1
                        unmap_has[i] = 0
                        piece = last_call(own_keys, parts, is_random, streams, first_of_slot)
                        count_last, low, high = survey(s.drawn, piece * zap, (piece + 1) * zap)
                        cleared_range.count, cleared_range.first, cleared_range.last = count_last, low, high
                        flush_one_visit(s.flushed[LAST_KEPT], cleared_range, 0, KEEP, entries, ceiling)
                        flush_one_visit(s.flushed[LAST_FREED], cleared_range, 0, FREE, entries, ceiling)
                    end_unmap += unmap_has[i]
                    if pages_in[i]:
                        left_tables += 1
                        if scanning:
                            row = s.present[i]
                            first_left[i] = np.uint16(first_set_in(row))
                            reads += first_left[i] + 1
                s.flushed[ANY].flushes += sent
                s.flushed[ANY].tlb_invlpgs += ranged
                lane.zapped += gone
                pages_of[r, END, ZAPPED] += held - gone
                pages_of[r, END, UNMAPPED] += held - gone
                emptied += emptied_here
                ever_count += new
                if has > 0:
                    pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                    touched[0, r], touched[1, r] = True, True
                if not all_mapped:
                    mapped[0, r], mapped[1, r] = True, True
                for p in range(rules.size):
                    own = counters[p]
                    if rules[p].unmaps:
                        own.pte_tables_allocated += new_unmap
                        own.table_visits += visits_unmap
                        own.pte_tables_freed += freed_unmap
                        tables[r, PEAK, p] += peak_unmap
                        tables[r, END, p] += end_unmap
                    elif (counting >> p) & 1:
                        own.pte_tables_allocated += has - before
                        own.table_visits += visits_has - late
                        own.pte_tables_freed += emptied_here
                        tables[r, PEAK, p] += has
                        tables[r, END, p] += left_tables
                    elif (scanning >> p) & 1 and rules[p].every == 1:
                        own.pte_tables_allocated += has - before
                        own.table_visits += visits_has
                        tables[r, PEAK, p] += has
                        tables[r, END, p] += left_tables
                        count_scan(rules[p], own, has, freed_count, reads + freed_count * entries)
                        gather_block(
                            n, block, freed_count, freed, s.scans[r, p], own, entries, ceiling, par.table_batch
                        )
                    elif (scanning >> p) & 1:
                        scan_every_few_rounds(
                            n, block, (r + 1) % rules[p].every == 0, entries, pages_in, freed, s.made, parts,
                            first_left, s.exists[p], s.numbers[UNSURE], own, tables[r], p, rules[p], s.scans[r, p],
                            ceiling, par.table_batch,
                        )  # fmt: skip
                    else:
                        own.pte_tables_allocated += new
                        own.table_visits += visits_ever
                        tables[r, PEAK, p] += ever_count
                        tables[r, END, p] += ever_count
            if left_tables > 0:
                lane.needed_pte += left_tables
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
            if par.pud_span > 0 and (done % par.pud_span == 0 or done == par.end_table):
                if pud_first < rounds:
                    upper[pud_first].pud_new += 1
                upper_if_unmapped(upper, touched[1], mapped[1], True)
                lane.needed_pud += pud_needed
                pud_first, pud_needed = rounds, False

        other = lanes[UNMAPPED]
        other.installed += lane.installed
        other.zapped += lane.zapped
        other.needed_pte += lane.needed_pte
        other.needed_pmd += lane.needed_pmd
        other.needed_pud += lane.needed_pud
        for p in range(rules.size):
            own = counters[p]
            add_flushes(own, s.flushed[ANY])
            if rules[p].unmaps:
                move_flushes(own, s.flushed[LAST_KEPT], s.flushed[LAST_FREED])
            elif (counting >> p) & 1:
                describe_last_page(visit, zap, entries, 0)
                judge(rules[p], visit, own, emptied)
                move_flushes(own, s.flushed[EMPTIED_KEPT], s.flushed[EMPTIED_FREED])


@inner
def move_flushes(counters: Any, kept: Any, freed: Any) -> None:
    """Count the flushes of visits that free a table in place of those that would keep it."""
    add_flushes(counters, freed)
    counters.flushes -= kept.flushes
    counters.tlb_flushes_full -= kept.tlb_flushes_full
    counters.tlb_invlpgs -= kept.tlb_invlpgs


@inner
def scan_every_few_rounds(
    n: Any, block: Any, is_scan: Any, entries: Any, pages: Any, emptied: Any, made: Any, parts: Any,
    first_left: Any, exists: Any, freed: Any, own: Any, tables: Any, p: Any, rule: Any, scan: Any, ceiling: Any,
    table_batch: Any,
) -> None:  # fmt: skip
    """One round of a block under a rule that scans every few rounds.

    pages, emptied: uint16[n], pages left, and whether the calls cleared the last; made: uint16[n x parts]; first_left:
    uint16[n]; exists: uint16[n], updated; freed: uint16[n], scratch; tables: int64[2, policies] of the round
    """
    freed_count, peak, end, reads = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for i in range(n):
        some = pages[i] != 0 or emptied[i] != 0
        own.pte_tables_allocated += some and exists[i] == 0
        exists[i] |= np.uint16(some)
        freed[i] = 0
        if exists[i] == 0:
            continue
        peak += 1
        for x in range(i * parts, (i + 1) * parts):
            own.table_visits += np.int64(made[x])
        if is_scan:
            reads += np.int64(first_left[i]) + 1 if pages[i] else entries
            freed[i] = np.uint16(pages[i] == 0)
            freed_count += freed[i]
            exists[i] = np.uint16(pages[i] != 0)
        end += exists[i]
    tables[PEAK, p] += peak
    tables[END, p] += end
    if is_scan:
        count_scan(rule, own, peak, freed_count, reads)
        gather_block(n, block, freed_count, freed, scan, own, entries, ceiling, table_batch)
