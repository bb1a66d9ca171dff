"""Calls inside one slot, all at once, where nothing but a counter can notice an empty table between them."""

from typing import Any

import numpy as np

from engine.huge_pages.slot import HUGE, NONE, TABLE, count_of
from engine.huge_pages.zaps_and_splits import flush_split
from engine.numeric.bit_ops import ONE, clear_range, count_and_ends
from engine.numeric.jit import inner
from engine.reclaim.gather import flush
from engine.reclaim.records import record
from engine.reclaim.rules import AT_VISIT, lock_pmd

PARTS = record(
    "full", "single", "flushes", "zapped", "emptied", "emptied_first", "emptied_last", "count", "first", "last"
)
"""What calls inside one slot clear under a lane, as if its table stayed: full flushes and single translations of all
flushes; entries cleared; which call emptied the table, or -1, and the outermost entries that it cleared; and how many
entries the last call cleared, and the outermost."""


@inner
def clear_parts(part: Any, words: Any, order: Any, made: Any, base: Any, valid: Any, par: Any) -> None:
    """Add up what calls inside one slot clear of a lane's entries `words`, and their flushes if the table stays.

    part: record PARTS, filled; order: the calls, `made` of them
    """
    part.full, part.single, part.flushes, part.zapped, part.emptied = 0, 0, 0, 0, -1
    left = count_of(words, words)
    for x in range(made):
        a = par.shift + order[x] * par.zap - base
        b = min(a + par.zap, valid)
        if par.zap == 1:
            part.count = np.int64(words[a >> 6] >> np.uint64(a & 63) & ONE)
            part.first, part.last = a, a
        else:
            part.count, part.first, part.last = count_and_ends(words, a, b)
        if part.count == 0:
            continue
        pages = part.last + 1 - part.first
        part.flushes += 1
        if pages > par.ceiling:
            part.full += 1
        else:
            part.single += pages
        part.zapped += part.count
        if part.zapped == left:
            part.emptied, part.emptied_first, part.emptied_last = x, part.first, part.last


@inner
def clear_calls(words: Any, order: Any, made: Any, calls: Any, base: Any, valid: Any, par: Any) -> None:
    """Clear the entries of calls inside one slot: `made` of the `calls` that meet it. Writes `words`."""
    if made == calls:
        clear_range(words, max(par.shift - base, 0), valid)
        return
    for x in range(made):
        a = par.shift + order[x] * par.zap - base
        clear_range(words, a, min(a + par.zap, valid))


@inner
def judge_parts(
    part: Any, rule: Any, counter: Any, mine: Any, state: Any, p: Any, made: Any, is_unmapped: Any, par: Any
) -> None:
    """Judge the calls of clear_parts under policy p, and count its flushes. state: of each policy, written.

    At pieces so small only a counter notices an empty table; where ranges are unmapped the last call frees the table.
    """
    if state[p] == HUGE:
        mine.splits += 1
        flush_split(counter, par)
        state[p] = TABLE
    mine.zapped += part.zapped
    counter.flushes += part.flushes
    counter.tlb_flushes_full += part.full
    counter.tlb_invlpgs += part.single
    visits, first, last, had_entries = made, np.int64(-1), np.int64(-1), False
    if rule.unmaps and is_unmapped:
        had_entries, first, last = part.count > 0, part.first, part.last
    elif rule.when == AT_VISIT and rule.counts and par.zap >= rule.least and part.emptied >= 0:
        visits, had_entries, first, last = part.emptied + 1, True, part.emptied_first, part.emptied_last
        lock_pmd(rule, counter, 1)
    else:
        counter.table_visits += visits
        return
    counter.table_visits += visits
    counter.pte_tables_freed += 1
    state[p] = NONE
    # The freed table joins the flush of the call that freed it, by the first page of its slot.
    if not had_entries:
        flush(counter, np.int64(0), np.int64(1), par.entries, par.ceiling)
    elif first > 0:
        pages = last + 1 - first
        counter.flushes -= 1
        if pages > par.ceiling:
            counter.tlb_flushes_full -= 1
        else:
            counter.tlb_invlpgs -= pages
        flush(counter, np.int64(0), last + 1, 1, par.ceiling)
