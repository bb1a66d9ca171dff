"""What a rule does at a visit: the one place where a policy acts, whatever visits it is asked about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import CHOICES, SLOT, Policy
from engine.numeric.jit import inner
from engine.reclaim.records import RULE

NEVER, VISIT, CALL, ROUND, UNMAP = range(5)  # when
COUNT, HELD, SCAN = range(3)  # proof
WHOLE_TABLE, REST, OUTSIDE, KEEP_TABLE = range(4)  # otherwise
NO_BREAK, END_BREAK, MID_BREAK = range(3)
KEEP, FREE, FREE_AFTER_CALL = range(3)
"""What becomes of the table: it stays, its page joins the gather now, or after the whole call is zapped."""


def encode_rules(policies: Sequence[Policy], page_bytes: int, entries: int) -> NDArray[np.void]:
    """RULE[policies], for tables of so many entries."""
    rules = np.zeros(len(policies), RULE)
    for rule, policy in zip(rules, policies, strict=True):
        for field in ("when", "proof", "otherwise"):
            rule[field] = CHOICES[field].index(getattr(policy, field))
        rule["least"] = entries if policy.least == SLOT else -(-int(policy.least) // page_bytes)
        rule["skips_markers"] = policy.markers == "skip"
        rule["end_break_held"] = policy.end_break == "held"
        rule["tries"] = policy.lock == "try" and "lock" in policy.effective
        rule["every"] = policy.every
        rule["counts"] = policy.proof == "count" and "proof" in policy.effective
        rule["unmaps"] = policy.when == "unmap"
    return rules


@inner
def judge(rule: Any, visit: Any, counters: Any, times: Any) -> Any:
    """KEEP, FREE or FREE_AFTER_CALL at a visit (records RULE and VISIT); adds what `times` such visits cost.

    docs/method.md, section 4, has the rules in words.
    """
    when = rule.when
    if when == UNMAP:
        return FREE_AFTER_CALL if visit.unmaps else KEEP
    if (when != VISIT and when != CALL) or visit.pages < rule.least or (rule.skips_markers and visit.markers):
        return KEEP
    freed = FREE if when == VISIT else FREE_AFTER_CALL
    if rule.proof == COUNT:
        if when == VISIT:
            at_last_drop = visit.back_early < 0
            at_break = visit.broke == MID_BREAK and visit.after_break == 0
            is_empty = visit.others == 0 and (at_last_drop or at_break)
        else:
            is_empty = visit.left < 0
        if not is_empty:
            return KEEP
        lock_pmd(rule, counters, times)
        return freed
    if rule.proof == HELD:
        was_dropped = visit.broke == MID_BREAK or (visit.broke == END_BREAK and rule.end_break_held == 0)
        if visit.whole and not was_dropped and visit.markers == 0:
            counters.fast_paths += times
            lock_pmd(rule, counters, times)
            return FREE
        if rule.otherwise == KEEP_TABLE:
            return KEEP
        counters.slow_paths += times
        if rule.otherwise == REST and visit.markers == 0:
            if was_dropped and visit.broke == END_BREAK:  # all was cleared under the hold that the break ended
                counters.pte_locks_extra += times
                counters.ptes_rescanned += times * visit.reads
                is_empty = visit.left < 0
            else:
                counters.ptes_rescanned += times * visit.reads_rest
                is_empty = visit.rest_empty != 0
            if not is_empty:
                return KEEP
            lock_pmd(rule, counters, times)
            return FREE
        if rule.otherwise == OUTSIDE and not was_dropped and visit.entries_inside == 0:
            counters.pmd_locks += times
            counters.pte_locks_extra += times
            counters.ptes_rescanned += times * visit.reads_outside
            return FREE if visit.outside_empty else KEEP
    counters.pmd_locks += times
    counters.pte_locks_extra += times
    counters.ptes_rescanned += times * visit.reads
    return freed if visit.left < 0 else KEEP


@inner
def lock_pmd(rule: Any, counters: Any, times: Any) -> None:
    """The PMD lock, tried or taken. A trylock succeeds here; engine.reclaim.contention says which did not."""
    if rule.tries:
        counters.pmd_trylocks += times
    else:
        counters.pmd_locks += times


@inner
def count_scan(rule: Any, counters: Any, tables: Any, freed: Any, reads: Any) -> None:
    """Add what a scan at a round's end costs: of `tables` tables, `freed` of which were empty and go.

    reads: entries read by a rule that proves by reading
    """
    counters.pte_tables_freed += freed
    if rule.proof == COUNT:
        counters.pmd_locks += freed
    else:
        counters.pmd_locks += tables
        counters.pte_locks_extra += tables
        counters.ptes_rescanned += reads
