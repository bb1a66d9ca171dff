"""mmu_gather: TLB flushes, the tables that wait for one, and page batches (docs/method.md, section 5)."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO, count_and_ends, nth_set
from engine.numeric.jit import inner
from engine.reclaim.rules import FREED, STAYS

MMU_GATHER_BUNDLE = 8
"""Entries of a gather's first page batch, which is on the stack (include/asm-generic/tlb.h)."""
EMPTY_FIRST, EMPTY_END = np.int64(1) << np.int64(62), np.int64(-1)


@inner
def flush(counters: Any, first: Any, end: Any, stride: Any, ceiling: Any) -> None:
    """Count one flush of pages [first, end) in units of `stride` pages; none if the range is empty."""
    if end <= first:
        return
    counters.flushes += 1
    if (end - first) // stride > ceiling:
        counters.tlb_flushes_full += 1
    else:
        counters.tlb_invlpgs += (end - first + stride - 1) // stride


@inner
def flush_one_visit(counters: Any, cleared: Any, base: Any, verdict: Any, entries: Any, ceiling: Any) -> None:
    """Count the flush of a call that has one piece.

    cleared: what it cleared, CLEARED; verdict: whether its table is freed, and so joins the flush. Writes counters.
    """
    if cleared.count > 0:
        first, end, stride = base + cleared.first, base + cleared.last + 1, 1
        if verdict != STAYS:
            first, end = min(first, base), max(end, base + 1)
        flush(counters, first, end, stride, ceiling)
    elif verdict != STAYS:
        flush(counters, base, base + 1, entries, ceiling)


@inner
def add_table_to_flush(counters: Any, cleared: Any, base: Any, entries: Any, ceiling: Any) -> None:
    """Turn the flush of a call that has one piece, already counted, into the one that it is if the table is freed.

    The table joins the flush by the first page of its slot, `base`. cleared: CLEARED
    """
    if cleared.count == 0:
        flush(counters, base, base + 1, entries, ceiling)
    elif cleared.first > 0:
        pages = cleared.last + 1 - cleared.first
        counters.flushes -= 1
        if pages > ceiling:
            counters.tlb_flushes_full -= 1
        else:
            counters.tlb_invlpgs -= pages
        flush(counters, base, base + cleared.last + 1, 1, ceiling)


@inner
def open_gathers(gathers: Any) -> None:
    """Empty the gather of each policy: a call begins. gathers: GATHER[policies]."""
    for p in range(gathers.size):
        open_gather(gathers[p])


@inner
def open_gather(g: Any) -> None:
    """Empty a gather."""
    g.first, g.end, g.cleared, g.tables = EMPTY_FIRST, EMPTY_END, 0, 0
    g.late_first, g.late_end, g.late_tables = EMPTY_FIRST, EMPTY_END, 0
    g.batch_first, g.batch_end, g.batched = EMPTY_FIRST, EMPTY_END, 0


@inner
def add_range(gather: Any, first: Any, end: Any) -> None:
    """Extend a gather by pages [first, end), whose entries were cleared."""
    gather.first, gather.end, gather.cleared = min(gather.first, first), max(gather.end, end), 1


@inner
def flush_gather(gather: Any, counters: Any, entries: Any, ceiling: Any) -> None:
    """Flush what a gather holds, and empty it."""
    flush(counters, gather.first, gather.end, 1 if gather.cleared else entries, ceiling)
    gather.first, gather.end, gather.cleared, gather.tables = EMPTY_FIRST, EMPTY_END, 0, 0


@inner
def gather_visit(
    gather: Any, counters: Any, cleared: Any, base: Any, verdict: Any, entries: Any, ceiling: Any, table_batch: Any
) -> None:
    """Add one visit of a call that has several pieces: its entries, a break's flush, and its table if it is freed."""
    if cleared.count > 0:
        if cleared.broke >= 0:
            add_range(gather, base + cleared.first, base + cleared.broke + 1)
            flush_gather(gather, counters, entries, ceiling)
            if cleared.first_after >= 0:
                add_range(gather, base + cleared.first_after, base + cleared.last_after + 1)
        else:
            add_range(gather, base + cleared.first, base + cleared.last + 1)
    if verdict == FREED:  # tlb_remove_table
        gather.first, gather.end = min(gather.first, base), max(gather.end, base + 1)
        gather.tables += 1
        if gather.tables == table_batch:
            flush_gather(gather, counters, entries, ceiling)
    elif verdict != STAYS:
        gather.late_first, gather.late_end = min(gather.late_first, base), max(gather.late_end, base + 1)
        gather.late_tables += 1
        if gather.late_tables == table_batch:
            if gather.batched:
                flush(counters, gather.late_first, gather.late_end, entries, ceiling)
            else:  # the first batch shares its flush with the entries cleared, which are not all known yet
                gather.batch_first, gather.batch_end, gather.batched = gather.late_first, gather.late_end, 1
            gather.late_first, gather.late_end, gather.late_tables = EMPTY_FIRST, EMPTY_END, 0


@inner
def close_gathers(gathers: Any, counters: Any, entries: Any, ceiling: Any) -> None:
    """Count the flushes at the end of a call, of each policy. counters: COUNTERS[policies], written."""
    for p in range(gathers.size):
        close_gather(gathers[p], counters[p], entries, ceiling)


@inner
def close_gather(g: Any, counters: Any, entries: Any, ceiling: Any) -> None:
    """Count the flushes of one gather at the end of its call."""
    stride = 1 if g.cleared else entries
    if g.batched:
        flush(counters, min(g.first, g.batch_first), max(g.end, g.batch_end), stride, ceiling)
        flush(counters, g.late_first, g.late_end, entries, ceiling)
    else:
        flush(counters, min(g.first, g.late_first), max(g.end, g.late_end), stride, ceiling)


@inner
def gather_scanned(scan: Any, counters: Any, base: Any, entries: Any, ceiling: Any, table_batch: Any) -> None:
    """Add to a scan's gather a table that the scan freed; a full batch is flushed. base: its first page; scan: SCAN."""
    if scan.tables == 0:
        scan.first = base
    scan.tables += 1
    scan.end = base + 1
    if scan.tables == table_batch:
        flush_scanned(scan, counters, entries, ceiling)


@inner
def flush_scanned(scan: Any, counters: Any, entries: Any, ceiling: Any) -> None:
    """Flush the gather of a scan, and empty it: the scan leaves a PMD table, or the batch of tables is full."""
    if scan.tables > 0:
        flush(counters, scan.first, scan.end, entries, ceiling)
        scan.tables = 0


@inner
def flush_scans(scans: Any, counters: Any, rounds: Any, par: Any) -> None:
    """Flush the scans of all rounds at the end of a PMD table.

    scans: SCAN[rounds, policies]; counters: COUNTERS[policies]
    """
    for r in range(rounds):
        for p in range(counters.size):
            flush_scanned(scans[r, p], counters[p], par.entries, par.ceiling)


@inner
def queue_pages(batches: Any, cleared: Any, words: Any, first: Any, end: Any, par: Any) -> None:
    """Put the pages that a piece cleared into the gather's page batches, PAGE_BATCHES.

    Sets cleared.broke to the entry at which they are full (a force break), and first_after and last_after.

    words: present entries before the zap. A piece breaks at most once: a table has fewer entries than a gather holds.
    """
    cleared.broke, cleared.first_after, cleared.last_after = -1, -1, -1
    if cleared.count == 0:
        return
    if par.folio == 1:
        capacity = page_capacity(par)
        batches.pages += cleared.count
        if batches.pages >= capacity:
            batches.pages -= capacity
            cleared.broke = nth_set(words, first, end, cleared.count - batches.pages)
    else:
        batches.pages, batches.batch, cleared.broke = queue_folios(
            words, first, end, par.folio, batches.pages, batches.batch, par.batch_pages, par.batches
        )
    if cleared.broke >= 0:
        _, cleared.first_after, cleared.last_after = count_and_ends(words, cleared.broke + 1, end)


@inner
def queue_folios(
    words: Any, first: Any, end: Any, folio: Any, filled: Any, batch: Any, batch_pages: Any, batches: Any
) -> tuple[Any, Any, Any]:
    """Put the present pages in [first, end) into page batches, folio by folio.

    Returns (entries filled in the current batch, its number, entry of the force break or -1). A run of pages of one
    folio takes two entries (__tlb_remove_folio_pages_size), a single page one.
    """
    broke = -1
    e = first
    while e < end:
        if words[e >> 6] & (ONE << np.uint64(e & 63)) == ZERO:
            e += 1
            continue
        stop = min(end, (e // folio + 1) * folio)
        last = e
        while last + 1 < stop and words[(last + 1) >> 6] & (ONE << np.uint64((last + 1) & 63)) != ZERO:
            last += 1
        filled += 1 if last == e else 2
        if filled >= (MMU_GATHER_BUNDLE if batch == 0 else batch_pages) - 1:
            filled = 0
            batch += 1
            if batch > batches:
                batch = 0
                broke = last
        e = last + 1
    return filled, batch, broke


@inner
def page_capacity(par: Any) -> Any:
    """Single pages that fill a gather: a batch is left when it has one free entry (tlb_next_batch)."""
    return MMU_GATHER_BUNDLE - 1 + par.batches * (par.batch_pages - 1)


@inner
def add_flushes(counters: Any, flushed: Any, times: Any) -> None:
    """Add the flushes of one COUNTERS record to another, `times` (1 or -1) times."""
    counters.flushes += times * flushed.flushes
    counters.tlb_flushes_full += times * flushed.tlb_flushes_full
    counters.tlb_invlpgs += times * flushed.tlb_invlpgs
