"""The records that compiled code reads and writes: parameters, counters, visits, gathers. All fields are int64."""

import numpy as np

from engine.model.results import WORK


def record(*names: str) -> np.dtype[np.void]:
    """A record type whose fields are all int64: an int64 array of that many columns can be viewed as it."""
    return np.dtype([(name, np.int64) for name in names])


PARAMETERS = record(
    "entries", "pages", "pmd_span", "pud_span", "zap", "shift", "calls", "cover", "random", "rounds", "free",
    "refault", "folio", "threads", "interleaved", "cluster", "places", "install", "cdf", "spans", "fewest", "most",
    "pin", "pin_cdf", "pin_spans", "batch_pages", "batches", "table_batch", "ceiling", "first_table", "end_table",
    "thp", "huge_unit", "folded_p4d",
)  # fmt: skip
"""A point's parameters, as engine.reclaim.encode makes them: sizes in pages, spans in tables."""

LIMITS = np.dtype([(name, np.uint64) for name in ("install", "cover", "refault")])
"""An event happens when 64 random bits are below its limit."""

RULE = record(
    "when", "least", "skips_markers", "proof", "otherwise", "end_break_held", "tries", "every", "counts", "unmaps"
)
"""A policy's rule as numbers (engine.reclaim.rules); `least` in pages, a slot being as many pages as a table has."""

PER_POINT = (
    *("zap_calls", "ptes_installed", "ptes_zapped", "force_breaks", "atomics", "ipis"),
    *("thp_faults", "thp_splits"),
)
"""Columns of work that follow from CONTENT or OWN, TOTALS and the number of flushes."""
COUNTERS = record(*(name for name in WORK if name not in PER_POINT), "flushes")
"""What one policy did at one point: columns of an outcome, and all flushes, full and ranged."""

VISIT = record(
    "base", "pages", "whole", "markers", "broke", "others", "after_break", "refaulted_early", "refaulted", "left",
    "reads", "reads_rest", "rest_empty", "reads_outside", "outside_empty", "entries_inside", "unmaps", "step",
    "tried", "fast",
)  # fmt: skip
"""A piece of a call over a slot that has a table, as the rules see it.

base: the first page of the slot
pages: size of the piece; whole: whether it covers the slot
markers: whether the zap passed over a guard marker in the piece
broke: NO_BREAK, END_BREAK or MID_BREAK (engine.reclaim.rules), a force break during the zap
others: whether the table has entries that this piece did not clear
after_break: whether present entries were cleared after a MID_BREAK
refaulted: pages of the piece that were touched again; refaulted_early: the first of them before a MID_BREAK, or -1
left: the first entry that is not none, or -1; reads: entries that a scan of the whole table reads
reads_rest, rest_empty: entries read if only those not cleared during the last hold are read; whether all are none
reads_outside, outside_empty: the same for the entries outside the piece; entries_inside: whether the piece has one
unmaps: whether this piece is the last one under which the slot was mapped
step: its place in the order of visits if several threads run in lock step
tried, fast: the policies that tried the PMD lock, a bit each, and those for which that was a fast path
"""

CLEARED = record("count", "first", "last", "broke", "first_after", "last_after")
"""Present entries that a piece cleared: number, first, last, the one at which the force break happened, and the first
and last after it; -1 where there is none."""

GATHER = record(
    "first", "end", "cleared", "tables", "late_first", "late_end", "late_tables", "batch_first", "batch_end", "batched"
)
"""An mmu_gather. Pages [first, end) wait for a flush; cleared: whether they include entries of pages, not only tables;
tables: freed tables that wait with them. late_*: the same of tables that are freed after the call; batch_first,
batch_end, batched: the first full batch of those, which waits for the flush of the call's entries."""

PAGE_BATCHES = record("pages", "batch")
"""How far a gather's page batches are filled: entries of the current batch, and its number."""

SCAN = record("tables", "first", "end")
"""The gather of a scan at a round's end, one for each PMD table: number of freed tables, pages [first, end)."""

PMD, PUD = range(2)
UPPER = record("new", "peak", "end")
"""PMD or PUD tables in a round: new ones where policies zap; those that exist at peak and end where they unmap."""

ZAP, UNMAP = range(2)
CONTENT = record("installed", "zapped", "breaks", "needed_pte", "needed_pmd", "needed_pud")
"""The entries of one point: CONTENT[ZAP] under every policy that zaps, CONTENT[UNMAP] where ranges are unmapped."""

PEAK, END = range(2)
"""The moments of a round at which tables and pages are counted."""

OWN = record(
    *("installed", "zapped", "breaks", "needed_pte", "needed_pmd", "needed_pud"),
    *("faults", "splits", "huge_peak", "huge_end"),
)
"""What CONTENT has, of one point with huge pages and policy; and huge pages: brought by faults, split, and those that
exist at the last peak and end."""

TOTALS = record("calls", "markers")
"""Of one point, under every policy: calls made, and pages with a guard marker."""
