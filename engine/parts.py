"""The short way for calls that are an aligned part of one slot: no call covers a table, none crosses one.

Taken when zap divides the table's span, the grid of calls is aligned to it, and nothing pins or refaults (`fits`). Then
the whole-slot rule never frees, so second_walk, seed_inline and merged keep what none keeps; no gather fills; and only
refcount, async and munmap need a look. A block of tables is done together: row by row, a word of every table or a call
of every table at a time, so that the compiler can use vector instructions. Same results as engine/walk.py, bit for bit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import layout as lay
from engine.bits import ONE, ZERO, first_set, last_set, popcount
from engine.chance import ALWAYS, MAYBE, NEVER
from engine.counts import draws
from engine.flush import FULL, RANGED, SENT, flush, flush_with_table
from engine.install import drawn_extents, place_extents, resident_extents
from engine.jit import inner, kernel
from engine.keyed import CALL, CALL_LOW, COUNT, COUNT_LOW, EXTENT, FIELD, LOW_48, PLACE, S16, S48, call_key, draw, key
from engine.upper import upper_of_munmap

FEW = 16
"""One table in so many freed: each by itself is cheaper."""
S6, LOW_6 = np.uint64(6), np.uint64(63)


def fits(par: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points (rows of int64[n, PARAMETERS]) may go this way: bool[n]."""
    entries, zap = par[:, lay.ENTRIES], par[:, lay.ZAP]
    aligned = (
        (zap < entries) & (entries % zap == 0) & (par[:, lay.SHIFT] % zap == 0) & (par[:, lay.PAGES] % entries == 0)
    )
    plain = (par[:, lay.FREE] == 0) & (par[:, lay.REFAULTS] == NEVER) & (par[:, lay.PIN] == NEVER)
    return np.asarray(aligned & plain)


@inner
def block_tables(entries: Any) -> Any:
    """Tables in a block: its rows stay in the second cache."""
    return 256 if entries <= 512 else 64


@inner
def desk(pars: Any, rows: Any) -> Any:
    """Scratch for all these points: (words: uint64[*], numbers: uint16[*])."""
    words, numbers = 0, 0
    for i in rows:
        entries = pars[i, lay.ENTRIES]
        tables = block_tables(entries)
        words = max(words, (3 * (entries >> 6) + 4) * tables)
        numbers = max(numbers, (2 * (entries // pars[i, lay.ZAP]) + 10) * tables)
    return np.zeros(words, np.uint64), np.zeros(numbers, np.uint16)


@inner
def merge(present: Any, i: Any, drawn: Any) -> Any:
    """Add what was drawn to table i; how many pages are new."""
    fresh: Any = 0
    for v in range(drawn.size):
        fresh += popcount(drawn[v] & ~present[v, i])
        present[v, i] |= drawn[v]
    return fresh


@inner
def place_pages(present: Any, i: Any, table: Any, bits: Any, k: Any, stream: Any) -> None:
    """Place k pages, at most half of all, in table i that is empty: as place_extents, without a copy."""
    low, shift, fields = (ONE << np.uint64(bits)) - ONE, np.uint64(bits), 64 // bits
    number = 0
    while k > 0:
        h = draw(stream, table * 4096 + number)
        number += 1
        for _ in range(fields):
            q = h & low
            h >>= shift
            word = np.int64(q >> S6)
            old = present[word, i]
            new = old | (ONE << (q & LOW_6))
            present[word, i] = new
            k -= old != new
            if k == 0:
                break


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
def spans_within_words(cleared: Any, zap: Any) -> tuple[Any, Any]:
    """(calls that cleared something, pages from their first to their last) for calls below 64 pages, all of a block.

    Bits are smeared up and down within each call's lane; what both reach is the span.
    """
    ups, downs = np.zeros(6, np.uint64), np.zeros(6, np.uint64)
    steps = 0
    while (1 << steps) < zap:
        keep_up, keep_down = ZERO, ZERO
        for bit in range(64):
            if bit % zap >= 1 << steps:
                keep_up |= ONE << np.uint64(bit)
            if bit % zap < zap - (1 << steps):
                keep_down |= ONE << np.uint64(bit)
        ups[steps], downs[steps] = keep_up, keep_down
        steps += 1
    lowest = ZERO
    for bit in range(0, 64, zap):
        lowest |= ONE << np.uint64(bit)
    some, pages = 0, 0
    up_row, down_row = np.zeros(cleared.shape[1], np.uint64), np.zeros(cleared.shape[1], np.uint64)
    for v in range(cleared.shape[0]):
        row = cleared[v]
        for i in range(row.size):
            up_row[i], down_row[i] = row[i], row[i]
        for s in range(steps):
            by, up_mask, down_mask = np.uint64(1 << s), ups[s], downs[s]
            for i in range(row.size):
                up_row[i] |= (up_row[i] << by) & up_mask
                down_row[i] |= (down_row[i] >> by) & down_mask
        for i in range(row.size):
            some += popcount(down_row[i] & lowest)
            pages += popcount(up_row[i] & down_row[i])
    return some, pages


@inner
def span_of_part(cleared: Any, i: Any, part: Any, zap: Any) -> tuple[Any, Any]:
    """(first, last) page that a call cleared in table i, or (0, -1)."""
    if zap < 64:
        at = part * zap
        x = (cleared[at >> 6, i] >> np.uint64(at & 63)) & ((ONE << np.uint64(zap)) - ONE)
        if x == ZERO:
            return 0, -1
        return at + first_set(x), at + last_set(x)
    lo, hi = 0, -1
    for v in range(part * zap >> 6, (part + 1) * zap >> 6):
        x = cleared[v, i]
        if x != ZERO:
            if hi < 0:
                lo = v * 64 + first_set(x)
            hi = v * 64 + last_set(x)
    return lo, hi


@inner
def unflush(account: Any, lo: Any, hi: Any, ceiling: Any) -> None:
    """Take back the flush of pages [lo, hi]: it is counted anew with a table freed in the same call."""
    account[SENT] -= 1
    if hi + 1 - lo > ceiling:
        account[FULL] -= 1
    else:
        account[RANGED] -= hi + 1 - lo


@inner
def last_calls(cleared: Any, zap: Any, by_key: Any, keys: Any, has: Any, best: Any, last: Any) -> None:
    """Of each table the last call in order that cleared something (last: uint16[n], 0 if none), best: its key."""
    lane = (ONE << np.uint64(zap & 63)) - ONE if zap < 64 else ~ZERO
    best[:], last[:] = 0, 0
    for p in range(keys.shape[0]):
        has[:] = 0
        for v in range(p * zap >> 6, ((p + 1) * zap + 63) >> 6):
            row, bits = cleared[v], lane << np.uint64((p * zap) & 63)
            for i in range(has.size):
                has[i] |= np.uint16((row[i] & bits) != ZERO)
        number = np.uint16(p)
        if by_key:
            key_row = keys[p]
            for i in range(has.size):
                x, high, at = key_row[i], best[i], last[i]
                later = (has[i] != 0) & (x >= high)
                best[i] = x if later else high
                last[i] = number if later else at
        else:
            for i in range(has.size):
                last[i] = number if has[i] != 0 else last[i]


@inner
def count_late(keys: Any, made: Any, by_key: Any, best: Any, last: Any, late: Any, equal: Any) -> None:
    """Of each table the calls made after the last that cleared something; equal: those with its upper 16 bits."""
    late[:], equal[:] = 0, 0
    for p in range(made.shape[0]):
        key_row, row = keys[p], made[p]
        if by_key:
            for i in range(late.size):
                late[i] += row[i] if key_row[i] > best[i] else np.uint16(0)
                equal[i] += row[i] if key_row[i] == best[i] else np.uint16(0)
        else:
            for i in range(late.size):
                late[i] += row[i] if last[i] < p else np.uint16(0)


@inner
def last_made(keys: Any, best: Any, last: Any, equal: Any) -> None:
    """Of each table the call with the highest key, and how many share its upper 16 bits."""
    best[:], last[:], equal[:] = 0, 0, 0
    for p in range(keys.shape[0]):
        row, number = keys[p], np.uint16(p)
        for i in range(best.size):
            x, high, at, same = row[i], best[i], last[i], equal[i]
            best[i] = max(x, high)
            last[i] = number if x >= high else at
            equal[i] = np.uint16(1) if x > high else np.uint16(same + (x == high))


@inner
def first_entries(present: Any, lowest: Any) -> None:
    """lowest: int64[n], the entry at which a look for one that is not none ends."""
    for v in range(present.shape[0] - 1, -1, -1):
        row = present[v]
        for i in range(lowest.size):
            x = row[i]
            lowest[i] = v * 64 + first_set(x) if x != ZERO else lowest[i]


@inner
def last_by_full_key(
    cleared: Any, i: Any, zap: Any, made: Any, stream: Any, low: Any, first: Any, any_call: Any
) -> tuple[Any, Any]:
    """(the last made call in order that cleared something, or of any_call the last made; made calls after it)."""
    parts = made.shape[0]
    best, best_key = -1, ZERO
    for p in range(parts):
        if made[p, i] and (any_call or span_of_part(cleared, i, p, zap)[1] >= 0):
            full = call_key(stream, low, first + p)
            if best < 0 or full >= best_key:
                best, best_key = p, full
    late = 0
    for p in range(parts):
        full = call_key(stream, low, first + p)
        late += made[p, i] != 0 and (full > best_key or (full == best_key and p > best))
    return best, late


@inner
def add_up(n: Any, parts: Any, n_made: Any, touched: Any, exists_m: Any, held: Any, left: Any) -> Any:
    """Sums over n tables, in the order of its return statement.

    They are tables: touched ever, kept, there under munmap; pages left and zapped; tables whose calls were all made;
    calls made; visits under none, of tables with a page, under munmap.
    """
    zero: Any = 0
    n_touched, n_kept, n_mapped, end_pages, zapped, full_calls = zero, zero, zero, zero, zero, zero
    all_made, visits, visits_held, visits_m = zero, zero, zero, zero
    for i in range(n):
        some = np.int64(n_made[i])
        all_made += some
        n_touched += touched[i]
        n_mapped += exists_m[i]
        visits += some if touched[i] != 0 else 0
        visits_held += some if held[i] > 0 else 0
        visits_m += some if exists_m[i] != 0 else 0
        full_calls += some == parts
        n_kept += left[i] > 0
        end_pages += left[i]
        zapped += held[i] - left[i]
    return n_touched, n_kept, n_mapped, end_pages, zapped, full_calls, all_made, visits, visits_held, visits_m


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
    rows: Any, pars: Any, lims: Any, cdfs: Any, guides: Any, contention: Any, offsets: Any, pers: Any, works: Any,
    all_sums: Any, accounts: Any,
) -> None:  # fmt: skip
    """As engine.walk.walk, with the same arguments, for points that fit."""
    desks = desk(pars, rows)
    for point in rows:
        par, lim, work, sums, account = pars[point], lims[point], works[point], all_sums[point], accounts[point]
        per = pers[offsets[point] : offsets[point + 1]]
        entries, rounds, places, cluster = par[lay.ENTRIES], par[lay.ROUNDS], par[lay.PLACES], par[lay.CLUSTER]
        pmd_span, pud_span, ceiling, seed = par[lay.PMD_SPAN], par[lay.PUD_SPAN], par[lay.CEILING], par[lay.SEED]
        table_batch, install, cover, by_key = (
            par[lay.TABLE_BATCH],
            par[lay.INSTALL],
            par[lay.COVER],
            par[lay.RANDOM] != 0,
        )
        zap, shift, limit = par[lay.ZAP], par[lay.SHIFT], lim[lay.LIMIT_COVER]
        parts, n_words, tables = entries // zap, entries >> 6, block_tables(entries)
        zap_bits, part_bits = 0, 0
        while (1 << zap_bits) < zap:
            zap_bits += 1
        while (1 << part_bits) < parts:
            part_bits += 1
        cdf, guide = cdfs[par[lay.CDF] : par[lay.CDF] + max(places, 0)], guides[par[lay.GUIDE]]
        size = n_words * tables
        present, cleared = desks[0][:size].reshape(n_words, tables), desks[0][size : 2 * size].reshape(n_words, tables)
        drawn, scratch = desks[0][2 * size : 2 * size + n_words], desks[0][2 * size + n_words : 2 * size + 2 * n_words]
        hashes = desks[0][3 * size : 3 * size + tables]
        mask = desks[0][3 * size + tables : 3 * size + 2 * tables]
        keys = desks[1][: parts * tables].reshape(parts, tables)
        made = desks[1][parts * tables : 2 * parts * tables].reshape(parts, tables)
        spare = desks[1][2 * parts * tables : (2 * parts + 10) * tables].reshape(10, tables)
        n_made, best, last, late, equal, has, touched, exists_m, listed = (
            spare[0], spare[1], spare[2], spare[3], spare[4], spare[5], spare[6], spare[7], spare[8]
        )  # fmt: skip
        held, left, lowest = np.zeros(tables, np.int64), np.zeros(tables, np.int64), np.zeros(tables, np.int64)
        streams = np.empty((rounds, 6), np.uint64)
        for r in range(rounds):
            for i, what in enumerate((COUNT, COUNT_LOW, PLACE, EXTENT, CALL, CALL_LOW)):
                streams[r, i] = key(seed, r, what)
        scan = np.zeros((rounds, 3), np.int64)
        pmd_touched, pud_touched = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
        pmd_mapped, pud_mapped = np.zeros(rounds, np.bool_), np.zeros(rounds, np.bool_)
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
                occupied, occupied_m, touched_now, peak, installed, fresh_tables = 0, 0, 0, 0, 0, 0
                for i in range(n):
                    table, fresh = block + i, 0
                    if places > 0:
                        k = places if install == ALWAYS else 0
                        if install == MAYBE:
                            k = resident_extents(table, places, cdf, guide, streams[r, 0], streams[r, 1])
                        if cluster == 1 and k <= places // 2 and held[i] == 0:
                            fresh = k
                            place_pages(present, i, table, zap_bits + part_bits, k, streams[r, 2])
                        elif k > 0:
                            drawn[:] = ZERO
                            place_extents(drawn, scratch, table, places, k, cluster, streams[r, 2])
                            fresh = merge(present, i, drawn)
                    elif install != NEVER:
                        drawn[:] = ZERO
                        drawn_extents(
                            drawn, table * entries, entries, cluster, install, lim[lay.LIMIT_INSTALL], streams[r, 3]
                        )
                        fresh = merge(present, i, drawn)
                    if fresh > 0:
                        fresh_tables += held[i] == 0
                        if not touched[i]:
                            touched[i] = 1
                            pmd_first, pud_first = min(pmd_first, r), min(pud_first, r)
                            work[lay.NONE, lay.ALLOCATED] += 1
                        if not exists_m[i]:
                            exists_m[i] = 1
                            work[lay.MUNMAP, lay.ALLOCATED] += 1
                        held[i] += fresh
                        installed += fresh
                    touched_now += touched[i]
                    occupied += held[i] > 0
                    occupied_m += exists_m[i]
                    peak += held[i]
                sums[lay.INSTALLED] += installed
                for p in (lay.REFCOUNT, lay.ASYNC):
                    work[p, lay.ALLOCATED] += fresh_tables
                if occupied > 0:
                    pmd_touched[r] = True
                    pud_touched[r] = True
                per[r, lay.PTE_PEAK] += touched_now
                per[r, lay.PTE_PEAK + 1] += occupied
                per[r, lay.PTE_PEAK + lay.UNMAPPED] += occupied_m
                per[r, lay.PAGES_PEAK] += peak

                # Which calls are made, what they clear.
                calls, calls_low = streams[r, 4], streams[r, 5]
                if cover == MAYBE or (by_key and cover == ALWAYS and (occupied > 0 or occupied_m > 0)):
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
                    clear_rows(present, made, zap, mask, cleared)
                    left[:] = 0
                    for v in range(n_words):
                        row_left = present[v]
                        for i in range(tables):
                            left[i] += popcount(row_left[i])
                    sent, ranged, full = 0, 0, 0
                    if zap < 64:
                        sent, ranged = spans_within_words(cleared, zap)
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
                n_touched, n_kept, n_mapped, end_pages, zapped, full_calls, all_made, visits, visits_held, visits_m = (
                    add_up(n, parts, n_made, touched, exists_m, held, left)
                )
                if full_calls < n:
                    pmd_mapped[r] = True
                    pud_mapped[r] = True

                # refcount: the last call in order that cleared something freed the table; later ones do not meet it.
                frees = list_freed(n, held, left, listed)
                if by_key and frees * FEW < n:
                    equal[:] = 2
                elif frees > 0:
                    last_calls(cleared, zap, by_key, keys, has, best, last)
                    count_late(keys, made, by_key, best, last, late, equal)
                missed = 0
                for i in listed[:frees]:
                    part: Any = np.int64(last[i])
                    after: Any = np.int64(late[i])
                    if equal[i] > 1:
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
                    if by_key:
                        last_made(keys, best, last, equal)
                    for i in range(n):
                        if n_made[i] < parts or not exists_m[i]:
                            continue
                        end_part: Any = parts - 1
                        if by_key:
                            end_part = np.int64(last[i])
                            if equal[i] > 1:
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
                    lowest[:] = -1
                    first_entries(present, lowest)
                    for i in range(n):
                        reads += lowest[i] + 1
                for i in range(n):
                    held[i] = left[i]
                sums[lay.CALLS] += all_made
                sums[lay.ZAPPED] += zapped
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
                per[r, lay.PTE_END] += n_touched
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
