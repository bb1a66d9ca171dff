"""Slots that only calls over the whole slot meet: a huge page comes with a write and goes with a call."""

from typing import Any

from engine.huge_pages.faults import drawn_extents
from engine.huge_pages.zaps_and_splits import cover_huge
from engine.numeric.jit import inlined, inner
from engine.reclaim.calls import calls_made
from engine.reclaim.gather import close_gathers, open_gathers
from engine.reclaim.records import END, PEAK, record
from engine.reclaim.upper_tables import LEVELS, need_upper_tables

WHOLE = record("faults", "zapped", "single", "needed")
"""What such slots of a point add up to, for each policy: huge pages that came and went; flushes of one slot each; slots
that still have a huge page at the end."""


@inlined
def pass_whole_slot(
    table: Any, begin: Any, end: Any, s: Any, par: Any, lim: Any, cdfs: Any, counters: Any, totals: Any
) -> Any:
    """Take a slot through all rounds. Returns whether it has a huge page at the end.

    begin, end: the calls that meet it, one or none. Writes s.whole, s.whole_tables and, for calls that go on in another
    slot, s.gathers and counters
    """
    whole, huge = s.whole[0], False
    base = table * par.entries
    for r in range(par.rounds):
        if drawn_extents(par, lim, cdfs, s.streams[r], table) > 0:
            whole.faults += not huge
            huge = True
        if huge:
            need_upper_tables(s.levels, r)
            for n in range(LEVELS):
                s.level_rounds[n, r].touched = 1
            s.whole_tables[r, PEAK] += 1
        made = calls_made(s.order, s.keys, par, lim.cover, s.streams[r], begin, end)
        if made == 0:
            for n in range(LEVELS):
                s.level_rounds[n, r].mapped = 1
        else:
            start = par.shift + begin * par.zap
            stop = min(start + par.zap, par.pages)
            totals.calls += start == base
            if stop - start == par.entries:
                whole.single += huge
            else:
                if start == base:
                    s.side[r] = 1 - s.side[r]
                    open_gathers(s.gathers[r, s.side[r]])
                    for p in range(counters.size):
                        s.page_batches[r, s.side[r], p].pages, s.page_batches[r, s.side[r], p].batch = 0, 0
                if huge:
                    for p in range(counters.size):
                        cover_huge(
                            s.gathers[r, s.side[r], p], s.page_batches[r, s.side[r], p], counters[p], base, True, par
                        )
                if stop == base + par.entries:
                    close_gathers(s.gathers[r, s.side[r]], counters, par.entries, par.ceiling)
            whole.zapped += huge
            huge = False
        s.whole_tables[r, END] += huge
    whole.needed += huge
    return huge


@inner
def enter_whole_slots(s: Any, rounds: Any) -> None:
    """Start a point. Writes s.whole and s.whole_tables."""
    whole = s.whole[0]
    whole.faults, whole.zapped, whole.single, whole.needed = 0, 0, 0, 0
    s.whole_tables[:rounds] = 0


@inner
def add_whole_slots(s: Any, par: Any, counters: Any, own: Any, tables: Any, pages: Any) -> None:
    """Add up such slots of a point into the figures of each policy. tables, pages: int64[rounds, 2, policies]"""
    whole, rounds = s.whole[0], par.rounds
    for p in range(counters.size):
        counters[p].pte_tables_allocated += whole.faults
        counters[p].pte_tables_freed += whole.zapped
        counters[p].flushes += whole.single
        counters[p].tlb_invlpgs += whole.single
        own[p].faults += whole.faults
        own[p].needed_pte += whole.needed
        own[p].huge_peak += s.whole_tables[rounds - 1, PEAK]
        own[p].huge_end += s.whole_tables[rounds - 1, END]
        for r in range(rounds):
            for moment in range(2):
                tables[r, moment, p] += s.whole_tables[r, moment]
                pages[r, moment, p] += s.whole_tables[r, moment] * par.entries


assert PEAK + END == 1  # the two moments of a round
