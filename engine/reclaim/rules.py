"""What a rule does at a visit: the one place where a policy acts, whatever visits it is asked about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import CHOICES, SLOT, Policy
from engine.numeric.jit import inner
from engine.reclaim.records import RULE

NEVER, AT_VISIT, AFTER_CALL, AFTER_ROUND, AT_UNMAP = range(5)  # when
BY_COUNT, BY_HOLD, BY_SCAN = range(3)  # proof
READ_ALL, READ_REST, READ_OUTSIDE, READ_NOTHING = range(4)  # otherwise
NO_BREAK, END_BREAK, MID_BREAK = range(3)
STAYS, FREED, FREED_LATE, VERDICTS = range(4)
"""What becomes of the table: it stays, its page joins the gather now, or when the whole call is zapped."""


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
    """Return STAYS, FREED or FREED_LATE for a visit (records RULE and VISIT), and add the cost of `times` such visits.

    docs/method.md, section 4, has the rules in words.
    """
    when = rule.when
    if when == AT_UNMAP:
        return FREED_LATE if visit.unmaps else STAYS
    if (when != AT_VISIT and when != AFTER_CALL) or visit.pages < rule.least or (rule.skips_markers and visit.markers):
        return STAYS
    freed = FREED if when == AT_VISIT else FREED_LATE
    if rule.proof == BY_COUNT:
        if when == AT_VISIT:
            at_last_drop = visit.refaulted_early < 0
            at_break = visit.broke == MID_BREAK and visit.after_break == 0
            is_empty = visit.others == 0 and (at_last_drop or at_break)
        else:
            is_empty = visit.left < 0
        if not is_empty:
            return STAYS
        lock_pmd(rule, counters, times)
        return freed
    if rule.proof == BY_HOLD:
        was_dropped = visit.broke == MID_BREAK or (visit.broke == END_BREAK and rule.end_break_held == 0)
        if visit.whole and not was_dropped and visit.markers == 0:
            counters.fast_paths += times
            lock_pmd(rule, counters, times)
            return FREED
        if rule.otherwise == READ_NOTHING:
            return STAYS
        counters.slow_paths += times
        if rule.otherwise == READ_REST and visit.markers == 0:
            if was_dropped and visit.broke == END_BREAK:  # all was cleared under the hold that the break ended
                counters.pte_locks_extra += times
                counters.ptes_rescanned += times * visit.reads
                is_empty = visit.left < 0
            else:
                counters.ptes_rescanned += times * visit.reads_rest
                is_empty = visit.rest_empty != 0
            if not is_empty:
                return STAYS
            lock_pmd(rule, counters, times)
            return FREED
        if rule.otherwise == READ_OUTSIDE and not was_dropped and visit.entries_inside == 0:
            counters.pmd_locks += times
            counters.pte_locks_extra += times
            counters.ptes_rescanned += times * visit.reads_outside
            return FREED if visit.outside_empty else STAYS
    counters.pmd_locks += times
    counters.pte_locks_extra += times
    counters.ptes_rescanned += times * visit.reads
    return freed if visit.left < 0 else STAYS


@inner
def lock_pmd(rule: Any, counters: Any, times: Any) -> None:
    """Count the PMD lock, as tried or as taken. Failed trylocks are settled later (engine.reclaim.contention)."""
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
    if rule.proof == BY_COUNT:
        counters.pmd_locks += freed
    else:
        counters.pmd_locks += tables
        counters.pte_locks_extra += tables
        counters.ptes_rescanned += reads
