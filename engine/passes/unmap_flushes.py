"""What the PMD and PUD tables that munmap frees add to the flushes of its calls (docs/method.md, section 5).

An upper table goes with the last call of a round below it, so few calls are concerned, which the passes over an address
space do not know beforehand. As every draw can be repeated, this pass replays just those calls: their flushes with the
upper tables less those without.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.bit_ops import ZERO, add_set, count_and_ends, fill_range
from engine.numeric.jit import inner, kernel
from engine.passes.residency_blocks import block_counts
from engine.random.binomial import ALWAYS, MAYBE, NEVER
from engine.random.splitmix import (
    FIELD,
    OF_CALL,
    OF_CALL_LOW,
    OF_EXTENT,
    OF_PLACE,
    STREAMS,
    call_key,
    draw,
    field,
    fill_pins,
    fill_streams,
)
from engine.reclaim.gather import EMPTY_END, EMPTY_FIRST, add_flushes, flush, page_capacity, queue_pages
from engine.reclaim.records import CLEARED, COUNTERS, PAGE_BATCHES, record
from engine.reclaim.residency import clear_beyond, install_table, outermost, place_extents, resident_extents

NO_TABLE, PMD_TABLES, ALL_TABLES = range(3)
"""Which upper tables take part in a flush."""
PRESENT, PLACED, SEEN, MARKER, BIT_ROWS = range(5)
"""Rows of `bits`, the entries of a table."""
BLOCK_TABLES, FEW_TABLES = 512, 64
NO_STRIDE = np.int64(1) << np.int64(62)
UNMAP_GATHER = record("first", "end", "stride", "tables")
"""An mmu_gather: pages [first, end) wait for a flush in units of `stride` pages, with so many freed tables."""
FREED = record("first_pmd", "last_pmd", "first_pud", "last_pud")
"""The upper tables that a call frees, if they exist, by number; both ends are included."""


STATE = np.dtype(
    [
        ("counts", np.uint16, (2, BLOCK_TABLES)),  # of each table of a block, whether it exists; scratch
        ("cells", np.uint32, BLOCK_TABLES),
        ("hashes", np.uint64, BLOCK_TABLES >> 2),
        ("gathers", UNMAP_GATHER, 2),  # with fewer upper tables, and with more
        ("counters", COUNTERS, 2),  # likewise
        ("batches", PAGE_BATCHES),
        ("cleared", CLEARED),
        ("freed", FREED),
    ]
)
"""One record, because every array that functions pass on makes each of their calls slower to compile."""


class Scratch(NamedTuple):
    """Memory that the pass works in."""

    bits: NDArray[np.uint64]  #: [BIT_ROWS, words]
    streams: NDArray[np.uint64]  #: [rounds, STREAMS]: keys of the random streams
    pins: NDArray[np.uint64]  #: [7]: keys of the streams of pinned pages
    state: NDArray[np.void]  #: STATE[1]


def fits(par: NDArray[np.void], rules: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which points (PARAMETERS[n]) this pass has to complete under these rules (RULE[policies]), as bool[n]."""
    return np.asarray((par["thp"] == 0) & rules["unmaps"].any())


def scratch_for(par: NDArray[np.void], rules: NDArray[np.void]) -> Scratch:
    """Return the memory for the largest of these points, PARAMETERS[n]."""
    return Scratch(
        bits=np.zeros((BIT_ROWS, int(par["entries"].max()) >> 6), np.uint64),
        streams=np.zeros((int(par["rounds"].max()), STREAMS), np.uint64),
        pins=np.zeros(OF_PLACE + 1, np.uint64),
        state=np.zeros(1, STATE),
    )


# Calls


@inner
def is_made(call: Any, r: Any, par: Any, lim: Any, s: Any) -> Any:
    """Whether a call is made in round `r`."""
    if par.cover != MAYBE:
        return par.cover == ALWAYS
    return call_key(s.streams[r, OF_CALL], s.streams[r, OF_CALL_LOW], call) < lim.cover


@inner
def is_unmapped(first: Any, end: Any, r: Any, par: Any, lim: Any, s: Any) -> Any:
    """Whether the calls of round `r` unmap all pages in [first, end)."""
    if par.calls == 0 or first < par.shift or par.cover == NEVER:
        return False
    if par.cover == ALWAYS:
        return True
    for call in range((first - par.shift) // par.zap, (end - 1 - par.shift) // par.zap + 1):
        if not is_made(call, r, par, lim, s):
            return False
    return True


@inner
def last_unmapped(first: Any, end: Any, r: Any, par: Any, lim: Any, s: Any) -> Any:
    """The last round before `r` in which pages [first, end) were unmapped, or -1."""
    r -= 1
    while r >= 0 and not is_unmapped(first, end, r, par, lim, s):
        r -= 1
    return r


@inner
def is_later(call: Any, other: Any, r: Any, par: Any, s: Any) -> Any:
    """Whether a call comes after another one, -1 for none, in the order of round `r`."""
    if other < 0 or not par.random:
        return call > other
    stream, low = s.streams[r, OF_CALL], s.streams[r, OF_CALL_LOW]
    a, b = call_key(stream, low, call), call_key(stream, low, other)
    return a > b or (a == b and call > other)


@inner
def last_call(first: Any, end: Any, r: Any, par: Any, s: Any) -> Any:
    """The last of the calls that meet pages [first, end), all of which are made."""
    begin, last = (first - par.shift) // par.zap, (end - 1 - par.shift) // par.zap
    if not par.random:
        return last
    stream = s.streams[r, OF_CALL]
    best, upper = begin, field(stream, begin)
    for four in range(begin >> 2, (last >> 2) + 1):  # calls that share a hash, the upper 16 bits of their keys
        bits = draw(stream, four)
        for call in range(max(begin + 1, 4 * four), min(last + 1, 4 * four + 4)):
            u = bits >> np.uint64(16 * (call & 3)) & FIELD
            if u > upper or (u == upper and is_later(call, best, r, par, s)):
                best, upper = call, u
    return best


@inner
def is_last_of(call: Any, first: Any, end: Any, r: Any, par: Any, lim: Any, s: Any) -> Any:
    """Whether a call unmaps the last of the pages in [first, end)."""
    return is_unmapped(first, end, r, par, lim, s) and last_call(first, end, r, par, s) == call


# Tables


@inner
def mark(table: Any, par: Any, cdfs: Any, s: Any, words: Any) -> Any:
    """Write the guard markers of a table to `words`, uint64[entries / 64]. Returns whether there are any."""
    if par.pin == NEVER:
        return False
    words[:] = ZERO
    if par.pin == ALWAYS:
        fill_range(words, 0, par.entries)
    else:
        pinned = resident_extents(table, cdfs, par.pin_cdf, s.pins)
        if pinned == 0:
            return False
        place_extents(words, s.bits[SEEN][: words.size], table, par.entries, pinned, 1, cdfs, par.pin_spans, s.pins)
    clear_beyond(words, min(par.entries, par.pages - table * par.entries))
    count, _, _ = count_and_ends(words, 0, par.entries)
    return count > 0


@inner
def count_extents(table: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> Any:
    """How many extents of a table an install writes. Of extents that are no fraction of a slot 1, if one may be."""
    if par.install == NEVER:
        return np.int64(0)
    if par.install == ALWAYS:
        return max(par.places, 1)
    if par.places > 0:
        return np.int64(resident_extents(table, cdfs, par.cdf, s.streams[r]))
    if par.cluster % par.entries == 0:
        return np.int64(draw(s.streams[r, OF_EXTENT], table * par.entries // par.cluster) < lim.install)
    return np.int64(1)


@inner
def install(table: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any, words: Any) -> Any:
    """Write the pages of an install, markers aside, to `words`. Returns whether there are any."""
    words[:] = ZERO
    extents = count_extents(table, r, par, lim, cdfs, s)
    valid = min(par.entries, par.pages - table * par.entries)
    if extents == 0:
        return False
    install_table(words, s.bits[SEEN][: words.size], table, valid, extents, par, lim, cdfs, s.streams[r])
    count, _, _ = count_and_ends(words, 0, par.entries)
    return count > 0


@inner
def is_touched(table: Any, after: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> Any:
    """Whether a table has got entries since round `after`, up to and with round `r`."""
    words = par.entries >> 6
    if mark(table, par, cdfs, s, s.bits[MARKER][:words]):
        return True
    is_plain = (table + 1) * par.entries <= par.pages and (
        par.places > 0 or par.install != MAYBE or par.cluster % par.entries == 0
    )
    for number in range(after + 1, r + 1):
        if is_plain:
            if count_extents(table, number, par, lim, cdfs, s) > 0:
                return True
        elif install(table, number, par, lim, cdfs, s, s.bits[PLACED][:words]):
            return True
    return False


@inner
def is_simple(par: Any) -> Any:
    """Whether each round's install alone decides which tables exist, by counts of extents."""
    return par.pin == NEVER and par.cover == ALWAYS and (par.places > 0 or par.install == ALWAYS)


@inner
def find_tables(block: Any, tables: Any, r: Any, par: Any, cdfs: Any, s: Any) -> None:
    """Write to the state's counts[0] which of so many slots from `block` on, both multiples of 4, have a table: not 0.

    Of a simple point (is_simple). What it writes for a slot that is cut off is of no use.
    """
    state = s.state[0]
    size, out = min(tables, (par.end_table - block + 3) & ~3), state.counts[0]
    if par.install == MAYBE:
        hashes, cells, scratch = state.hashes[: size >> 2], state.cells[:size], state.counts[1][:size]
        block_counts(block, cdfs, par, s.streams[r], hashes, cells, out[:size], scratch)
    else:
        for i in range(size):
            out[i] = par.install == ALWAYS


@inner
def has_table(first: Any, end: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> Any:
    """Whether there is a table of any level at the peak of round `r`, which maps pages [first, end)."""
    if par.install == NEVER and par.pin == NEVER:
        return False
    after = last_unmapped(first, end, r, par, lim, s)
    table, last = first // par.entries, (end - 1) // par.entries
    are_alike = par.pin == NEVER and par.places == 0 and par.cluster % par.entries == 0
    slots = par.cluster // par.entries if are_alike else np.int64(1)
    while table <= last:
        if is_simple(par) and after == r - 1 and table & 3 == 0 and last - table > 8:
            find_tables(table, FEW_TABLES, r, par, cdfs, s)
            whole = min(FEW_TABLES, end // par.entries - table)
            for i in range(whole):
                if s.state[0].counts[0, i]:
                    return True
            table += whole
            continue
        if is_touched(table, after, r, par, lim, cdfs, s):
            return True
        # Slots within one extent get entries in the same rounds, unless some have guard markers.
        table += slots - table % slots
    return False


@inner
def has_slot_table(table: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> Any:
    """Whether a slot has its table at the peak of round `r`."""
    return has_table(table * par.entries, min((table + 1) * par.entries, par.pages), r, par, lim, cdfs, s)


# The flush of a call


@inner
def empty(gather: Any) -> None:
    gather.first, gather.end, gather.stride, gather.tables = EMPTY_FIRST, EMPTY_END, NO_STRIDE, 0


@inner
def cover(gather: Any, first: Any, end: Any, stride: Any) -> None:
    """Extend the range, __tlb_adjust_range; the smallest stride holds (tlb_get_unmap_shift)."""
    gather.first, gather.end = min(gather.first, first), max(gather.end, end)
    gather.stride = min(gather.stride, stride)


@inner
def flush_out(gather: Any, counters: Any, par: Any) -> None:
    """Flush what the gather holds, and empty it."""
    flush(counters, gather.first, gather.end, 1 if gather.stride == NO_STRIDE else gather.stride, par.ceiling)
    empty(gather)


@inner
def free_table(gather: Any, counters: Any, page: Any, stride: Any, par: Any) -> None:
    """Add a table whose first page is `page`, and which maps `stride` pages."""
    cover(gather, page, page + 1, stride)
    gather.tables += 1
    if gather.tables == par.table_batch:
        flush_out(gather, counters, par)


@inner
def clear_entries(begin: Any, end: Any, call: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any, gather: Any) -> None:
    """Add what a call over pages [begin, end) clears after its last force break, table by table."""
    words, after = par.entries >> 6, r - 1
    while after >= 0 and not is_made(call, after, par, lim, s):
        after -= 1
    present, placed, marker = s.bits[PRESENT][:words], s.bits[PLACED][:words], s.bits[MARKER][:words]
    state = s.state[0]
    batches, cleared = state.batches, state.cleared
    batches.pages, batches.batch = 0, 0
    needs_ends = is_simple(par) and par.places > 0 and end - begin < page_capacity(par)
    for table in range(begin // par.entries, (end - 1) // par.entries + 1):
        base = table * par.entries
        if needs_ends and begin <= base and base + par.entries <= end:
            extents = count_extents(table, r, par, lim, cdfs, s)
            if extents > 0:
                first, last = outermost(table, par.places, extents, cdfs, par.spans, s.streams[r])
                cover(gather, base + first * par.cluster, base + (last + 1) * par.cluster, 1)
            continue
        present[:] = ZERO
        found = False
        for number in range(after + 1, r + 1):
            if install(table, number, par, lim, cdfs, s, placed):
                add_set(present, placed)
                found = True
        if not found:
            continue
        if mark(table, par, cdfs, s, marker):
            for w in range(words):
                present[w] &= ~marker[w]
        a, b = max(begin - base, 0), min(end - base, par.entries)
        cleared.count, cleared.first, cleared.last = count_and_ends(present, a, b)
        queue_pages(batches, cleared, present, a, b, par)
        if cleared.broke >= 0:
            empty(gather)
            cleared.first, cleared.last = cleared.first_after, cleared.last_after
        if cleared.count > 0 and cleared.first >= 0:
            cover(gather, base + cleared.first, base + cleared.last + 1, 1)


@inner
def count_pages(begin: Any, end: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> Any:
    """Pages of one install in [begin, end)."""
    words, total = par.entries >> 6, np.int64(0)
    for table in range(begin // par.entries, (end - 1) // par.entries + 1):
        base = table * par.entries
        a, b = max(begin - base, 0), min(end - base, par.entries)
        if b - a == par.entries and (par.places > 0 or par.cluster % par.entries == 0):
            unit = par.cluster if par.places > 0 else par.entries
            total += count_extents(table, r, par, lim, cdfs, s) * unit
        elif install(table, r, par, lim, cdfs, s, s.bits[PLACED][:words]):
            count, _, _ = count_and_ends(s.bits[PLACED][:words], a, b)
            total += count
    return total


@inner
def clear_roughly(begin: Any, end: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any, gather: Any) -> Any:
    """Do as clear_entries where its result is known without drawing the entries; else return False.

    A call that frees two tables has a full flush if it cleared an entry after its last break, and in any case if the
    tables are further apart than the ceiling.
    """
    first, last = -(-begin // par.entries), end // par.entries - 1  # of the slots that the call covers
    while first < last and not has_slot_table(first, r, par, lim, cdfs, s):
        first += 1
    while first < last and not has_slot_table(last, r, par, lim, cdfs, s):
        last -= 1
    if first >= last:
        return False
    clears = last - first > par.ceiling and par.ceiling + 1 < par.table_batch
    if not clears:
        if par.pin != NEVER or par.cover != ALWAYS:
            return False
        clears = end - begin < page_capacity(par)
        if not clears:
            if par.folio > 1:
                return False
            clears = count_pages(begin, end, r, par, lim, cdfs, s) % page_capacity(par) != 0
    if clears:
        cover(gather, first * par.entries, last * par.entries + 1, 1)
    return True


@inner
def add_upper_tables(call: Any, r: Any, fewer: Any, more: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> None:
    """Add the flushes of a call with `more` upper tables to the state's counters[1], those with `fewer` to counters[0].

    fewer, more: NO_TABLE, PMD_TABLES or ALL_TABLES; the state's `freed` says which tables these are
    """
    entries, pmd_pages, pud_pages = par.entries, par.pmd_span * par.entries, par.pud_span * par.entries
    begin = par.shift + call * par.zap
    end = min(begin + par.zap, par.pages)
    state = s.state[0]
    freed, gathers, counters = state.freed, state.gathers, state.counters
    if end - begin == entries and begin % entries == 0 and is_simple(par) and par.places > 0:
        add_one_slot(begin // entries, r, fewer, more, par, lim, cdfs, s)
        return
    empty(gathers[0])
    first_table, end_table = begin // entries, (end - 1) // entries + 1
    most = end_table - first_table + freed.last_pmd - freed.first_pmd + freed.last_pud - freed.first_pud + 2
    if not clear_roughly(begin, end, r, par, lim, cdfs, s, gathers[0]):
        clear_entries(begin, end, call, r, par, lim, cdfs, s, gathers[0])
    elif gathers[0].end > 0 and most < par.table_batch:
        return  # a full flush in any case
    gathers[1].first, gathers[1].end = gathers[0].first, gathers[0].end
    gathers[1].stride, gathers[1].tables = gathers[0].stride, 0
    block: Any = np.int64(-1)  # the block of which state.counts says which tables exist
    for table in range(first_table, end_table):
        base, stop = table * entries, min((table + 1) * entries, par.pages)
        if begin <= base and base + entries <= end and end_table - first_table > 8 and is_simple(par):
            if block != table & -BLOCK_TABLES:
                block = table & -BLOCK_TABLES
                find_tables(block, BLOCK_TABLES, r, par, cdfs, s)
            is_freed = state.counts[0, table - block] != 0
        else:
            is_freed = (begin <= base and stop <= end) or is_last_of(call, base, stop, r, par, lim, s)
            is_freed = is_freed and has_table(base, stop, r, par, lim, cdfs, s)
            block = np.int64(-1)
        if is_freed:
            free_table(gathers[0], counters[0], base, entries, par)
            free_table(gathers[1], counters[1], base, entries, par)
        is_end = table + 1 == end_table
        pmd = table // par.pmd_span
        if (is_end or (table + 1) % par.pmd_span == 0) and freed.first_pmd <= pmd <= freed.last_pmd:
            page, block = pmd * pmd_pages, np.int64(-1)  # has_table writes state.counts
            if has_table(page, min(page + pmd_pages, par.pages), r, par, lim, cdfs, s):
                if fewer >= PMD_TABLES:
                    free_table(gathers[0], counters[0], page, pmd_pages, par)
                free_table(gathers[1], counters[1], page, pmd_pages, par)
        if more < ALL_TABLES or not (is_end or (table + 1) % par.pud_span == 0):
            continue
        pud = table // par.pud_span
        if freed.first_pud <= pud <= freed.last_pud:
            page, block = pud * pud_pages, np.int64(-1)
            if has_table(page, min(page + pud_pages, par.pages), r, par, lim, cdfs, s):
                free_table(gathers[1], counters[1], page, pud_pages, par)
            if par.folded_p4d:
                cover(gathers[1], page, page + 1, NO_STRIDE)
    for i in range(2):
        flush_out(gathers[i], counters[i], par)


@inner
def add_one_slot(table: Any, r: Any, fewer: Any, more: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> None:
    """As add_upper_tables, for a call of one slot of a simple point (is_simple) with extents that divide the slot."""
    entries, pmd_pages, pud_pages = par.entries, par.pmd_span * par.entries, par.pud_span * par.entries
    state = s.state[0]
    base, gathers, freed = table * entries, state.gathers, state.freed
    empty(gathers[0])
    empty(gathers[1])
    extents = count_extents(table, r, par, lim, cdfs, s)
    if extents > 0:
        last = par.places - 1
        if extents < par.places:
            _, last = outermost(table, par.places, extents, cdfs, par.spans, s.streams[r])
        cover(gathers[0], base, base + (last + 1) * par.cluster, 1)
        cover(gathers[1], base, base + (last + 1) * par.cluster, 1)
    page = base // pmd_pages * pmd_pages
    exists = extents > 0 or has_table(page, min(page + pmd_pages, par.pages), r, par, lim, cdfs, s)
    if exists and freed.first_pmd <= freed.last_pmd:
        if fewer >= PMD_TABLES:
            cover(gathers[0], page, page + 1, pmd_pages)
        cover(gathers[1], page, page + 1, pmd_pages)
    if more == ALL_TABLES and freed.first_pud <= freed.last_pud:
        page = base // pud_pages * pud_pages
        if exists or has_table(page, min(page + pud_pages, par.pages), r, par, lim, cdfs, s):
            cover(gathers[1], page, page + 1, pud_pages)
        if par.folded_p4d:
            cover(gathers[1], page, page + 1, NO_STRIDE)
    flush_out(gathers[0], state.counters[0], par)
    flush_out(gathers[1], state.counters[1], par)


@inner
def freed_by(call: Any, span: Any, r: Any, par: Any, lim: Any, s: Any) -> tuple[Any, Any]:
    """(first, last) number of the tables that map `span` pages each and below which a call unmaps the last page."""
    begin = par.shift + call * par.zap
    end = min(begin + par.zap, par.pages)
    first, last = begin // span, (end - 1) // span
    if not is_last_of(call, first * span, min((first + 1) * span, par.pages), r, par, lim, s):
        first += 1
    if last > first and not is_last_of(call, last * span, min((last + 1) * span, par.pages), r, par, lim, s):
        last -= 1
    return first, last


@inner
def add_round(r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> None:
    """Add the flushes of one round's calls that free upper tables to the state's counters."""
    pmd_pages = par.pmd_span * par.entries
    freed = s.state[0].freed
    begin = par.first_table // par.pmd_span
    end = (par.end_table + par.pmd_span - 1) // par.pmd_span
    # The call that unmaps what was left of the table before, and the first table of which it does.
    pmd_call: Any = np.int64(-1)
    pud_call: Any = np.int64(-1)
    first_pmd: Any = np.int64(0)
    first_pud: Any = np.int64(0)
    is_certain = par.cover == ALWAYS and par.calls > 0
    latest, is_whole = np.int64(-1), True  # in the PUD table at hand: the last call; whether all is unmapped
    for pmd in range(begin, end + 1):
        call = np.int64(-1)
        page, stop = pmd * pmd_pages, min((pmd + 1) * pmd_pages, par.pages)
        if pmd < end and page >= par.shift and (is_certain or is_unmapped(page, stop, r, par, lim, s)):
            call = last_call(page, stop, r, par, s) if par.random else (stop - 1 - par.shift) // par.zap
        if pmd_call >= 0 and call != pmd_call:
            is_all = pmd == end and begin + 1 == end and par.pud_span > 0  # one PMD table, one PUD table
            freed.first_pmd, freed.last_pmd = first_pmd, pmd - 1
            freed.first_pud = first_pmd * par.pmd_span // par.pud_span if is_all else np.int64(0)
            freed.last_pud = freed.first_pud if is_all else np.int64(-1)
            add_upper_tables(pmd_call, r, NO_TABLE, ALL_TABLES if is_all else PMD_TABLES, par, lim, cdfs, s)
        if call != pmd_call:
            pmd_call, first_pmd = call, pmd
        if par.pud_span == 0 or begin + 1 == end:
            continue
        if pmd == end or pmd * par.pmd_span % par.pud_span == 0:  # the PUD table before is finished
            if pmd > begin:
                last = latest if is_whole else np.int64(-1)
                pud = (pmd - 1) * par.pmd_span // par.pud_span
                if pud_call >= 0 and last != pud_call:
                    add_pud_tables(pud_call, first_pud, pud - 1, r, par, lim, cdfs, s)
                if last != pud_call:
                    pud_call, first_pud = last, pud
                if pmd == end and pud_call >= 0:
                    add_pud_tables(pud_call, first_pud, pud, r, par, lim, cdfs, s)
            latest, is_whole = np.int64(-1), True
        if call < 0:
            is_whole = False
        elif is_later(call, latest, r, par, s):
            latest = call


@inner
def add_pud_tables(call: Any, first: Any, last: Any, r: Any, par: Any, lim: Any, cdfs: Any, s: Any) -> None:
    """Add what PUD tables first, ..., last, which a call frees, add to its flushes."""
    freed = s.state[0].freed
    freed.first_pmd, freed.last_pmd = freed_by(call, par.pmd_span * par.entries, r, par, lim, s)
    freed.first_pud, freed.last_pud = first, last
    add_upper_tables(call, r, PMD_TABLES, ALL_TABLES, par, lim, cdfs, s)


@kernel
def add_unmap_flushes(
    s: Any, rows: Any, groups: Any, seeds: Any, pars: Any, lims: Any, cdfs: Any, rules: Any, all_counters: Any
) -> None:
    """Add what upper tables add to the flushes of the points in `rows` under rules that unmap.

    Arguments: those of engine.passes.walk.walk.
    """
    state = s.state[0]
    for point in rows:
        par, lim, seed = pars[groups[point]], lims[groups[point]], seeds[point]
        fill_streams(seed, par.rounds, s.streams)
        fill_pins(seed, s.pins)
        for i in range(2):
            flushed = state.counters[i]
            flushed.flushes, flushed.tlb_flushes_full, flushed.tlb_invlpgs = 0, 0, 0
        for r in range(par.rounds):
            add_round(r, par, lim, cdfs, s)
        for p in range(rules.size):
            if rules[p].unmaps:
                add_flushes(all_counters[point, p], state.counters[1], 1)
                add_flushes(all_counters[point, p], state.counters[0], -1)
