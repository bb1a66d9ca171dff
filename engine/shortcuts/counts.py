"""The shortest way: calls of a slot each, and extents that divide a table (`fits`).

A table is then there, under every policy but none, while it holds a page; a call leaves nothing of it.
A block of tables is done together, step by step over uint16 arrays, so that the compiler can use vector instructions:
how many extents each holds, whether its call is made, where the first and the last lie. Only what an earlier round left
behind needs places, a bit each (or a flag, where a table is one extent). Same results as walk/walk.py, bit for bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ZERO
from engine.numeric.jit import inner, kernel
from engine.random.binomial import ALWAYS, MAYBE
from engine.random.splitmix import LOW_48, OF_CALL, OF_CALL_LOW, OF_PLACE, S16, S48, STREAMS, draw, fill_streams
from engine.shortcuts import slots
from engine.shortcuts.residency_blocks import (
    drawn_counts,
    drawn_ends,
    draws,
    mostly_enough,
    next_flag,
    nth_flag,
    total_of,
)
from engine.shortcuts.residency_placing import PLACE_ROWS, add_rows, clear_called, place_block, survey_rows
from engine.walk import columns as lay
from engine.walk.contention import attempt, attempt_by_key, settle_trylocks
from engine.walk.scratch import most, paces
from engine.walk.tlb import FULL, RANGED, SENT, flush
from engine.walk.upper_tables import upper_of_munmap

BLOCK_TABLES = 4_096
"""Tables in a block, or a PMD table's if that has more: arrays of 8 KiB."""
BY_POLICY_THAT_FREES = (lay.REFCOUNT, lay.SECOND, lay.SEED_INLINE, lay.MUNMAP)
K, MADE, ZAPPED, TOUCHED, UNSURE, LO, HI, CARRIED, PLACED, EASY, K_ALL, LO_ALL, HI_ALL, NUMBERS = range(14)
"""Rows of a room's numbers, one of each table of the block."""


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    counted = (par[:, lay.PLACES] > 0) & (par[:, lay.INSTALL] == MAYBE)
    return np.asarray(slots.plain(par) & (par[:, lay.ZAP] == par[:, lay.ENTRIES]) & counted)


class Room(NamedTuple):
    """Scratch for the blocks of all points of a call.

    hashes: uint64[2, tables / 4]; numbers: uint16[NUMBERS, tables]; cells: uint32[tables]; steps: int64[3, 2 x span] of
    threads, the first of them -1 throughout; streams: uint64[rounds, STREAMS]; flags: bool[2 x regions + 2, rounds];
    of_region: int64[3, regions]; pace: int64[rounds x threads]; words: uint64[2 x words + 1, PMD span],
    at: int64[2, PMD span] and place_rows: uint16[PLACE_ROWS, PMD span] where pages are left over
    """

    hashes: Any
    numbers: Any
    cells: Any
    steps: Any
    streams: Any
    flags: Any
    of_region: Any
    pace: Any
    words: Any
    at: Any
    place_rows: Any


def room_for(par: NDArray[np.int64]) -> Room:
    """As much as the largest of these points needs, all of run.alike: int64[n, PARAMETERS]."""
    span, rounds = most(par, lay.PMD_SPAN), most(par, lay.ROUNDS)
    tables, regions = max(BLOCK_TABLES, span), max(BLOCK_TABLES // span, 1)
    threaded, placed = par[par[:, lay.THREADS] > 1], par[carries_places(par)]
    width, n_words = most(placed, lay.PMD_SPAN), (most(placed, lay.PLACES) + 63) >> 6
    padded = tables + 64
    return Room(
        np.zeros((2, padded >> 2), np.uint64),
        np.zeros((NUMBERS, padded), np.uint16),
        np.zeros(padded, np.uint32),
        np.full((3, 2 * most(threaded, lay.PMD_SPAN)), -1, np.int64),
        np.zeros((rounds, STREAMS), np.uint64),
        np.zeros((2 * regions + 2, rounds), np.bool_),
        np.zeros((3, regions), np.int64),
        np.zeros(paces(threaded), np.int64),
        np.zeros((2 * n_words + 1, width), np.uint64),
        np.zeros((2, width), np.int64),
        np.zeros((PLACE_ROWS, width), np.uint16),
    )


def carries_places(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Points whose rounds may begin with tables that hold some of their pages."""
    return np.asarray((par[:, lay.ROUNDS] > 1) & (par[:, lay.COVER] != ALWAYS) & (par[:, lay.PLACES] > 1))


@inner
def calls_made(upper: Any, limit: Any, made: Any, unsure: Any) -> None:
    """made: uint16[n], 1 where the upper 16 bits of a call's key say so; unsure: where the lower 48 decide."""
    step = np.uint16(limit >> S48)
    for i in range(made.size):
        made[i] = upper[i] < step
        unsure[i] = upper[i] == step


@inner
def judge(k: Any, made: Any, lo: Any, hi: Any, cluster: Any, ceiling: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Of a block: extents zapped, full flushes, INVLPGs of the others, both with the tables freed, entries async reads.

    It reads those of the tables that are not called. All arrays are uint16[n], n up to 8,192.
    """
    zero, none = np.uint32(0), np.uint16(0)
    gone, ranged, ranged_freed, reads, full, full_freed = zero, zero, zero, zero, none, none
    width, limit = np.uint16(cluster), np.uint16(ceiling)
    for i in range(k.size):
        have, called, first, end = k[i], made[i] != 0, lo[i], np.uint16(hi[i] + np.uint16(1))
        span, reach = np.uint16(np.uint16(end - first) * width), np.uint16(end * width)
        zapped, kept = (have > 0) & called, (have > 0) & (not called)
        full = np.uint16(full + (zapped & (span > limit)))
        full_freed = np.uint16(full_freed + (zapped & (reach > limit)))
        gone = np.uint32(gone + (have if called else none))
        ranged = np.uint32(ranged + (span if zapped & (span <= limit) else none))
        ranged_freed = np.uint32(ranged_freed + (reach if zapped & (reach <= limit) else none))
        reads = np.uint32(reads + (np.uint16(np.uint16(first * width) + np.uint16(1)) if kept else none))
    return (
        np.int64(gone), np.int64(full), np.int64(ranged), np.int64(full_freed), np.int64(ranged_freed), np.int64(reads)
    )  # fmt: skip


@inner
def held_and_zapped(k: Any, made: Any, zapped: Any) -> tuple[Any, Any, Any]:
    """(tables with a page, calls made, tables zapped), the latter flagged in zapped: uint16[n]."""
    held, calls, zaps = np.uint16(0), np.uint16(0), np.uint16(0)
    for i in range(k.size):
        has, called = k[i] > 0, made[i] != 0
        zapped[i] = has & called
        held = np.uint16(held + has)
        calls = np.uint16(calls + called)
        zaps = np.uint16(zaps + (has & called))
    return np.int64(held), np.int64(calls), np.int64(zaps)


@inner
def carry_over(k: Any, carried: Any) -> None:
    """Tables that are full from the round before; k: uint16[n], 0 or 1, is brought up to date."""
    for i in range(k.size):
        k[i] |= carried[i]


@inner
def who_needs_places(k: Any, made: Any, carried: Any, last: Any, placed: Any, easy: Any) -> None:
    """placed: k of tables that join what an earlier round left, or leave something behind; easy: 1 for all others."""
    for i in range(k.size):
        joins, stays = carried[i] != 0, made[i] == 0
        placed[i] = k[i] if joins | (stays & (not last)) else np.uint16(0)
        easy[i] = (not joins) & (not stays)


@inner
def take_over(carried: Any, k_all: Any, lo_all: Any, hi_all: Any, k: Any, lo: Any, hi: Any) -> None:
    """All pages of the tables that an earlier round left some in, in place of those drawn now; uint16[n] each."""
    for i in range(k.size):
        k[i] = k_all[i] if carried[i] != 0 else k[i]
    for i in range(k.size):
        lo[i] = lo_all[i] if carried[i] != 0 else lo[i]
        hi[i] = hi_all[i] if carried[i] != 0 else hi[i]


@inner
def leave_over(k: Any, made: Any, carried: Any) -> None:
    """carried: uint16[n], the tables that no call emptied."""
    for i in range(k.size):
        carried[i] = k[i] if made[i] == 0 else np.uint16(0)


@inner
def called_once_touched(touched: Any, made: Any) -> Any:
    """Calls made over tables that ever held a page; uint16[n], 0 or 1."""
    out = np.uint16(0)
    for i in range(made.size):
        out = np.uint16(out + (touched[i] & made[i]))
    return np.int64(out)


@inner
def first_touched(k: Any, touched: Any) -> Any:
    """How many tables hold a page that never did before; touched: uint16[n] is brought up to date."""
    fresh = np.uint16(0)
    for i in range(k.size):
        new = (k[i] > 0) & (touched[i] == 0)
        touched[i] |= new
        fresh = np.uint16(fresh + new)
    return np.int64(fresh)


@inner
def flush_freed(
    block: Any, a: Any, b: Any, zapped: Any, zaps: Any, batch: Any, entries: Any, ceiling: Any, account: Any
) -> None:
    """The flushes of async for the tables that it frees in one PMD table, tables a to b of a block."""
    done = 0
    while done < zaps:
        some = min(zaps - done, batch)
        if some - 1 > ceiling:  # wherever they are
            account[FULL] += 1
            account[SENT] += 1
        else:
            flags = zapped[a:b]
            first, last = nth_flag(flags, done + 1), nth_flag(flags, done + some)
            base = (block + a) * entries
            flush(account, base + first * entries, base + last * entries + 1, entries, ceiling)
        done += some


@kernel
def walk_counts(
    room: Any, rows: Any, kinds: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, contention: Any, offsets: Any,
    pers: Any, works: Any, all_sums: Any, accounts: Any,
) -> None:  # fmt: skip
    """As engine.walk.walk.walk, with the same arguments, for points that fit."""
    numbers, cells, sliced = room.numbers, room.cells, -1
    by_four, other_four = room.hashes[0], room.hashes[1]
    k, made, zapped, touched, unsure, lo, hi, carried = (
        numbers[K], numbers[MADE], numbers[ZAPPED], numbers[TOUCHED], numbers[UNSURE], numbers[LO], numbers[HI],
        numbers[CARRIED],
    )  # fmt: skip
    placed, easy, k_all, lo_all, hi_all = (
        numbers[PLACED], numbers[EASY], numbers[K_ALL], numbers[LO_ALL], numbers[HI_ALL]
    )  # fmt: skip
    for point in rows:
        par, lim, seed = pars[kinds[point]], lims[kinds[point]], seeds[point]
        work, sums, account = works[point], all_sums[point], accounts[point]
        per = pers[offsets[point] : offsets[point + 1]]
        per[:], work[:], sums[:], account[:] = 0, 0, 0, 0
        entries, places, cluster, rounds = par[lay.ENTRIES], par[lay.PLACES], par[lay.CLUSTER], par[lay.ROUNDS]
        pmd_span, pud_span, ceiling = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING]
        full_span = ceiling // cluster  # extents this far apart mean a full flush
        crowd = mostly_enough(par, cdfs, full_span) if places > 1 else 0
        table_batch, cover, limit = par[lay.TABLE_BATCH], par[lay.COVER], lim[lay.LIMIT_COVER]
        first_table, end_table = par[lay.FIRST_TABLE], par[lay.END_TABLE]
        streams, flags, of_region = room.streams, room.flags, room.of_region
        fill_streams(seed, rounds, streams)
        of_async = account[lay.ASYNC]
        carries = rounds > 1 and cover != ALWAYS
        by_bits = carries and places > 1
        block_span = pmd_span if by_bits else max(pmd_span, BLOCK_TABLES // pmd_span * pmd_span)
        regions = block_span // pmd_span
        width = block_span if by_bits else 0
        n_words = (places + 63) >> 6 if by_bits else 0
        present, drawn, first_words = room.words[:n_words], room.words[n_words : 2 * n_words], room.words[-1]
        at, place_rows = room.at, room.place_rows
        flags[:, :rounds] = False
        pmd_touched, pmd_mapped = flags[:regions], flags[regions : 2 * regions]
        pud_touched, pud_mapped = flags[2 * regions][:rounds], flags[2 * regions + 1][:rounds]
        pmd_first, kept_in, touched_in = of_region[0], of_region[1], of_region[2]
        pud_needed, pud_first = False, rounds
        threads, n_calls, by_key = par[lay.THREADS], par[lay.N_CALLS], par[lay.RANDOM] != 0
        hand = (n_calls + threads - 1) // threads
        pace = room.pace[: rounds * threads if threads > 1 else 0]
        pace[:] = 0
        attempts, steps_seen, steps_met = room.steps[0], room.steps[1][: 2 * pmd_span], room.steps[2][: 2 * pmd_span]
        pages, zapped_pages, freed, occupied, uncalled, met_by_none, reads, kept_full = 0, 0, 0, 0, 0, 0, 0, 0
        for block in range(first_table, end_table, block_span):
            n = min(block_span, end_table - block)
            padded = width if by_bits else (n + 7) & ~7
            if padded != sliced:  # a row, then part of it: the compiler must see that they are contiguous
                sliced, quarter = padded, padded // 4
                by_four, other_four, cells = room.hashes[0][:quarter], room.hashes[1][:quarter], room.cells[:padded]
                k, made, zapped, touched, unsure, lo, hi, carried = (
                    numbers[K][:padded], numbers[MADE][:padded], numbers[ZAPPED][:padded], numbers[TOUCHED][:padded],
                    numbers[UNSURE][:padded], numbers[LO][:padded], numbers[HI][:padded], numbers[CARRIED][:padded],
                )  # fmt: skip
                placed, easy, k_all, lo_all, hi_all = (
                    numbers[PLACED][:padded], numbers[EASY][:padded], numbers[K_ALL][:padded], numbers[LO_ALL][:padded],
                    numbers[HI_ALL][:padded],
                )  # fmt: skip
            touched[:], carried[:], present[:] = 0, 0, ZERO
            kept_tables, kept_extents = 0, 0  # from the round before
            pmd_first[:], kept_in[:], touched_in[:] = rounds, 0, 0
            for r in range(rounds):
                choices = streams[r]
                drawn_counts(block, cdfs, par[lay.CDF], choices, by_four, cells, k, unsure)
                if cover == MAYBE:
                    draws(choices[OF_CALL], block >> 2, 1, by_four)
                    calls_made(by_four.view(np.uint16), limit, made, unsure)
                    i = next_flag(unsure, 0)
                    while i < padded:
                        made[i] = draw(choices[OF_CALL_LOW], block + i) >> S16 < limit & LOW_48
                        i = next_flag(unsure, i + 1)
                else:
                    made[:] = cover == ALWAYS
                for i in range(n, padded):
                    k[i], made[i] = 0, 0
                kept_full += kept_tables
                if by_bits:
                    last = r + 1 == rounds
                    who_needs_places(k, made, carried, last, placed, easy)
                    drawn_ends(
                        block, places, k, easy, full_span, crowd, par, cdfs, choices, by_four, other_four, cells, lo,
                        hi, unsure,
                    )  # fmt: skip
                    if kept_tables > 0 or not last:
                        drawn[:] = ZERO
                        place_block(
                            drawn, block, places, placed, lo, hi, choices[OF_PLACE], first_words, at[1], place_rows
                        )
                        add_rows(present, drawn)
                    if kept_tables > 0:
                        survey_rows(present, first_words, at[0], at[1], k_all, lo_all, hi_all)
                        take_over(carried, k_all, lo_all, hi_all, k, lo, hi)
                elif carries:
                    carry_over(k, carried)

                in_block, zapped_in_block = 0, 0
                for region in range(regions):
                    a, b = region * pmd_span, min((region + 1) * pmd_span, n)
                    if a >= b:
                        break
                    end = (b + 3) & ~3
                    held, calls, zaps = held_and_zapped(k[a:end], made[a:end], zapped[a:end])
                    fresh, seen = held, zaps
                    if rounds > 1:
                        fresh = first_touched(k[a:end], touched[a:end])
                        touched_in[region] += fresh
                        seen = touched_in[region]
                    if carries:
                        seen = called_once_touched(touched[a:end], made[a:end])
                    in_block += held
                    zapped_in_block += zaps
                    occupied += held
                    freed += zaps
                    uncalled += b - a - calls
                    met_by_none += seen
                    per[r, lay.PTE_PEAK] += fresh
                    per[r, lay.PTE_PEAK + 1] += held
                    per[r, lay.PTE_END + 1] += held - zaps
                    if calls < b - a:
                        pmd_mapped[region, r] = True
                        pud_mapped[r] = True
                    if held > 0:
                        kept_in[region] = held - zaps
                        pmd_first[region], pud_first = min(pmd_first[region], r), min(pud_first, r)
                        pmd_touched[region, r] = True
                        pud_touched[r] = True
                    if threads > 1 and zaps > 0:
                        if by_key:
                            attempt_by_key(
                                block + a, zapped[a:b], hand, choices[OF_CALL], choices[OF_CALL_LOW], attempts[: b - a]
                            )
                        else:
                            attempt(
                                block + a,
                                zapped[a:b],
                                threads,
                                n_calls,
                                par[lay.INTERLEAVED],
                                pace[r * threads : (r + 1) * threads],
                                attempts[: b - a],
                            )
                        settle_trylocks(
                            attempts[: b - a], block + a, seed, r, contention, steps_seen, steps_met, entries, work
                        )
                    flush_freed(block, a, end, zapped, zaps, table_batch, entries, ceiling, of_async)
                if by_bits:
                    clear_called(present, made, first_words)
                if carries:
                    leave_over(k, made, carried)
                if in_block == 0:
                    continue

                if not by_bits:
                    drawn_ends(
                        block, places, k, made, full_span, crowd, par, cdfs, choices, by_four, other_four, cells, lo,
                        hi, unsure,
                    )  # fmt: skip
                there = total_of(k)
                gone, full, ranged, full_freed, ranged_freed, read = judge(k, made, lo, hi, cluster, ceiling)
                reads += read
                pages += there - kept_extents
                kept_tables, kept_extents = in_block - zapped_in_block, there - gone
                zapped_pages += gone
                per[r, lay.PAGES_PEAK] += there * cluster
                per[r, lay.PAGES_END] += (there - gone) * cluster
                account[lay.NONE, FULL] += full
                account[lay.NONE, RANGED] += ranged
                account[lay.NONE, SENT] += zapped_in_block
                account[lay.MERGED, FULL] += full_freed
                account[lay.MERGED, RANGED] += ranged_freed
                account[lay.MERGED, SENT] += zapped_in_block

            for region in range(regions):
                end = block + min((region + 1) * pmd_span, n)
                if region * pmd_span >= n:
                    break
                if pmd_first[region] < rounds:
                    per[pmd_first[region], lay.PMD_NEW] += 1
                if kept_in[region] > 0:
                    sums[lay.NEED_PMD] += 1
                    sums[lay.NEED_PMD_M] += 1
                    pud_needed = True
                upper_of_munmap(
                    per, lay.PMD_PEAK_M, lay.PMD_END_M, pmd_touched[region][:rounds], pmd_mapped[region][:rounds]
                )
                if pud_span > 0 and (end % pud_span == 0 or end == end_table):
                    if pud_first < rounds:
                        per[pud_first, lay.PUD_NEW] += 1
                    upper_of_munmap(per, lay.PUD_PEAK_M, lay.PUD_END_M, pud_touched, pud_mapped)
                    sums[lay.NEED_PUD] += pud_needed
                    sums[lay.NEED_PUD_M] += pud_needed
                    pud_first, pud_needed = rounds, False

        # One sum stood for many: hand it on. A table once touched stays under none.
        of_none, kept = 0, occupied - kept_full - freed
        for r in range(rounds):
            of_none += per[r, lay.PTE_PEAK]
            per[r, lay.PTE_PEAK], per[r, lay.PTE_END] = of_none, of_none
            for c in range(2, 5):
                per[r, lay.PTE_PEAK + c] += per[r, lay.PTE_PEAK + 1]
                per[r, lay.PTE_END + c] += per[r, lay.PTE_END + 1]
            per[r, lay.PAGES_PEAK + 1] += per[r, lay.PAGES_PEAK]
            per[r, lay.PAGES_END + 1] += per[r, lay.PAGES_END]
        sums[lay.CALLS] += (end_table - first_table) * rounds - uncalled
        sums[lay.NEED_PTE] += kept
        sums[lay.NEED_PTE_M] += kept
        for lane in (lay.INSTALLED, lay.INSTALLED_M):
            sums[lane] += pages * cluster
            sums[lane + 1] += zapped_pages * cluster
        for p in range(7):
            work[p, lay.VISITS] += freed if p != lay.NONE else met_by_none
            work[p, lay.ALLOCATED] += occupied - kept_full if p != lay.NONE else of_none
            work[p, lay.FREED] += freed if p != lay.NONE else 0
        work[lay.ASYNC, lay.PMD_LOCKS] += occupied
        work[lay.ASYNC, lay.PTE_LOCKS] += occupied
        work[lay.ASYNC, lay.RESCANNED] += freed * entries + reads
        work[lay.REFCOUNT, lay.PMD_LOCKS] += freed
        work[lay.SECOND, lay.PMD_LOCKS] += freed
        work[lay.SECOND, lay.PTE_LOCKS] += freed
        work[lay.SECOND, lay.RESCANNED] += freed * entries
        for p in (lay.SEED_INLINE, lay.MERGED):
            work[p, lay.TRYLOCKS] += freed
            work[p, lay.FAST] += freed
        for i in range(3):
            account[lay.ASYNC, i] += account[lay.NONE, i]
            for p in BY_POLICY_THAT_FREES:
                account[p, i] += account[lay.MERGED, i]
