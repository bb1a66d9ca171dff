"""Where the pages of a block of tables lie, as rows of words: uint64[words, tables], word v of all tables in row v."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ONES, ZERO, first_set, last_set, popcount, window
from engine.numeric.jit import inner
from engine.random.splitmix import S32, draw
from engine.shortcuts.residency_blocks import draws, total_of
from engine.shortcuts.residency_ir import BITS, TABLES, WORDS, place_eight
from engine.walk.residency import bits_of

S6, LOW_6 = np.uint64(6), np.uint64(63)
MOST_FIELDS = 7
"""Places of one hash that a block takes at once: all of them for 512 extents a table and more."""
PLACE_ROWS = MOST_FIELDS + 4
"""Rows of numbers that place_block needs."""


@inner
def count_left(present: Any, pages: Any, left: Any) -> None:
    """Pages of each table as left: uint16[n]; pages: int64[n] is scratch, as loops that mix widths are slow."""
    pages[:] = 0
    for v in range(present.shape[0]):
        row = present[v]
        for i in range(pages.size):
            pages[i] += popcount(row[i])
    for i in range(pages.size):
        left[i] = pages[i]


@inner
def merge_rows(present: Any, drawn: Any, pages: Any, fresh: Any) -> None:
    """The same of a block; fresh: uint16[n], pages: int64[n] is scratch."""
    pages[:] = 0
    for v in range(present.shape[0]):
        row, new = present[v], drawn[v]
        for i in range(pages.size):
            pages[i] += popcount(new[i] & ~row[i])
            row[i] |= new[i]
    for i in range(pages.size):
        fresh[i] = pages[i]


@inner
def places_between(
    hashes: Any, bits: Any, field: Any, lo: Any, hi: Any, wanted: Any, count: Any, stop: Any, row: Any
) -> None:
    """row: uint16[n], one place of each table's hash where it lies between lo and hi and is wanted, else lo.

    count: how many were, stop: the number of fields looked at up to the last that was; both are brought up to date.
    """
    low, shift = (ONE << np.uint64(bits)) - ONE, np.uint64(bits * (field % (64 // bits)))
    for i in range(row.size):
        row[i] = np.uint16((hashes[i] >> shift) & low)
    one, number = np.uint16(1), np.uint16(field + 1)
    for i in range(row.size):
        q, first, have = row[i], lo[i], count[i]
        taken = (np.uint16(q - first - one) < np.uint16(hi[i] - first - one)) & (have < wanted[i])
        count[i] = np.uint16(have + taken)
        stop[i] = number if taken else stop[i]
        row[i] = q if taken else first


@inner
def place_block(
    present: Any, first: Any, n: Any, ks: Any, lo: Any, hi: Any, stream: Any, hashes: Any, pages: Any, rows: Any
) -> None:
    """Place ks[i] pages from lo[i] to hi[i] in each table, whatever was there: as place_extents, without a copy.

    All tables take places of as many hashes as the mean of them needs and some more, seen or not; the rest is placed
    one by one.
    pages: int64[tables] and rows: uint16[PLACE_ROWS, tables] are scratch.
    """
    bits = bits_of(n)
    fields = 64 // max(bits, 1)
    wanted, count, stop, listed = (
        rows[MOST_FIELDS], rows[MOST_FIELDS + 1], rows[MOST_FIELDS + 2], rows[MOST_FIELDS + 3]
    )  # fmt: skip
    one, two = np.uint16(1), np.uint16(2)
    n_words = present.shape[0]
    for i in range(ks.size):
        within, between = np.uint16(ks[i] - two), np.uint16(hi[i] - lo[i] - one)
        wanted[i] = within if (ks[i] > two) & (within <= np.uint16(between - within)) else np.uint16(0)
    total = total_of(wanted)
    hashed = 0
    if fields <= MOST_FIELDS and 2 * total > ks.size:
        slots = ks.size * fields  # some places are taken twice, or lie outside; a table may want more than the mean
        hashed = (total + (total >> 4) + 7 * ks.size // 2 + slots - 1) // slots
    if n_words == WORDS and bits == BITS:
        for i in range(0, ks.size, TABLES):
            place_eight(present, i, ks, lo, hi, wanted, count, stop, pages, stream, first, hashed)
    else:
        place_by_rows(
            present, first, bits, fields, ks, lo, hi, wanted, count, stop, stream, hashed, hashes, pages, rows
        )
    each, upto = np.uint64(fields), (ONE << S32) // np.uint64(fields) + ONE  # x * upto >> 32 is x // fields
    crowded = np.uint16(0)
    for i in range(ks.size):
        looked = np.uint64(stop[i]) if count[i] == wanted[i] else np.uint64(hashed * fields)
        number = looked * upto >> S32
        hashes[i] = number << S6 | (looked - number * each) * np.uint64(bits)
        pages[i] -= np.int64(ks[i])
    for i in range(ks.size):
        crowded = np.uint16(crowded + ((wanted[i] == 0) & (ks[i] > two)))
    if crowded > 0:
        for i in range(ks.size):
            if wanted[i] == 0 and pages[i] < 0:
                place_absent(
                    present, first, n, bits, fields, i, np.int64(ks[i]), np.int64(lo[i]), np.int64(hi[i]), stream
                )
                pages[i] = 0
    place_rest(present, first, n, bits, fields, lo, hi, stream, hashes, pages, listed)


@inner
def place_by_rows(
    present: Any, first: Any, bits: Any, fields: Any, ks: Any, lo: Any, hi: Any, wanted: Any, count: Any, stop: Any,
    stream: Any, hashed: Any, hashes: Any, pages: Any, rows: Any,
) -> None:  # fmt: skip
    """engine.shortcuts.residency_ir.place_eight of all tables of a block, of any size: field by field."""
    present[:], count[:], stop[:] = ZERO, 0, 0
    for number in range(hashed):
        draws(stream, first * 4096 + number, 4096, hashes)
        for j in range(fields):
            places_between(hashes, bits, number * fields + j, lo, hi, wanted, count, stop, rows[j])
        for j in range(fields):  # table by table: one word after the other would wait for it
            row = rows[j]
            for i in range(row.size):
                q = np.uint64(row[i])
                present[q >> S6, i] |= ONE << (q & LOW_6)
    for i in range(ks.size):
        if ks[i] > 0:
            for q in (np.uint64(lo[i]), np.uint64(hi[i])):
                present[q >> S6, i] |= ONE << (q & LOW_6)
    pages[:] = 0
    for i in range(ks.size):
        hashes[i] = ONES if ks[i] > 0 else ZERO
    for v in range(present.shape[0]):
        row = present[v]
        for i in range(pages.size):
            kept = row[i] & hashes[i]  # in a table without pages some were noted, at its lo
            row[i] = kept
            pages[i] += popcount(kept)


@inner
def place_rest(
    present: Any, first: Any, n: Any, bits: Any, fields: Any, lo: Any, hi: Any, stream: Any, at: Any, lacks: Any,
    listed: Any,
) -> None:  # fmt: skip
    """Place what is left in each table: lacks, int64[n], up to 0.

    One place a table in turn, as no branch foresees how many are left. at: uint64[n], where each is in its hashes:
    the number of one (<< 6) and a bit in it; listed: uint16[n] is scratch.
    """
    low, shift = np.uint64(n - 1), np.uint64(bits)
    end, next_hash = shift * np.uint64(fields - 1), np.uint64(64 - bits * fields)
    m = np.int64(0)
    for i in range(lacks.size):
        listed[m] = i
        m += np.int64(lacks[i] < 0)
    while m > 0:
        left = np.int64(0)
        for turn in range(m):
            table = np.int64(listed[turn])
            place, before = at[table], np.uint64(lo[table])
            bit = place & LOW_6
            q = draw(stream, (first + table) * 4096 + np.int64(place >> S6)) >> bit & low
            at[table] = place + shift + (next_hash if bit == end else ZERO)
            word = q >> S6
            old = present[word, table]
            new = old | (np.uint64(q - before < np.uint64(hi[table]) - before) << (q & LOW_6))
            present[word, table] = new
            lack = lacks[table] + np.int64(old != new)
            lacks[table] = lack
            listed[left] = table
            left += np.int64(lack < 0)
        m = left


@inner
def place_absent(
    present: Any, first: Any, n: Any, bits: Any, fields: Any, i: Any, k: Any, a: Any, z: Any, stream: Any
) -> None:
    """The same of one table, most of whose pages between a and z are there: the others are drawn."""
    low, shift = np.uint64(n - 1), np.uint64(bits)
    for v in range(a >> 6, (z >> 6) + 1):
        present[v, i] |= window(v, a, z + 1)
    before, room, number, wanted = np.uint64(a + 1), np.uint64(z - a - 1), 0, z - a + 1 - k
    while wanted > 0:
        h = draw(stream, (first + i) * 4096 + number)
        number += 1
        for _ in range(fields):
            q = h & low
            h >>= shift
            word = q >> S6
            old = present[word, i]
            new = old & ~(np.uint64(q - before < room) << (q & LOW_6))
            present[word, i] = new
            wanted -= old != new
            if wanted == 0:
                break


@inner
def survey_rows(present: Any, words: Any, at: Any, pages: Any, k: Any, lo: Any, hi: Any) -> None:
    """k, lo, hi: uint16[n], how many are set in each table, the first and the last (of any value if none is).

    words: uint64[n], at: int64[n], pages: int64[n], scratch: the first or last word that is not zero, and its place.
    """
    count_left(present, pages, k)
    words[:] = ZERO
    for v in range(present.shape[0]):
        row = present[v]
        for i in range(at.size):
            before = words[i]
            at[i] = v * 64 if before == ZERO else at[i]
            words[i] = row[i] if before == ZERO else before
    for i in range(at.size):
        at[i] += first_set(words[i])
    for i in range(at.size):
        lo[i] = at[i]
    for v in range(present.shape[0]):
        row = present[v]
        for i in range(at.size):
            x = row[i]
            at[i] = v * 64 if x != ZERO else at[i]
            words[i] = x if x != ZERO else words[i]
    for i in range(at.size):
        at[i] += last_set(words[i])
    for i in range(at.size):
        hi[i] = at[i]


@inner
def add_rows(present: Any, drawn: Any) -> None:
    """What was drawn is present."""
    for v in range(present.shape[0]):
        row, new = present[v], drawn[v]
        for i in range(row.size):
            row[i] |= new[i]


@inner
def clear_called(present: Any, made: Any, mask: Any) -> None:
    """Nothing is present any more in tables that were called; mask: uint64[n], scratch."""
    for i in range(mask.size):
        mask[i] = ZERO if made[i] != 0 else ONES
    for v in range(present.shape[0]):
        row = present[v]
        for i in range(row.size):
            row[i] &= mask[i]
