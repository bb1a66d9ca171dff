"""The records that compiled code reads and writes: parameters, counters, visits, gathers. All fields are int64."""

import numpy as np

from engine.model.results import WORK


def record(*names: str) -> np.dtype[np.void]:
    """A record type whose fields are all int64: an int64 array of that many columns can be viewed as it."""
    return np.dtype([(name, np.int64) for name in names])


PARAMETERS = record(
    "entries", "pages", "pmd_span", "pud_span", "zap", "shift", "calls", "cover", "random", "rounds", "free",
    "refault", "folio", "threads", "interleaved", "cluster", "places", "install", "cdf", "spans", "least", "most",
    "pin", "pin_cdf", "pin_spans", "batch_slots", "batches", "table_batch", "ceiling", "first_table", "end_table",
)  # fmt: skip
"""A point's parameters, as engine.reclaim.encode makes them: sizes in pages, spans in tables."""

LIMITS = np.dtype([(name, np.uint64) for name in ("install", "cover", "refault")])
"""An event happens when 64 random bits are below its limit."""

RULE = record(
    "when", "least", "skips_markers", "proof", "otherwise", "end_break_held", "tries", "every", "counts", "unmaps"
)
"""A policy's rule as numbers (engine.reclaim.rules); `least` in pages, a slot being as many pages as a table has."""

PER_POINT = ("zap_calls", "ptes_installed", "ptes_zapped", "force_breaks", "atomics", "ipis")
"""Columns of work that follow from LANE, TOTALS and the number of flushes."""
COUNTERS = record(*(name for name in WORK if name not in PER_POINT), "flushes")
"""What one policy did at one point: columns of an outcome, and all flushes, full and ranged."""

VISIT = record(
    "base", "pages", "whole", "markers", "broke", "others", "after_break", "back_early", "back", "left", "reads",
    "reads_rest", "rest_empty", "reads_outside", "outside_empty", "entries_inside", "unmaps", "step",
)  # fmt: skip
"""A piece of a call over a slot that has a table, as the rules see it.

base: the slot's first page; pages: of the piece; whole: it covers the slot; markers: the zap passed over one;
broke: NO_BREAK, END_BREAK or MID_BREAK; others: entries remain that this piece did not clear; after_break: present
entries that were cleared after a mid break; back_early: the first page cleared before a mid break that was touched
again, or -1; back: pages of the piece that were touched again; left: the first entry that is not none, or -1;
reads: entries that a scan of the whole table reads; reads_rest, rest_empty: the same of the entries that were not
cleared under the last hold, and whether all are none; reads_outside, outside_empty: of those outside the piece;
entries_inside: the piece holds an entry; unmaps: it is the last piece under which the slot was mapped; step: when it
takes place, of threads in lock step
"""

CLEARED = record("count", "first", "last", "broke", "first_after", "last_after")
"""Present entries that a piece cleared: how many, the outermost, the last one before a break and the outermost after
it; -1 where there is none."""

GATHER = record(
    "first", "end", "cleared", "tables", "late_first", "late_end", "late_tables", "batch_first", "batch_end", "batched"
)
"""An mmu_gather, pages [first, end) to be flushed, and that of tables that are freed after the call."""

PAGE_SLOTS = record("slots", "batch")
"""How far a gather's page batches are filled."""

SCAN = record("tables", "first", "end")
"""The gather of a scan at a round's end, one for each PMD table."""

UPPER = record("pmd_new", "pmd_peak", "pmd_end", "pud_new", "pud_peak", "pud_end")
"""Upper tables in a round: new ones where policies zap; those that exist at peak and end where they unmap."""

LANE = record("installed", "zapped", "breaks", "needed_pte", "needed_pmd", "needed_pud")
"""Entries of one point: the same for all policies that zap, others where ranges are unmapped."""

TOTALS = record("calls", "markers")
"""Of one point, under every policy: calls made, and pages with a guard marker."""
