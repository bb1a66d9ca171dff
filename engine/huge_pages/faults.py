"""What an install does to a slot where huge pages are allowed."""

from typing import Any

import numpy as np

from engine.huge_pages.slot import HUGE, NONE, TABLE
from engine.numeric.bit_ops import popcount
from engine.numeric.jit import inner
from engine.random.binomial import ALWAYS, MAYBE
from engine.random.splitmix import OF_EXTENT, draw
from engine.reclaim.residency import resident_extents


@inner
def drawn_extents(par: Any, lim: Any, cdfs: Any, streams: Any, table: Any) -> Any:
    """How many extents of the slot an install writes; 0 where they are drawn one by one (is_counted)."""
    if par.places == 0 and par.cluster % par.entries == 0 and par.install == MAYBE:
        return np.int64(draw(streams[OF_EXTENT], table * par.entries // par.cluster) < lim.install)
    if par.install == ALWAYS:
        return np.int64(1) if par.places == 0 else par.places
    if par.install == MAYBE and par.places > 0:
        return resident_extents(table, cdfs, par.cdf, streams)
    return np.int64(0)


@inner
def is_counted(par: Any) -> Any:
    """Whether drawn_extents says if a slot is written. Else extents end inside it: they are drawn one by one."""
    return par.places > 0 or par.install != MAYBE or par.cluster % par.entries == 0


@inner
def fault_in(
    drawn: Any, writes: Any, marked: Any, is_whole: Any, state: Any, lane: Any, rules: Any, used_of: Any, brought: Any,
    own: Any, counters: Any,
) -> None:  # fmt: skip
    """Install, under each policy, markers and, if `writes`, the pages of `drawn` in the slot. Writes state.

    marked: the number of markers in the slot; is_whole: the VMA does not end inside it; used_of: pages in use before
    """
    for p in range(rules.size):
        if state[p] == NONE and (marked > 0 or writes):
            counters[p].pte_tables_allocated += 1
            state[p] = TABLE
            if marked == 0 and is_whole:
                state[p] = HUGE
                own[p].faults += 1
        if state[p] == TABLE and writes:
            used, more = used_of[rules[p].unmaps], brought[lane[p]]
            for w in range(drawn.size):
                own[p].installed += popcount(drawn[w] & ~(used[w] | more[w]))
