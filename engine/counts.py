"""The shortest way: calls of a slot each, on tables that are empty when a round begins, or full.

Taken by the points of engine/slots.py that have one slot a call and extents that divide a table (`fits`).
A block of tables is done together, step by step over uint16 arrays, so that the compiler can use vector instructions:
how many extents each holds, whether its call is made, and whether three places show that its flush is a full one. What
that leaves open goes into a list, is looked at with more places, and at last one by one. Same results as
engine/walk.py, bit for bit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import layout as lay
from engine import slots
from engine.bits import ONE, ZERO, survey
from engine.blocks import drawn_counts, draws, list_flagged, most_of, next_flag, nth_flag, steps_of, total_of
from engine.chance import ALWAYS, MAYBE
from engine.contend import attempt, attempt_by_key, settle_trylocks
from engine.flush import FULL, RANGED, SENT, flush
from engine.install import place_extents
from engine.jit import inner, kernel
from engine.keyed import CALL, CALL_LOW, COUNT, COUNT_LOW, GOLDEN, LOW_48, PLACE, S16, S48, draw, key, mix
from engine.upper import upper_of_munmap

BLOCK_TABLES = 2_048
"""Tables in a block, or a PMD table's if that has more: arrays of 4 KiB."""
FEW = 16
"""One table in so many occupied: three places of each are not worth their hash. So many left: each by itself."""
LOOKS = (7, 14)
"""Places looked at for the tables of a list, and for what is then still open."""
BY_POLICY_THAT_FREES = (lay.REFCOUNT, lay.SECOND, lay.SEED_INLINE, lay.MUNMAP)
(
    K,
    MADE,
    ZAPPED,
    TOUCHED,
    OPEN,
    LISTED,
    SOME,
    CALLED,
    LO,
    HI,
    EXACT,
    SPANS,
    REACHES,
    READS,
    SPARE,
    STEPS,
    WEIGHTS,
    CARRIED,
) = range(18)
"""Rows of a room's numbers: of each table of the block, and from LISTED on of each in the list."""


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    one = par[:, lay.ZAP] == par[:, lay.ENTRIES]
    counted = (par[:, lay.PLACES] > 0) & (par[:, lay.INSTALL] == MAYBE)
    fresh = (par[:, lay.COVER] == ALWAYS) | (par[:, lay.ROUNDS] == 1) | (par[:, lay.PLACES] == 1)
    return np.asarray(slots.fits(par) & one & counted & fresh)


@inner
def room(pars: Any, rows: Any) -> Any:
    """Scratch for blocks: hashes, numbers of tables, their places, and steps of threads.

    uint64[4, tables], uint16[18, tables], uint16[14, tables], int64[3, 2 x tables] (-1 throughout)
    """
    tables = BLOCK_TABLES
    for point in rows:
        tables = max(tables, pars[point, lay.PMD_SPAN])
    tables += 64
    steps = np.zeros((3, 2 * tables), np.int64)
    steps[:] = -1
    return (
        np.zeros((4, tables), np.uint64),
        np.zeros((18, tables), np.uint16),
        np.zeros((14, tables), np.uint16),
        steps,
    )


@inner
def calls_made(upper: Any, limit: Any, made: Any, unsure: Any) -> None:
    """made: uint16[n], 1 where the upper 16 bits of a call's key say so; unsure: where the lower 48 decide."""
    step = np.uint16(limit >> S48)
    for i in range(made.size):
        made[i] = upper[i] < step
        unsure[i] = upper[i] == step


@inner
def places_of(hashes: Any, bits: Any, wanted: Any, places: Any) -> None:
    """places: uint16[wanted, n], the first places of each table's hash, `bits` wide."""
    low = (ONE << np.uint64(bits)) - ONE
    for j in range(wanted):
        shift = np.uint64(j * bits)
        row = places[j]
        for i in range(hashes.size):
            row[i] = np.uint16((hashes[i] >> shift) & low)


@inner
def leave_open(places: Any, k: Any, made: Any, half: Any, cluster: Any, ceiling: Any, is_open: Any) -> None:
    """is_open: uint16[n], 0 for tables without a page and for those called whose flush is full by three places."""
    a, b, c = places[0], places[1], places[2]
    width, most, middle = np.uint16(cluster), np.uint16(ceiling), np.uint16(half)
    for i in range(k.size):
        have = k[i]
        x, y, z = a[i], b[i], c[i]
        y = y if have > 1 else x
        z = z if have > 2 else x
        span = np.uint16(np.uint16(max(max(x, y), z) - min(min(x, y), z) + 1) * width)
        wide = (np.uint16(have * width) > most) | ((have <= middle) & (span > most))
        is_open[i] = (have > 0) & ((made[i] == 0) | (not wide))


@inner
def span_of(places: Any, looked: Any, n: Any, k: Any, lo: Any, hi: Any, exact: Any) -> None:
    """The lowest and highest of each table's first min(k, looked) places; exact: 1 if that is all there is to it."""
    half, top, whole, seen = np.uint16(n // 2), np.uint16(n - 1), np.uint16(n), np.uint16(looked)
    for i in range(k.size):
        lo[i] = places[0][i]
        hi[i] = places[0][i]
        exact[i] = (k[i] <= seen) & (k[i] <= half)  # above half, the places drawn are the absent ones
    for j in range(1, looked):
        row, number = places[j], np.uint16(j)
        for i in range(k.size):
            x, low, high, drawn = row[i], lo[i], hi[i], k[i] > number
            lo[i] = x if drawn & (x < low) else low
            hi[i] = x if drawn & (x > high) else high
        for before in range(0, j, 3):
            one, two, three = places[before], places[min(before + 1, j - 1)], places[min(before + 2, j - 1)]
            for i in range(k.size):
                x = row[i]
                exact[i] &= ((one[i] != x) & (two[i] != x) & (three[i] != x)) | (k[i] <= number)
    for i in range(k.size):
        have, low, high = k[i], lo[i], hi[i]
        exact[i] |= have == whole
        lo[i] = np.uint16(0) if have == whole else low
        hi[i] = top if have == whole else high


@inner
def judge(numbers: Any, m: Any, half: Any, cluster: Any, ceiling: Any) -> tuple[Any, Any, Any]:
    """Of a list: (full flushes, ranged ones, those of them that are full with the table freed).

    SPANS becomes the INVLPGs of ranged flushes, REACHES those with the table freed, READS the entries that async reads;
    EXACT becomes 0 where nothing is settled. All in 16 bits, so that many tables fit in a vector.
    """
    k, called, lo, hi, exact = (
        numbers[SOME][:m], numbers[CALLED][:m], numbers[LO][:m], numbers[HI][:m], numbers[EXACT][:m]
    )  # fmt: skip
    spans, reaches, reads = numbers[SPANS][:m], numbers[REACHES][:m], numbers[READS][:m]
    full, ranged, far = np.uint16(0), np.uint16(0), np.uint16(0)
    width, most, middle = np.uint16(cluster), np.uint16(ceiling), np.uint16(half)
    for i in range(m):
        have, first, end = k[i], lo[i], np.uint16(hi[i] + 1)
        zapped, known = called[i] != 0, exact[i] != 0
        span, reach, read = np.uint16((end - first) * width), np.uint16(end * width), np.uint16(first * width + 1)
        wide = zapped & ((np.uint16(have * width) > most) | (((have <= middle) | known) & (span > most)))
        small = zapped & known & (not wide)
        over = small & (reach > most)
        full = np.uint16(full + wide)
        ranged = np.uint16(ranged + small)
        far = np.uint16(far + over)
        spans[i] = span if small else 0
        reaches[i] = reach if small & (not over) else 0
        reads[i] = read if known & (not zapped) else 0
        exact[i] = known | wide
    return np.int64(full), np.int64(ranged), np.int64(far)


@inner
def sums_called(k: Any, made: Any, is_open: Any) -> tuple[Any, Any]:
    """(extents in tables called, tables called that are open), of uint16[n], n up to 8,192."""
    extents, calls = np.uint32(0), np.uint16(0)
    for i in range(k.size):
        have, called = k[i], made[i] != 0
        extents = np.uint32(extents + (have if called else np.uint16(0)))
        calls = np.uint16(calls + (called & (is_open[i] != 0)))
    return np.int64(extents), np.int64(calls)


@inner
def settle_list(
    first: Any, m: Any, stream: Any, bits: Any, n: Any, cluster: Any, ceiling: Any, rooms: Any, words: Any,
    scratch: Any, account: Any,
) -> Any:  # fmt: skip
    """Account for the flushes of the m tables LISTED, counted from `first`; the entries that async reads of them."""
    hashes, numbers, places = rooms[0][1], rooms[1], rooms[2]
    listed, some, called, exact, spare = (
        numbers[LISTED], numbers[SOME], numbers[CALLED], numbers[EXACT], numbers[SPARE]
    )  # fmt: skip
    reads = 0
    for look in range(2):
        wanted = LOOKS[look]
        for i in range(m):
            some[i], called[i] = numbers[K][listed[i]], numbers[MADE][listed[i]]
        padded = min((m + 63) & ~63, some.size)  # a vector loop does not end in single steps
        some[m:padded] = 0
        wanted = min(wanted, most_of(some[:padded]))
        looked = 0
        if bits > 0:
            for number in range(look + 1):
                for i in range(padded):
                    hashes[i] = mix(stream + np.uint64((first + listed[i]) * 4096 + number + 1) * GOLDEN)
                part = min(64 // bits, wanted - looked)
                places_of(hashes[:padded], bits, part, places[looked:])
                looked += part
                if looked == wanted:
                    break
        else:
            places[0][:padded] = 0
            looked = 1
        span_of(places, looked, n, some[:padded], numbers[LO], numbers[HI], exact)
        full, ranged, far = judge(numbers, m, n // 2, cluster, ceiling)
        account[lay.NONE, FULL] += full
        account[lay.NONE, RANGED] += total_of(numbers[SPANS][:m])
        account[lay.NONE, SENT] += full + ranged
        account[lay.MERGED, FULL] += full + far
        account[lay.MERGED, RANGED] += total_of(numbers[REACHES][:m])
        account[lay.MERGED, SENT] += full + ranged
        reads += total_of(numbers[READS][:m])
        kept: Any = 0
        for i in range(m):
            spare[kept] = listed[i]
            kept += np.int64(exact[i] == 0)
        for i in range(kept):
            listed[i] = spare[i]
        m = kept
        if m < FEW:
            break
    for i in range(m):
        table = np.int64(listed[i])
        words[:] = ZERO
        place_extents(words, scratch, first + table, n, np.int64(numbers[K][table]), 1, stream)
        _, low, high = survey(words, 0, n)
        if numbers[MADE][table]:
            flush(account[lay.NONE], low * cluster, (high + 1) * cluster, 1, ceiling)
            flush(account[lay.MERGED], 0, (high + 1) * cluster, 1, ceiling)
        else:
            reads += low * cluster + 1
    return reads


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
def carry_over(k: Any, carried: Any) -> Any:
    """Tables that are full from the round before: how many. k: uint16[n], 0 or 1, is brought up to date."""
    full = np.uint16(0)
    for i in range(k.size):
        k[i] |= carried[i]
        full = np.uint16(full + carried[i])
    return np.int64(full)


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
def flush_freed(region: Any, zapped: Any, zaps: Any, batch: Any, entries: Any, ceiling: Any, account: Any) -> None:
    """The flushes of async for the tables that it frees in one PMD table."""
    first, rest = 0, zaps
    while rest > 0:
        some = min(rest, batch)
        first = next_flag(zapped, first)
        last = nth_flag(zapped, zaps - rest + some)
        flush(account, (region + first) * entries, (region + last) * entries + 1, entries, ceiling)
        first, rest = last + 1, rest - some


@kernel
def walk_counts(
    rows: Any, pars: Any, lims: Any, cdfs: Any, guides: Any, contention: Any, offsets: Any, pers: Any, works: Any,
    all_sums: Any, accounts: Any,
) -> None:  # fmt: skip
    """As engine.walk.walk, with the same arguments, for points that fit."""
    rooms = room(pars, rows)
    for point in rows:
        par, lim, work, sums, account = pars[point], lims[point], works[point], all_sums[point], accounts[point]
        per = pers[offsets[point] : offsets[point + 1]]
        entries, places, cluster, rounds = par[lay.ENTRIES], par[lay.PLACES], par[lay.CLUSTER], par[lay.ROUNDS]
        pmd_span, pud_span, ceiling, seed = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING], par[lay.SEED]
        table_batch, cover, limit = par[lay.TABLE_BATCH], par[lay.COVER], lim[lay.LIMIT_COVER]
        cdf, guide = cdfs[par[lay.CDF] : par[lay.CDF] + places], guides[par[lay.GUIDE]]
        first_table, end_table = par[lay.FIRST_TABLE], par[lay.END_TABLE]
        bits = 0
        while (1 << bits) < places:
            bits += 1
        steps, weights = rooms[1][STEPS], rooms[1][WEIGHTS]
        n_steps = steps_of(cdf, steps, weights)
        words, scratch = rooms[0][2][: (places + 63) >> 6], rooms[0][3]
        streams = np.empty((rounds, 5), np.uint64)
        for r in range(rounds):
            for i, what in enumerate((COUNT, COUNT_LOW, PLACE, CALL, CALL_LOW)):
                streams[r, i] = key(seed, r, what)
        block_span = max(pmd_span, BLOCK_TABLES // pmd_span * pmd_span)
        regions = block_span // pmd_span
        flags = np.zeros((2 * regions + 2, rounds), np.bool_)
        pmd_touched, pmd_mapped = flags[:regions], flags[regions : 2 * regions]
        pud_touched, pud_mapped = flags[2 * regions], flags[2 * regions + 1]
        of_region = np.empty((3, regions), np.int64)
        pmd_first, kept_in, touched_in = of_region[0], of_region[1], of_region[2]
        pud_needed, pud_first = False, rounds
        threads, n_calls, by_key = par[lay.THREADS], par[lay.N_CALLS], par[lay.RANDOM] != 0
        hand = (n_calls + threads - 1) // threads
        pace = np.zeros((rounds if threads > 1 else 0, threads), np.int64)
        attempts, steps_seen, steps_met = rooms[3][0], rooms[3][1][: 2 * pmd_span], rooms[3][2][: 2 * pmd_span]
        pages, zapped_pages, freed, occupied, uncalled, met_by_none, reads, kept_full = 0, 0, 0, 0, 0, 0, 0, 0
        carries = rounds > 1 and cover != ALWAYS

        for block in range(first_table, end_table, block_span):
            n = min(block_span, end_table - block)
            padded = (n + 7) & ~7
            by_four, by_one = rooms[0][0][: padded // 4], rooms[0][1][:padded]
            k, made, zapped, touched, is_open = (
                rooms[1][K][:padded], rooms[1][MADE][:padded], rooms[1][ZAPPED][:padded], rooms[1][TOUCHED][:padded],
                rooms[1][OPEN][:padded],
            )  # fmt: skip
            carried = rooms[1][CARRIED][:padded]
            touched[:], carried[:] = 0, 0
            pmd_first[:], kept_in[:], touched_in[:] = rounds, 0, 0
            for r in range(rounds):
                drawn_counts(
                    block,
                    places,
                    cdf,
                    guide,
                    steps,
                    weights,
                    n_steps,
                    streams[r, 0],
                    streams[r, 1],
                    by_four,
                    k,
                    is_open,
                )
                if cover == MAYBE:
                    draws(streams[r, 3], block >> 2, 1, by_four)
                    calls_made(by_four.view(np.uint16), limit, made, is_open)
                    i = next_flag(is_open, 0)
                    while i < padded:
                        made[i] = draw(streams[r, 4], block + i) >> S16 < limit & LOW_48
                        i = next_flag(is_open, i + 1)
                else:
                    made[:] = cover == ALWAYS
                for i in range(n, padded):
                    k[i], made[i] = 0, 0
                full = carry_over(k, carried) if carries else 0
                kept_full += full

                in_block, called_in_block = 0, 0
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
                    called_in_block += zaps
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
                                block + a, zapped[a:b], hand, streams[r, 3], streams[r, 4], attempts[: b - a]
                            )
                        else:
                            attempt(
                                block + a,
                                zapped[a:b],
                                threads,
                                n_calls,
                                par[lay.INTERLEAVED],
                                pace[r],
                                attempts[: b - a],
                            )
                        settle_trylocks(
                            attempts[: b - a], block + a, seed, r, contention, steps_seen, steps_met, entries, work
                        )
                    flush_freed(block + a, zapped[a:end], zaps, table_batch, entries, ceiling, account[lay.ASYNC])
                if carries:
                    leave_over(k, made, carried)
                if in_block == 0:
                    continue

                if bits > 0 and in_block * FEW > n:
                    draws(streams[r, 2], block * 4096, 4096, by_one)
                    places_of(by_one, bits, min(3, 64 // bits), rooms[2])
                    leave_open(rooms[2], k, made, places // 2, cluster, ceiling, is_open)
                else:
                    for i in range(padded):
                        is_open[i] = k[i] > 0
                there = total_of(k)
                pages += there - full
                per[r, lay.PAGES_PEAK] += there * cluster
                m = list_flagged(is_open, rooms[1][LISTED])
                gone, listed_calls = sums_called(k, made, is_open)
                zapped_pages += gone
                per[r, lay.PAGES_END] += (there - gone) * cluster
                for p in (lay.NONE, lay.MERGED):
                    account[p, FULL] += called_in_block - listed_calls
                    account[p, SENT] += called_in_block - listed_calls
                if m > 0:
                    reads += settle_list(
                        block, m, streams[r, 2], bits, places, cluster, ceiling, rooms, words, scratch, account
                    )

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
                upper_of_munmap(per, lay.PMD_PEAK_M, lay.PMD_END_M, pmd_touched[region], pmd_mapped[region])
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
