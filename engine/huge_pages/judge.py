"""What each policy of a lane does with a piece of a call that zaps_and_splits.py has worked out for the lane."""

from typing import Any

import numpy as np

from engine.huge_pages.slot import HUGE, NONE, TABLE
from engine.huge_pages.zaps_and_splits import CLEANED, CLEARED_HUGE, LEFT, VISITED, cover_huge, flush_split
from engine.numeric.jit import inlined
from engine.reclaim.contention import note_trylocks, pace_index
from engine.reclaim.gather import flush, flush_one_visit, gather_visit
from engine.reclaim.rules import STAYS, judge


@inlined
def judge_piece(
    piece: Any, visit: Any, cleared: Any, rule: Any, state: Any, p: Any, own: Any, counter: Any, gather: Any,
    batches: Any, base: Any, crosses: Any, is_free: Any, step: Any, r: Any, call: Any, lock_step: Any, par: Any,
) -> None:  # fmt: skip
    """Let policy p judge a piece, and flush. Writes state[p].

    piece, visit, cleared: of the lane; own, counter: OWN and COUNTERS of the policy; gather, batches: those of the
    call, if it crosses slots; step: of the visit, where calls are in random order
    """
    entries = par.entries
    if piece.splits:
        own.splits += 1
        flush_split(counter, par)
        state[p] = TABLE
    if piece.what == LEFT:
        return
    if piece.what != VISITED:
        if piece.what == CLEANED:
            flush_split(counter, par)
        else:
            counter.pte_tables_freed += 1
            state[p] = NONE
            if visit.refaulted > 0:
                counter.pte_tables_allocated += 1
                own.faults += 1
                state[p] = HUGE
        if crosses:
            cover_huge(gather, batches, counter, base, piece.what == CLEARED_HUGE, par)
        else:
            flush(counter, base, base + entries, entries, par.ceiling)
        return
    own.zapped += piece.zapped
    own.breaks += cleared.broke >= 0
    counter.table_visits += 1
    if par.threads > 1 and not par.random:
        at = pace_index(par, r, call)
        step = lock_step.pace[p, at]
        lock_step.pace[p, at] += 1
    verdict = STAYS
    if rule.unmaps or not is_free:
        trylocks, fast = counter.pmd_trylocks, counter.fast_paths
        verdict = judge(rule, visit, counter, 1)
        if par.threads > 1 and counter.pmd_trylocks > trylocks:
            fast_bit = (counter.fast_paths > fast) << p
            note_trylocks(lock_step, p, r, step, base // entries, 1 << p, fast_bit)
    if verdict == STAYS:
        own.installed += visit.refaulted
    else:
        counter.pte_tables_freed += 1
        state[p] = NONE
        if visit.refaulted > 0:
            counter.pte_tables_allocated += 1
            state[p] = HUGE if base + entries <= par.pages else TABLE
            own.faults += state[p] == HUGE
            own.installed += np.int64(0) if state[p] == HUGE else visit.refaulted
    if crosses:
        gather_visit(gather, counter, cleared, base, verdict, entries, par.ceiling, par.table_batch)
    else:
        flush_one_visit(counter, cleared, base, verdict, entries, par.ceiling)
