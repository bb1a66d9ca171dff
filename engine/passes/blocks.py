"""What the two passes over blocks of tables share: memory, the draws of an install, and what policies count a round.

These passes (engine.passes.slots, engine.passes.parts) know beforehand which visits can free a table under which
rules. They compute numbers for a block of tables at once, and each policy adds the same few sums.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.jit import inner
from engine.passes.residency_blocks import block_counts, block_ends
from engine.random.binomial import MAYBE, NEVER
from engine.random.splitmix import OF_EXTENT, STREAMS, draw
from engine.reclaim.gather import gather_scanned
from engine.reclaim.records import CLEARED, COUNTERS, END, PEAK, SCAN, VISIT, record
from engine.reclaim.rules import AFTER_ROUND, count_scan
from engine.reclaim.upper_tables import LEVEL, LEVEL_ROUND, LEVELS

BLOCK_TABLES = 512
DRAWN, LOW, HIGH, PAGES, EVER, CALLS, EMPTIED, UNMAP_HAS, HAS_BITS, SCRATCH, NUMBERS = range(11)
"""Rows of `numbers`, uint16 per table.

DRAWN: extents that an install draws; LOW, HIGH: the first and last resident one
PAGES: resident pages; EVER: whether the table ever had a page
CALLS: calls of the slot that are made; EMPTIED: whether they cleared its last page
UNMAP_HAS: whether there is a table where ranges are unmapped; HAS_BITS: whether the entries of the table are drawn
SCRATCH: for draws that 16 bits do not decide, and tables that a scan frees
"""
SEEN, PLACED, TABLES = range(3)
"""Rows of `bits`: scratch, the entries of one install, and from TABLES on the entries of each table."""
BLOCK_ROUND = record(
    "had", "has", "left", "emptied", "new", "ever", "visits", "visits_ever", "visits_until_empty", "reads",
    "visit_reads", "visit_reads_outside", "unmap_new", "unmap_visits", "unmap_freed", "unmap_peak", "unmap_end",
)  # fmt: skip
"""Sums over a block in one round, from which each policy counts.

had, has, left: tables with pages before the install, after it, and after the calls; emptied: has - left
new: tables that get their first page; ever: tables that ever had one
visits, visits_ever: visits of tables with pages at the peak, and of those that ever had one; visits_until_empty: those
    up to the one that clears a table's last page
reads: entries that a scan of the tables with pages at the peak reads
visit_reads, visit_reads_outside: entries that a scan at each visit before the one that empties the table reads, if it
    reads the whole table, and if only what is outside the piece; over all rounds and blocks of a point
unmap_*: tables that are new, visits, tables freed, at the peak and at the end, where ranges are unmapped
"""


class Block(NamedTuple):
    """Memory for one block of tables."""

    hashes: NDArray[np.uint64]  #: [4, *]
    cells: NDArray[np.uint32]  #: [tables]
    numbers: NDArray[np.uint16]  #: [NUMBERS, tables]
    exists: NDArray[np.uint16]  #: [policies, tables], under rules that scan every few rounds
    bits: NDArray[np.uint64]  #: [TABLES + tables, words]
    made: NDArray[np.uint16]  #: a flag for each call that meets the block
    streams: NDArray[np.uint64]  #: [rounds, STREAMS], keys of the random streams
    sums: NDArray[np.void]  #: BLOCK_ROUND[1]
    scans: NDArray[np.void]  #: SCAN[rounds, policies]
    levels: NDArray[np.void]  #: LEVEL[LEVELS]
    level_rounds: NDArray[np.void]  #: LEVEL_ROUND[LEVELS, rounds]
    flushed: NDArray[np.void]  #: COUNTERS[*], flushes by kind of visit
    visit: NDArray[np.void]  #: VISIT[1]
    cleared: NDArray[np.void]  #: CLEARED[1]
    spare: NDArray[np.void]  #: COUNTERS[1]


def block_for(par: NDArray[np.void], policies: int, calls: int, rows: int, flush_kinds: int) -> Block:
    """Return the memory for these points, PARAMETERS[n]. calls: at most in a block; rows: tables with entries drawn."""
    words, rounds = int(par["entries"].max()) >> 6, int(par["rounds"].max())
    return Block(
        hashes=np.zeros((4, max(calls, BLOCK_TABLES) // 4 + 4), np.uint64),
        cells=np.zeros(BLOCK_TABLES, np.uint32),
        numbers=np.zeros((NUMBERS, BLOCK_TABLES), np.uint16),
        exists=np.zeros((policies, BLOCK_TABLES), np.uint16),
        bits=np.zeros((TABLES + rows, words), np.uint64),
        made=np.zeros(calls, np.uint16),
        streams=np.zeros((rounds, STREAMS), np.uint64),
        sums=np.zeros(1, BLOCK_ROUND),
        scans=np.zeros((rounds, policies), SCAN),
        levels=np.zeros(LEVELS, LEVEL),
        level_rounds=np.zeros((LEVELS, rounds), LEVEL_ROUND),
        flushed=np.zeros(flush_kinds, COUNTERS),
        visit=np.zeros(1, VISIT),
        cleared=np.zeros(1, CLEARED),
        spare=np.zeros(1, COUNTERS),
    )


@inner
def start_point(b: Any, rules: Any, rounds: Any) -> None:
    """Forget what an earlier point left."""
    for kind in range(b.flushed.size):
        b.flushed[kind].flushes, b.flushed[kind].tlb_flushes_full, b.flushed[kind].tlb_invlpgs = 0, 0, 0
    for r in range(rounds):
        for p in range(rules.size):
            b.scans[r, p].tables = 0


@inner
def start_block(b: Any, n: Any, rules: Any) -> None:
    """Forget what an earlier block left."""
    pages, ever, unmap_has, has_bits = b.numbers[PAGES], b.numbers[EVER], b.numbers[UNMAP_HAS], b.numbers[HAS_BITS]
    for i in range(n):
        pages[i], ever[i], unmap_has[i], has_bits[i] = 0, 0, 0, 0
    b.sums[0].ever, b.sums[0].left = 0, 0
    for p in range(rules.size):
        if rules[p].every > 1:
            for i in range(n):
                b.exists[p, i] = 0


@inner
def scanning_rules(rules: Any) -> Any:
    """The rules that scan at the end of a round, a bit each."""
    scanning = np.int64(0)
    for p in range(rules.size):
        scanning |= np.int64(rules[p].when == AFTER_ROUND) << p
    return scanning


@inner
def draw_block(n: Any, block: Any, par: Any, lim: Any, cdfs: Any, streams: Any, b: Any, needs_ends: Any) -> None:
    """Draw an install of tables block, ..., block + n: writes DRAWN, and LOW and HIGH if asked.

    An extent that is no fraction of a slot counts as 1. Where it spans no whole slots, a 1 means that its entries
    have to be drawn.
    """
    size = (n + 3) & ~3
    drawn, low, high, scratch = (
        b.numbers[DRAWN, :size], b.numbers[LOW, :size], b.numbers[HIGH, :size], b.numbers[SCRATCH, :size]
    )  # fmt: skip
    cells, hashes, others = b.cells[:size], b.hashes[0, : size >> 2], b.hashes[1, : size >> 2]
    places = par.places if par.places > 0 else np.int64(1)
    if par.install == MAYBE and par.places > 0:
        block_counts(block, cdfs, par, streams, hashes, cells, drawn, scratch)
    elif par.install == MAYBE and par.cluster % par.entries == 0:
        for i in range(n):
            extent = (block + i) * par.entries // par.cluster
            drawn[i] = draw(streams[OF_EXTENT], extent) < lim.install
    else:
        for i in range(n):
            drawn[i] = 0 if par.install == NEVER else places
    for i in range(n, size):
        drawn[i] = 0
    if not needs_ends:
        return
    if par.install == MAYBE and places > 1:
        block_ends(block, places, drawn, cdfs, par, streams, hashes, others, cells, low, high, scratch)
    else:
        for i in range(n):
            low[i], high[i] = 0, places - 1


@inner
def count_policies(
    n: Any, block: Any, r: Any, par: Any, unit: Any, b: Any, rules: Any, frees: Any, counters: Any, tables: Any
) -> None:
    """Add one round of a block, sums BLOCK_ROUND, to every policy's counters.

    unit: pages in what LOW counts, the first extent or page that is left
    frees: the rules that free a table with its last page, a bit each; counters: COUNTERS[policies]; tables: int64[2,
    policies] of the round
    """
    sums = b.sums[0]
    for p in range(rules.size):
        rule, own = rules[p], counters[p]
        is_scan = rule.when == AFTER_ROUND
        new, visits, peak, end = sums.new, sums.visits_ever, sums.ever, sums.ever
        if (frees >> p) & 1:
            new, visits, peak, end = sums.has - sums.had, sums.visits_until_empty, sums.has, sums.left
            own.pte_tables_freed += sums.emptied
        elif rule.unmaps:
            new, visits, peak, end = sums.unmap_new, sums.unmap_visits, sums.unmap_peak, sums.unmap_end
            own.pte_tables_freed += sums.unmap_freed
        elif is_scan and rule.every == 1:
            new, visits, peak, end = sums.has - sums.had, sums.visits, sums.has, sums.left
            count_scan(rule, own, peak, sums.emptied, sums.reads)
            gather_block(n, block, sums.emptied, b.numbers[EMPTIED], b.scans[r, p], own, par)
        elif is_scan:
            new, visits, peak, end = scan_every_few_rounds(
                n, block, (r + 1) % rule.every == 0, par, unit, b, b.exists[p], rule, own, b.scans[r, p]
            )
        own.pte_tables_allocated += new
        own.table_visits += visits
        tables[PEAK, p] += peak
        tables[END, p] += end


@inner
def scan_every_few_rounds(
    n: Any, block: Any, is_scan: Any, par: Any, unit: Any, b: Any, exists: Any, rule: Any, own: Any, scan: Any
) -> tuple[Any, Any, Any, Any]:
    """One round of a block under a rule that scans every few rounds: (new tables, visits, tables at peak, at end).

    exists: uint16[n], updated
    """
    pages, calls, emptied, first, freed = (
        b.numbers[PAGES], b.numbers[CALLS], b.numbers[EMPTIED], b.numbers[LOW], b.numbers[SCRATCH]
    )  # fmt: skip
    new, visits, peak, end, reads = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for i in range(n):
        had_pages = pages[i] != 0 or emptied[i] != 0
        new += had_pages and exists[i] == 0
        exists[i] |= np.uint16(had_pages)
        visits += np.int64(calls[i]) if exists[i] else 0
        peak += exists[i]
        is_left = had_pages and emptied[i] == 0
        freed[i] = np.uint16(is_scan and exists[i] != 0 and not is_left)
        if is_scan and exists[i]:
            reads += np.int64(first[i]) * unit + 1 if is_left else par.entries
            exists[i] = np.uint16(is_left)
        end += exists[i]
    if is_scan:
        count_scan(rule, own, peak, peak - end, reads)
        gather_block(n, block, peak - end, freed, scan, own, par)
    return new, visits, peak, end


@inner
def gather_block(n: Any, block: Any, count: Any, freed: Any, scan: Any, counters: Any, par: Any) -> None:
    """Add to a scan's gather the `count` tables of a block that it freed. freed: uint16[n], 1 for these; scan: SCAN."""
    if count == 0:
        return
    if scan.tables + count >= par.table_batch:
        for i in range(n):
            if freed[i]:
                gather_scanned(scan, counters, (block + i) * par.entries, par.entries, par.ceiling, par.table_batch)
        return
    first, last = 0, n - 1
    while freed[first] == 0:
        first += 1
    while freed[last] == 0:
        last -= 1
    if scan.tables == 0:
        scan.first = (block + first) * par.entries
    scan.end = (block + last) * par.entries + 1
    scan.tables += count
