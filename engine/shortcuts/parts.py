"""The short way for calls that are an aligned part of one slot: no call covers a table, none crosses one.

Taken when zap divides the table's span, the grid of calls is aligned to it, and nothing pins or refaults (`fits`). Then
the whole-slot rule never frees, so second_walk, seed_inline and merged keep what none keeps; no gather fills; and only
refcount, async and munmap need a look. A block of tables is done together: row by row, a word of every table or a call
of every table at a time, so that the compiler can use vector instructions. Same results as walk/walk.py, bit for bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ONE, ONES, ZERO, first_set, popcount
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import (
    FIELD,
    LOW_48,
    OF_CALL,
    OF_CALL_LOW,
    OF_EXTENT,
    OF_PLACE,
    S16,
    S48,
    call_key,
    draw,
    fill_streams,
)
from engine.shortcuts import lanes
from engine.shortcuts.last_calls import count_late, last_by_full_key, last_calls, last_made, last_of
from engine.shortcuts.residency_blocks import copy, drawn_counts, drawn_ends, draws, most_of, total_of
from engine.shortcuts.residency_placing import PLACE_ROWS, count_left, merge_rows, place_block
from engine.shortcuts.spans import span_of_part, spans_within_words, unflush
from engine.walk import columns as lay
from engine.walk.residency import drawn_extents, place_extents
from engine.walk.scratch import Rounds, most, rounds_of
from engine.walk.tlb import FULL, RANGED, SENT, flush, flush_with_table
from engine.walk.upper_tables import upper_of_munmap

FEW, FEW_BY_LANE = 16, 6
"""One table in so many freed: each by itself is cheaper."""
NUMBERS = 17
"""Rows of a room's numbers, one of each table of the block."""


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    entries, zap = par[:, lay.ENTRIES], par[:, lay.ZAP]
    aligned = (
        (zap < entries) & (entries % zap == 0) & (par[:, lay.SHIFT] % zap == 0) & (par[:, lay.PAGES] % entries == 0)
    )
    plain = (par[:, lay.FREE] == 0) & (par[:, lay.REFAULTS] == NEVER) & (par[:, lay.PIN] == NEVER)
    return np.asarray(aligned & plain)


def by_lanes(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of them have calls that engine.shortcuts.lanes is for."""
    aligned = par[:, lay.SHIFT] % 64 == 0
    calls = (par[:, lay.ZAP] == lanes.PAGES) & (par[:, lay.ENTRIES] == lanes.PAGES * lanes.CALLS)
    return np.asarray(aligned & calls)


class Room(NamedTuple):
    """Scratch for a block of tables of one size.

    rounds; present, cleared: uint64[words, tables]; lanes: uint64[2 x WORDS + SCRATCH, tables], if there are calls that
    engine.shortcuts.lanes is for; one: uint64[2, words] of a table; hashes, mask: uint64[tables];
    lowest: int64[tables]; cells: uint32[tables]; keys, made: uint16[calls of a table, tables]; numbers: uint16[NUMBERS,
    tables]; place_rows: uint16[PLACE_ROWS, tables]
    """

    rounds: Rounds
    present: Any
    cleared: Any
    lanes: Any
    one: Any
    hashes: Any
    mask: Any
    lowest: Any
    cells: Any
    keys: Any
    made: Any
    numbers: Any
    place_rows: Any


def room_for(par: NDArray[np.int64]) -> Room:
    """As much as the largest of these points needs, whose tables are of one size: int64[n, PARAMETERS]."""
    entries = most(par, lay.ENTRIES)
    words, tables, calls = entries >> 6, 512 if entries <= 512 else 64, entries // int(par[:, lay.ZAP].min())
    return Room(
        rounds_of(par),
        np.zeros((words, tables), np.uint64),
        np.zeros((words, tables), np.uint64),
        np.zeros((2 * lanes.WORDS + lanes.SCRATCH, tables if by_lanes(par).any() else 0), np.uint64),
        np.zeros((2, words), np.uint64),
        np.zeros(tables, np.uint64),
        np.zeros(tables, np.uint64),
        np.zeros(tables, np.int64),
        np.zeros(tables, np.uint32),
        np.zeros((calls, tables), np.uint16),
        np.zeros((calls, tables), np.uint16),
        np.zeros((NUMBERS, tables), np.uint16),
        np.zeros((PLACE_ROWS, tables), np.uint16),
    )


@inner
def merge(present: Any, i: Any, drawn: Any) -> Any:
    """Add what was drawn to table i; how many pages are new."""
    fresh: Any = 0
    for v in range(drawn.size):
        fresh += popcount(drawn[v] & ~present[v, i])
        present[v, i] |= drawn[v]
    return fresh


@inner
def note_installed(fresh: Any, held: Any, touched: Any, exists_m: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Tables that got their first page: of all, ever, under munmap; that hold one, ever did, are there under munmap.

    held, touched and exists_m are brought up to date; all are uint16[n], n up to 8,192.
    """
    zero = np.uint16(0)
    first, ever, mapped, occupied, touched_now, occupied_m = zero, zero, zero, zero, zero, zero
    for i in range(fresh.size):
        new, had, seen, there = fresh[i] > 0, held[i] > 0, touched[i] > 0, exists_m[i] > 0
        first = np.uint16(first + (new & (not had)))
        ever = np.uint16(ever + (new & (not seen)))
        mapped = np.uint16(mapped + (new & (not there)))
        occupied = np.uint16(occupied + (new | had))
        touched_now = np.uint16(touched_now + (new | seen))
        occupied_m = np.uint16(occupied_m + (new | there))
        held[i] += fresh[i]
        touched[i] = new | seen
        exists_m[i] = new | there
    return (
        np.int64(first), np.int64(ever), np.int64(mapped), np.int64(occupied), np.int64(touched_now),
        np.int64(occupied_m),
    )  # fmt: skip


@inner
def key_rows(stream: Any, low: Any, first: Any, parts: Any, hashes: Any, keys: Any) -> None:
    """keys: uint16[parts, tables], the upper 16 bits of each call's key; first: the first table's first call."""
    if parts < 4:
        for i in range(hashes.size):
            for p in range(parts):
                keys[p, i] = np.uint16(call_key(stream, low, first + i * parts + p) >> S48)
        return
    ahead = first & 3
    for group in range((ahead + parts + 3) >> 2):
        draws(stream, (first >> 2) + group, parts >> 2, hashes)
        for f in range(4):
            p = 4 * group + f - ahead
            if 0 <= p < parts:
                row, shift = keys[p], np.uint64(16 * f)
                for i in range(row.size):
                    row[i] = np.uint16((hashes[i] >> shift) & FIELD)


@inner
def made_rows(keys: Any, limit: Any, stream_low: Any, first: Any, made: Any) -> None:
    """made: uint16[parts, tables], 1 for the calls whose key is below the limit."""
    parts, tables = keys.shape
    step = np.uint16(limit >> S48)
    for p in range(parts):
        key_row, row = keys[p], made[p]
        unsure = np.uint16(0)
        for i in range(tables):
            row[i] = key_row[i] < step
            unsure |= np.uint16(key_row[i] == step)
        if unsure:
            for i in range(tables):
                if key_row[i] == step:
                    row[i] = draw(stream_low, first + i * parts + p) >> S16 < limit & LOW_48


@inner
def clear_rows(present: Any, made: Any, zap: Any, mask: Any, cleared: Any) -> None:
    """Move what the calls clear from present to cleared: uint64[words, tables] both."""
    n_words, tables = present.shape
    lane = (ONE << np.uint64(zap & 63)) - ONE
    for v in range(n_words):
        row, out = present[v], cleared[v]
        if zap >= 64:
            calls = made[v * 64 // zap]
            for i in range(tables):
                out[i] = row[i] if calls[i] != 0 else ZERO
        else:
            mask[:] = ZERO
            for q in range(64 // zap):
                calls, bits = made[v * (64 // zap) + q], lane << np.uint64(q * zap)
                for i in range(tables):
                    mask[i] |= bits if calls[i] != 0 else ZERO
            for i in range(tables):
                out[i] = row[i] & mask[i]
        for i in range(tables):
            row[i] ^= out[i]


@inner
def reads_of_scan(present: Any, words: Any, lowest: Any) -> Any:
    """Entries that a look for one that is not none reads, in all tables that hold one.

    words: uint64[n] and lowest: int64[n] are scratch, for the first word with an entry and its place.
    """
    lowest[:], words[:] = 0, ZERO
    for v in range(present.shape[0]):  # upwards: downwards the compiler finds no vectors
        row = present[v]
        for i in range(lowest.size):
            before = words[i]
            lowest[i] = v * 64 if before == ZERO else lowest[i]
            words[i] = row[i] if before == ZERO else before
    reads = 0
    for i in range(lowest.size):
        reads += lowest[i] + first_set(words[i]) + 1 if words[i] != ZERO else 0
    return reads


@inner
def add_up(
    parts: Any, n_made: Any, touched: Any, exists_m: Any, held: Any, left: Any
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """Sums over tables, of uint16[n].

    They are tables: kept, there under munmap, whose calls were all made; calls made; visits under none, of tables
    with a page, under munmap.
    """
    zero = np.uint32(0)
    n_kept, n_mapped, full_calls, all_made, visits, visits_held, visits_m = zero, zero, zero, zero, zero, zero, zero
    for i in range(held.size):
        some = n_made[i]
        all_made = np.uint32(all_made + some)
        n_mapped = np.uint32(n_mapped + exists_m[i])
        visits = np.uint32(visits + (np.uint32(some) if touched[i] > 0 else zero))
        visits_held = np.uint32(visits_held + (np.uint32(some) if held[i] > 0 else zero))
        visits_m = np.uint32(visits_m + (np.uint32(some) if exists_m[i] > 0 else zero))
        full_calls = np.uint32(full_calls + (some == parts))
        n_kept = np.uint32(n_kept + (left[i] > 0))
    return (
        np.int64(n_kept), np.int64(n_mapped), np.int64(full_calls), np.int64(all_made), np.int64(visits),
        np.int64(visits_held), np.int64(visits_m),
    )  # fmt: skip


@inner
def list_freed(n: Any, held: Any, left: Any, listed: Any) -> Any:
    """The tables that lost their last page, in order; how many. No branch: they follow no pattern."""
    m = np.int64(0)
    for i in range(n):
        listed[m] = i
        m += np.int64((held[i] > 0) & (left[i] == 0))
    return m


@kernel
def walk_parts(
    room: Any, rows: Any, kinds: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    pers: Any, works: Any, all_sums: Any, accounts: Any,
) -> None:  # fmt: skip
    """As engine.walk.walk.walk, with the same arguments, for points that fit."""
    present, cleared, hashes, mask, lowest, cells = (
        room.present, room.cleared, room.hashes, room.mask, room.lowest, room.cells
    )  # fmt: skip
    drawn, scratch, place_rows, numbers = room.one[0], room.one[1], room.place_rows, room.numbers
    tables = present.shape[1]
    quarter, other_quarter = hashes[: tables // 4], hashes[tables // 4 : tables // 2]
    (
        n_made, best, last, late, equal, has, touched, exists_m, listed, ks, fresh, held, left, unsure, lows, highs,
        none_easy,
    ) = (
        numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7], numbers[8],
        numbers[9], numbers[10], numbers[11], numbers[12], numbers[13], numbers[14], numbers[15], numbers[16],
    )  # fmt: skip
    none_easy[:] = 0
    for point in rows:
        par, lim, seed = pars[kinds[point]], lims[kinds[point]], seeds[point]
        work, sums, account = works[point], all_sums[point], accounts[point]
        per = pers[offsets[point] : offsets[point + 1]]
        per[:], work[:], sums[:], account[:] = 0, 0, 0, 0
        entries, rounds, places, cluster = par[lay.ENTRIES], par[lay.ROUNDS], par[lay.PLACES], par[lay.CLUSTER]
        pmd_span, pud_span, ceiling = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING]
        table_batch, install, cover, by_key = (
            par[lay.TABLE_BATCH],
            par[lay.INSTALL],
            par[lay.COVER],
            par[lay.RANDOM] != 0,
        )
        zap, shift, limit = par[lay.ZAP], par[lay.SHIFT], lim[lay.LIMIT_COVER]
        parts, no_span = entries // zap, np.int64(0)
        keys, made = room.keys[:parts], room.made[:parts]
        by_lane = zap == lanes.PAGES and parts == lanes.CALLS and shift % 64 == 0
        lane_keys, lane_made = room.lanes[: lanes.WORDS], room.lanes[lanes.WORDS : 2 * lanes.WORDS]
        lane_scratch = room.lanes[2 * lanes.WORDS :]
        streams, scan, flags = room.rounds.streams, room.rounds.scan, room.rounds.flags
        fill_streams(seed, rounds, streams)
        scan[:rounds], flags[:, :rounds] = 0, False
        pmd_touched, pud_touched = flags[0][:rounds], flags[1][:rounds]
        pmd_mapped, pud_mapped = flags[2][:rounds], flags[3][:rounds]
        pmd_first, pud_first = rounds, rounds
        pmd_needed, pud_needed = False, False
        first_table, end_table = par[lay.FIRST_TABLE], par[lay.END_TABLE]

        for block in range(first_table, end_table, tables):
            n = min(tables, end_table - block)
            first_call = (block * entries - shift) // zap
            present[:] = ZERO
            held[:], touched[:], exists_m[:] = 0, 0, 0
            for r in range(rounds):
                # Install, peak.
                choices = streams[r]
                fresh[:] = 0
                if places > 0:
                    if install == MAYBE:
                        drawn_counts(block, cdfs, par[lay.CDF], choices, quarter, cells, ks, unsure)
                    else:
                        ks[:] = places if install == ALWAYS else 0
                    ks[n:] = 0
                    if cluster == 1 and install == MAYBE:
                        drawn_ends(
                            block, places, ks, none_easy, no_span, places, par, cdfs, choices, quarter, other_quarter,
                            cells, lows, highs, unsure,
                        )  # fmt: skip
                        empty = most_of(held) == 0
                        into = present if empty else cleared
                        if empty:
                            copy(ks, fresh)
                        else:
                            cleared[:] = ZERO
                        place_block(into, block, places, ks, lows, highs, choices[OF_PLACE], hashes, lowest, place_rows)
                        if not empty:
                            merge_rows(present, cleared, lowest, fresh)
                    else:
                        for i in range(n):
                            if ks[i] > 0:
                                drawn[:] = ZERO
                                k = np.int64(ks[i])
                                place_extents(
                                    drawn, scratch, block + i, places, k, cluster, cdfs, par[lay.SPANS], choices
                                )
                                fresh[i] = merge(present, i, drawn)
                elif install != NEVER:
                    for i in range(n):
                        drawn[:] = ZERO
                        base = (block + i) * entries
                        drawn_extents(
                            drawn, base, entries, cluster, install, lim[lay.LIMIT_INSTALL], choices[OF_EXTENT]
                        )
                        fresh[i] = merge(present, i, drawn)
                fresh_tables, ever, mapped, occupied, touched_now, occupied_m = note_installed(
                    fresh, held, touched, exists_m
                )
                sums[lay.INSTALLED] += total_of(fresh)
                work[lay.NONE, lay.ALLOCATED] += ever
                work[lay.MUNMAP, lay.ALLOCATED] += mapped
                for p in (lay.REFCOUNT, lay.ASYNC):
                    work[p, lay.ALLOCATED] += fresh_tables
                if occupied > 0:
                    pmd_touched[r] = True
                    pud_touched[r] = True
                if ever > 0:
                    pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                per[r, lay.PTE_PEAK] += touched_now
                per[r, lay.PTE_PEAK + 1] += occupied
                per[r, lay.PTE_PEAK + lay.UNMAPPED] += occupied_m
                per[r, lay.PAGES_PEAK] += total_of(held)

                # Which calls are made, what they clear.
                calls, calls_low = choices[OF_CALL], choices[OF_CALL_LOW]
                asks_keys = cover == MAYBE or (by_key and cover == ALWAYS and (occupied > 0 or occupied_m > 0))
                if by_lane:
                    if asks_keys:
                        lanes.lane_keys(calls, first_call, lane_keys)
                    if cover == MAYBE:
                        lanes.lane_made(lane_keys, limit, calls_low, first_call, lane_made)
                    else:
                        lane_made[:] = ONES if cover == ALWAYS else ZERO
                    if block * entries < shift:
                        for i in range(n):
                            lanes.lane_unmake(lane_made, i, max(shift - (block + i) * entries, 0))
                    for i in range(n, tables):
                        lane_made[:, i] = ZERO
                    lanes.lane_count(lane_made, lowest, n_made)
                else:
                    if asks_keys:
                        key_rows(calls, calls_low, first_call, parts, hashes, keys)
                    if cover == MAYBE:
                        made_rows(keys, limit, calls_low, first_call, made)
                    else:
                        made[:] = cover == ALWAYS
                    if block * entries < shift:
                        for i in range(n):
                            for p in range(min(max(shift - (block + i) * entries, 0) // zap, parts)):
                                made[p, i] = 0
                    for i in range(n, tables):
                        made[:, i] = 0
                    n_made[:] = 0
                    for p in range(parts):
                        row = made[p]
                        for i in range(tables):
                            n_made[i] += row[i]
                if occupied > 0:
                    if by_lane:
                        lanes.lane_clear(present, lane_made, cleared)
                    else:
                        clear_rows(present, made, zap, mask, cleared)
                    count_left(present, lowest, left)
                    sent, ranged, full = 0, 0, 0
                    if by_lane:
                        sent, ranged = lanes.lane_spans(cleared, mask)
                    elif zap < 64:
                        sent, ranged = spans_within_words(cleared, zap, mask)
                    else:
                        for i in range(n):
                            for p in range(parts):
                                lo, hi = span_of_part(cleared, i, p, zap)
                                if hi >= 0:
                                    sent += 1
                                    full += hi - lo + 1 > ceiling
                                    ranged += hi - lo + 1 if hi - lo + 1 <= ceiling else 0
                    for p in (lay.ZAPPING, lay.MUNMAP):
                        account[p, FULL] += full
                        account[p, RANGED] += ranged
                        account[p, SENT] += sent

                else:
                    left[:] = 0
                n_kept, n_mapped, full_calls, all_made, visits, visits_held, visits_m = add_up(
                    parts, n_made, touched, exists_m, held, left
                )
                if full_calls < n:
                    pmd_mapped[r] = True
                    pud_mapped[r] = True

                # refcount: the last call in order that cleared something freed the table; later ones do not meet it.
                frees = list_freed(n, held, left, listed)
                alone = frees * (FEW_BY_LANE if by_lane else FEW) < n
                if frees > 0 and not alone:
                    if by_lane:
                        lanes.lane_last(cleared, by_key, lane_keys, lane_made, lane_scratch, last, late, equal)
                    else:
                        last_calls(cleared, zap, by_key, keys, has, best, last)
                        count_late(keys, made, by_key, best, last, late, equal)
                missed = 0
                for at in range(frees):
                    i = np.int64(listed[at])  # type: ignore[assignment]
                    part: Any = np.int64(last[i])
                    after: Any = np.int64(late[i])
                    same: Any = np.int64(equal[i])
                    if alone and by_lane:
                        part, after, same = lanes.lane_last_of(cleared, i, by_key, lane_keys, lane_made)
                    elif alone:
                        part, after, same = last_of(cleared, i, zap, by_key, keys, made)
                    if same > 1:
                        if by_lane:
                            lanes.spell_made(lane_made, i, made)
                        first = first_call + i * parts
                        part, after = last_by_full_key(cleared, i, zap, made, calls, calls_low, first, False)
                    lo, hi = span_of_part(cleared, i, part, zap)
                    unflush(account[lay.REFCOUNT], lo, hi, ceiling)
                    flush_with_table(account[lay.REFCOUNT], 0, lo, hi + 1, entries, ceiling)
                    missed += after
                    base = (block + i) * entries
                    if scan[r, 0] == 0:
                        scan[r, 1] = base
                    scan[r, 0] += 1
                    scan[r, 2] = base + 1
                    if scan[r, 0] == table_batch:
                        flush(account[lay.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0

                # munmap: a table goes with the last of its calls.
                unmappings = 0
                if full_calls > 0 and occupied_m > 0:
                    some_alone = by_lane and full_calls * FEW_BY_LANE < n
                    if by_key and not some_alone:
                        if by_lane:
                            lanes.lane_last(lane_made, True, lane_keys, lane_made, lane_scratch, last, late, equal)
                        else:
                            last_made(keys, best, last, equal)
                    for i in range(n):
                        if n_made[i] < parts or not exists_m[i]:
                            continue
                        end_part: Any = parts - 1
                        if by_key:
                            end_part, same = np.int64(last[i]), np.int64(equal[i])
                            if some_alone:
                                end_part, _, same = lanes.lane_last_of(lane_made, i, True, lane_keys, lane_made)
                            if same > 1:
                                if by_lane:
                                    lanes.spell_made(lane_made, i, made)
                                first = first_call + i * parts
                                end_part, _ = last_by_full_key(cleared, i, zap, made, calls, calls_low, first, True)
                        lo, hi = 0, -1
                        if held[i] > 0:
                            lo, hi = span_of_part(cleared, i, end_part, zap)
                        if hi >= 0:
                            unflush(account[lay.MUNMAP], lo, hi, ceiling)
                        flush_with_table(account[lay.MUNMAP], 0, lo, hi + 1, entries, ceiling)
                        exists_m[i] = 0
                        unmappings += 1

                # The async scan, and the end.
                reads = 0
                if n_kept > 0:
                    reads = reads_of_scan(present, mask, lowest)
                end_pages = total_of(left)
                sums[lay.ZAPPED] += total_of(held) - end_pages
                copy(left, held)
                sums[lay.CALLS] += all_made
                work[lay.NONE, lay.VISITS] += visits
                work[lay.ASYNC, lay.VISITS] += visits_held
                work[lay.REFCOUNT, lay.VISITS] += visits_held - missed
                work[lay.REFCOUNT, lay.FREED] += frees
                work[lay.REFCOUNT, lay.PMD_LOCKS] += frees
                work[lay.MUNMAP, lay.VISITS] += visits_m
                work[lay.MUNMAP, lay.FREED] += unmappings
                work[lay.ASYNC, lay.PMD_LOCKS] += occupied
                work[lay.ASYNC, lay.PTE_LOCKS] += occupied
                work[lay.ASYNC, lay.RESCANNED] += reads + frees * entries
                work[lay.ASYNC, lay.FREED] += frees
                n_mapped -= unmappings
                per[r, lay.PTE_END] += touched_now
                per[r, lay.PTE_END + 1] += n_kept
                per[r, lay.PTE_END + lay.UNMAPPED] += n_mapped
                per[r, lay.PAGES_END] += end_pages
            for i in range(n):
                if held[i] > 0:
                    sums[lay.NEED_PTE] += 1
                    pmd_needed, pud_needed = True, True

            end = block + n
            if end % pmd_span == 0 or end == end_table:
                if pmd_first < rounds:
                    per[pmd_first, lay.PMD_NEW] += 1
                upper_of_munmap(per, lay.PMD_PEAK_M, lay.PMD_END_M, pmd_touched, pmd_mapped)
                sums[lay.NEED_PMD] += pmd_needed
                pmd_first, pmd_needed = rounds, False
                for r in range(rounds):
                    if scan[r, 0] > 0:
                        flush(account[lay.ASYNC], scan[r, 1], scan[r, 2], entries, ceiling)
                        scan[r, 0] = 0
            if pud_span > 0 and (end % pud_span == 0 or end == end_table):
                if pud_first < rounds:
                    per[pud_first, lay.PUD_NEW] += 1
                upper_of_munmap(per, lay.PUD_PEAK_M, lay.PUD_END_M, pud_touched, pud_mapped)
                sums[lay.NEED_PUD] += pud_needed
                pud_first, pud_needed = rounds, False

        # What one class kept count of for another.
        for r in range(rounds):
            for at in (lay.PTE_PEAK, lay.PTE_END):
                per[r, at + lay.ASYNC] += per[r, at + lay.REFCOUNT]
                per[r, at + lay.BY_SLOT] += per[r, at + lay.NONE]
            per[r, lay.PAGES_PEAK + 1] += per[r, lay.PAGES_PEAK]
            per[r, lay.PAGES_END + 1] += per[r, lay.PAGES_END]
        for i in range(3):
            sums[lay.NEED_PTE_M + i] += sums[lay.NEED_PTE + i]
        sums[lay.INSTALLED_M] += sums[lay.INSTALLED]
        sums[lay.ZAPPED_M] += sums[lay.ZAPPED]
        for p in (lay.SECOND, lay.SEED_INLINE, lay.MERGED):
            work[p, lay.VISITS] += work[lay.NONE, lay.VISITS]
            work[p, lay.ALLOCATED] += work[lay.NONE, lay.ALLOCATED]
