"""What a piece of a call clears of a slot that may have a huge page: splits, zaps, and the gather's page batches."""

from typing import Any

import numpy as np

from engine.huge_pages.slot import HUGE, count_of
from engine.numeric.bit_ops import ONE, ONES, ZERO, clear_range, count_and_ends, nth_set
from engine.numeric.jit import inner
from engine.reclaim.gather import MMU_GATHER_BUNDLE, flush, flush_gather
from engine.reclaim.records import record
from engine.reclaim.rules import END_BREAK, MID_BREAK, NO_BREAK
from engine.reclaim.visits import describe_leftovers

VISITED, LEFT, CLEANED, CLEARED_HUGE = range(4)
"""What a piece of a call did: it met a table; a huge page that it left alone, made clean (MADV_FREE) or cleared."""
PIECE = record("what", "splits", "zapped")
"""What a piece did to the slot of a lane; splits: it split a huge page first; zapped: cleared entries of the table."""


@inner
def add_singles(batches: Any, count: Any, words: Any, a: Any, b: Any, par: Any) -> Any:
    """Put `count` single pages, the entries of `words` in [a, b), into page batches.

    Returns the entry of the force break, or -1.
    """
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
    """Count the own flush of a huge entry that is split or made clean, before the call's (flush_pmd_tlb_range)."""
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
