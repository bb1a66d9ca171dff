"""What rules read that look at a table after each call of an aligned part (docs/method.md, section 4).

Such a scan stops at the table's first entry. While calls clear one part after the other, that is the first page of the
lowest part that still has one. So parts are taken by address: a part decides what scans read from the call that cleared
the last of those before it up to its own, if that is later.
"""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.passes.part_order import comes_later, later_calls
from engine.reclaim.rules import NO_BREAK, judge
from engine.reclaim.visits import first_entry


@inner
def add_reads(
    row: Any, gone: Any, made: Any, keys: Any, zap: Any, is_random: Any, streams: Any, first_call: Any, sums: Any
) -> None:
    """Add the reads at a slot's calls of one round, up to the one before the last page goes, to a BLOCK_ROUND.

    row, gone: the entries that stay and that the calls clear, uint64[words]; made, keys: see part_order
    """
    entries, parts = row.size * 64, made.size
    before = np.int64(0)  # calls that are not over when the parts so far are empty; the last of these is `latest`
    for x in range(parts):
        before += made[x]
    latest, at = np.int64(-1), first_entry(row, gone, 0, entries)
    while at >= 0:
        part = at // zap
        is_made = made[part] != 0
        is_later = latest < 0 or not is_made or not is_random or keys[part] > keys[latest]
        if not is_later and keys[part] == keys[latest]:
            is_later = comes_later(streams, first_call + part, first_call + latest)
        if is_later:
            after, below = np.int64(0), np.int64(0)  # calls from this part's on; those of lower parts, of the visits
            if latest < 0:
                for x in range(part):
                    below += made[x]
            else:
                below = 1 + later_calls(made, keys, part, latest, is_random, streams, first_call)
            if is_made:
                after = 1 + later_calls(made, keys, parts, part, is_random, streams, first_call)
                below -= later_calls(made, keys, part, part, is_random, streams, first_call)
            visits = before - after
            sums.visit_reads += visits * (at + 1)
            sums.visit_reads_outside += visits * (at + 1) - below * zap
            if not is_made:
                return
            before, latest = after, part
        at = first_entry(row, gone, (part + 1) * zap, entries)


@inner
def describe_left(visit: Any, pages: Any, reads: Any, reads_outside: Any) -> None:
    """Fill in the visit of a piece after which the table has entries, none of them in the piece."""
    visit.pages, visit.whole, visit.markers, visit.broke, visit.others = pages, 0, 0, NO_BREAK, 1
    visit.after_break, visit.refaulted_early, visit.refaulted, visit.left, visit.reads = 0, -1, 0, 0, reads
    visit.reads_rest, visit.rest_empty, visit.reads_outside, visit.outside_empty = reads_outside, 0, reads_outside, 0
    visit.entries_inside, visit.unmaps = 0, 0


@inner
def reads_at_visits(rules: Any, pages: Any, visit: Any, spare: Any) -> Any:
    """Whether a rule reads at a visit that leaves entries. visit, spare: VISIT and COUNTERS, scratch."""
    describe_left(visit, pages, 1, 1)
    spare.ptes_rescanned = 0
    for p in range(rules.size):
        judge(rules[p], visit, spare, 1)
    return spare.ptes_rescanned > 0


@inner
def judge_left(rule: Any, pages: Any, times: Any, sums: Any, visit: Any, own: Any, spare: Any) -> None:
    """Add what `times` visits that leave entries cost under a rule: locks, and the reads that add_reads added up."""
    describe_left(visit, pages, 1, 0)
    spare.ptes_rescanned = 0
    judge(rule, visit, spare, 1)
    own.ptes_rescanned += spare.ptes_rescanned * sums.visit_reads
    describe_left(visit, pages, 0, 1)
    spare.ptes_rescanned = 0
    judge(rule, visit, spare, 1)
    own.ptes_rescanned += spare.ptes_rescanned * sums.visit_reads_outside
    describe_left(visit, pages, 0, 0)
    judge(rule, visit, own, times)
