"""A visit under all rules at once: which rules act there, what they find, and what each frees and flushes.

Most visits concern few rules: a call below a table's size reaches only rules with so small a `least`, and a counter
reaches 0 once. So what a call flushes if no table is freed is counted once for all policies (`shared`, `flushed`), and
a policy that frees a table adds the difference.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ZERO, first_set, word_mask
from engine.numeric.jit import inlined, inner
from engine.reclaim.gather import (
    add_flushes,
    add_table_to_flush,
    close_gather,
    gather_visit,
    open_gather,
)
from engine.reclaim.records import record
from engine.reclaim.rules import (
    AFTER_CALL,
    AFTER_ROUND,
    AT_VISIT,
    BY_HOLD,
    FREED,
    FREED_LATE,
    MID_BREAK,
    READ_OUTSIDE,
    READ_REST,
    STAYS,
    judge,
)

RULE_SET = record("all", "unmapping", "scanning", "at_visits", "at_pieces", "counting", "reading", "reading_pieces")
"""The rules that do something, a bit each.

all: every rule; unmapping, scanning: unmap ranges, scan at a round's end
at_visits: judge visits of whole slots; at_pieces: judge smaller ones too
counting: only ask a counter at a visit, so they act where nothing is left
reading: read entries; reading_pieces: read only some of a table's
"""


@inner
def describe_rules(rules: Any, entries: Any, rule_set: Any) -> None:
    """Fill in a RULE_SET."""
    unmapping, scanning, at_visits, at_pieces = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    counting, reading_pieces = np.int64(0), np.int64(0)
    for p in range(rules.size):
        rule, bit = rules[p], np.int64(1) << p
        unmapping |= bit if rule.unmaps else 0
        scanning |= bit if rule.when == AFTER_ROUND else 0
        if rule.when == AT_VISIT or rule.when == AFTER_CALL:
            at_visits |= bit
            at_pieces |= bit if rule.least < entries else 0
            counting |= bit if rule.counts and rule.when == AT_VISIT else 0
            is_partial = rule.otherwise == READ_REST or rule.otherwise == READ_OUTSIDE
            reading_pieces |= bit if rule.proof == BY_HOLD and is_partial else 0
    rule_set.all = (np.int64(1) << rules.size) - 1
    rule_set.unmapping, rule_set.scanning = unmapping, scanning
    rule_set.at_visits, rule_set.at_pieces, rule_set.counting = at_visits, at_pieces, counting
    rule_set.reading, rule_set.reading_pieces = at_visits & ~counting, reading_pieces


@inlined
def acting_rules(rule_set: Any, visit: Any, is_free: Any) -> Any:
    """The rules that have to judge a visit, a bit each. is_free: the advice is MADV_FREE."""
    acting = rule_set.unmapping if visit.unmaps else np.int64(0)
    if not is_free:
        acting |= rule_set.at_visits if visit.whole else rule_set.at_pieces
        if visit.others:
            acting &= ~rule_set.counting
    return acting


@inner
def first_entry(present: Any, marker: Any, first: Any, end: Any) -> Any:
    """The first entry in [first, end) that is not none, or -1."""
    if end <= first:
        return np.int64(-1)
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        x = (present[w] | marker[w]) & word_mask(w, first, end)
        if x != ZERO:
            return np.int64(w * 64 + first_set(x))
    return np.int64(-1)


@inner
def describe_leftovers(
    visit: Any, present: Any, marker: Any, a: Any, b: Any, broke: Any, entries: Any, reads_pieces: Any
) -> None:
    """Fill in what a rule that reads entries would find: `left`, `reads` and, if asked, what concerns [a, b) alone."""
    visit.left = first_entry(present, marker, 0, entries)
    visit.reads = entries if visit.left < 0 else visit.left + 1
    if not reads_pieces:
        return
    before = visit.left if 0 <= visit.left < a else np.int64(-1)
    after = first_entry(present, marker, b, entries)
    visit.entries_inside = visit.left >= 0 and first_entry(present, marker, a, b) >= 0
    if before >= 0:
        visit.reads_outside = before + 1
    else:
        visit.reads_outside = a + (entries if after < 0 else after + 1) - b
    visit.outside_empty = before < 0 and after < 0
    visit.reads_rest, visit.rest_empty = visit.reads_outside, visit.outside_empty
    if broke >= 0 and visit.broke == MID_BREAK and before < 0:  # what was cleared before the break is read too
        if visit.refaulted_early >= 0:
            visit.reads_rest, visit.rest_empty = visit.refaulted_early + 1, 0
        else:
            visit.reads_rest += broke + 1 - a


@inner
def describe_empty(visit: Any, a: Any, broke: Any, entries: Any) -> None:
    """As describe_leftovers, for a table in which nothing is left."""
    visit.left, visit.reads, visit.entries_inside = -1, entries, 0
    visit.reads_outside, visit.outside_empty = entries - visit.pages, 1
    visit.reads_rest, visit.rest_empty = visit.reads_outside, 1
    if visit.broke == MID_BREAK:
        visit.reads_rest += broke + 1 - a


@inner
def judge_visit(acting: Any, rules: Any, counters: Any, visit: Any) -> Any:
    """Judge a visit under the rules in `acting`, a bit each; return those that free the table.

    counters: COUNTERS[policies]. Fills in visit.tried and visit.fast.
    """
    frees = np.int64(0)
    visit.tried, visit.fast = 0, 0
    while acting:
        p = first_set(np.uint64(acting))
        bit = np.int64(1) << p
        acting ^= bit
        own = counters[p]
        trylocks, fast = own.pmd_trylocks, own.fast_paths
        if judge(rules[p], visit, own, 1) != STAYS:
            frees |= bit
            own.pte_tables_freed += 1
            visit.tried |= bit if own.pmd_trylocks > trylocks else 0
            visit.fast |= bit if own.fast_paths > fast else 0
    return frees


@inner
def count_visits(counters: Any, exists: Any, count: Any) -> None:
    """Count visits under every policy that has the table. exists: a bit each"""
    for p in range(counters.size):
        counters[p].table_visits += count if (exists >> p) & 1 else 0


@inner
def free_in_flush(frees: Any, rules: Any, counters: Any, cleared: Any, unmap_kind: Any, base: Any, par: Any) -> None:
    """Add the table that a call's only visit freed to the flush of each policy in `frees`, a bit each.

    cleared: CLEARED[2]; unmap_kind: the one of policies that unmap (ZAP where both clear the same)
    """
    while frees:
        p = first_set(np.uint64(frees))
        frees &= frees - 1
        add_table_to_flush(counters[p], cleared[rules[p].unmaps * unmap_kind], base, par.entries, par.ceiling)


@inlined
def gather_in_call(
    frees: Any, rules: Any, counters: Any, cleared: Any, unmap_kind: Any, base: Any, par: Any, shared: Any,
    gathers: Any, apart: Any, flushed: Any,
) -> Any:  # fmt: skip
    """Add a visit of a call of several to its gathers. Returns the policies `apart`, with those in `frees`.

    shared: GATHER[2], and flushed: COUNTERS[3], the last one scratch: under policies that zap and that unmap, as if no
    table were freed. apart: the policies that freed one in this call, a bit each; gathers: GATHER[policies], theirs
    """
    new = frees & ~apart
    while new:
        p = first_set(np.uint64(new))
        new &= new - 1
        copy_gather(shared[rules[p].unmaps * unmap_kind], gathers[p])
    apart |= frees
    rest = apart
    while rest:
        p = first_set(np.uint64(rest))
        rest &= rest - 1
        verdict = STAYS
        if (frees >> p) & 1:
            verdict = FREED if rules[p].when == AT_VISIT else FREED_LATE
        gather_visit(
            gathers[p], counters[p], cleared[rules[p].unmaps * unmap_kind], base, verdict, par.entries, par.ceiling,
            par.table_batch,
        )  # fmt: skip
    sent = flushed[2]
    for kind in range(unmap_kind + 1):
        sent.flushes, sent.tlb_flushes_full, sent.tlb_invlpgs = 0, 0, 0
        gather_visit(shared[kind], sent, cleared[kind], base, STAYS, par.entries, par.ceiling, par.table_batch)
        if sent.flushes:
            share_flush(kind, apart, rules, counters, unmap_kind, flushed)
    return apart


@inner
def share_flush(kind: Any, apart: Any, rules: Any, counters: Any, unmap_kind: Any, flushed: Any) -> None:
    """Count a flush of a shared gather, flushed[2], but not for the policies `apart`, which have flushed their own."""
    sent = flushed[2]
    add_flushes(flushed[kind], sent, 1)
    while apart:
        p = first_set(np.uint64(apart))
        apart &= apart - 1
        if rules[p].unmaps * unmap_kind == kind:
            add_flushes(counters[p], sent, -1)


@inner
def copy_gather(one: Any, other: Any) -> None:
    """Write the pages that wait in a shared gather to another, whose tables are none yet."""
    open_gather(other)
    other.first, other.end, other.cleared = one.first, one.end, one.cleared


@inlined
def close_call(
    rules: Any, counters: Any, unmap_kind: Any, par: Any, shared: Any, gathers: Any, apart: Any, flushed: Any
) -> None:
    """Count the flushes at the end of a call of several visits. Arguments: see gather_in_call."""
    sent = flushed[2]
    for kind in range(unmap_kind + 1):
        sent.flushes, sent.tlb_flushes_full, sent.tlb_invlpgs = 0, 0, 0
        close_gather(shared[kind], sent, par.entries, par.ceiling)
        if sent.flushes:
            share_flush(kind, apart, rules, counters, unmap_kind, flushed)
    while apart:
        p = first_set(np.uint64(apart))
        apart &= apart - 1
        close_gather(gathers[p], counters[p], par.entries, par.ceiling)
