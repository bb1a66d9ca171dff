"""What a slot is where huge pages are allowed, under each policy.

The pages that the scenario wrote (`used`) are the same under all policies that zap. A policy adds to them those that a
huge page brought along (`brought`). Policies whose slot is in the same state form a lane: what a piece of a call does
to the slot is worked out once for the lane, by its first policy, and each policy of the lane judges it.
"""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ZERO, popcount
from engine.numeric.jit import inner
from engine.reclaim.records import PEAK

NONE, TABLE, HUGE = range(3)
"""State of a slot: no table, a table, or a huge page and a table that waits for a split."""
PRESENT, PRESENT_UNMAP, BEFORE, BEFORE_UNMAP, DIRTY, MARKER, DRAWN, SEEN, BACK, NOW, BIT_ROWS = range(11)
"""Rows of a slot's bit masks. Pages in use under zapping policies and where ranges are unmapped, each now and before
the piece at hand; written since MADV_FREE; guard marker; scratch."""


@inner
def count_of(words: Any, more: Any) -> Any:
    """How many entries are in either set."""
    total = np.int64(0)
    for w in range(words.size):
        total += popcount(words[w] | more[w])
    return total


@inner
def has_any(words: Any) -> Any:
    """Whether the set has an entry."""
    union = ZERO
    for w in range(words.size):
        union |= words[w]
    return union != ZERO


@inner
def follow(lane: Any, branch: Any, state: Any, brought: Any) -> None:
    """Split lanes after a piece: policies whose slot differs in state from that of their lane's first form a new lane.

    Only a table that is freed sets policies of a lane apart. It was empty, so no entry of `brought` is left.
    """
    branch[:] = -1
    for p in range(lane.size):
        first = lane[p]
        if first == p or state[p] == state[first]:
            continue
        if branch[first] < 0:
            branch[first] = p
            brought[p] = ZERO
        lane[p] = branch[first]


@inner
def part_unequal_fills(page_batches: Any, lane: Any, brought: Any) -> None:
    """Split lanes before a piece: policies whose gather is not as full as that of their lane's first leave the lane.

    A gather may have been filled differently in slots before this one. page_batches: PAGE_BATCHES[policies].
    """
    for p in range(lane.size):
        first = lane[p]
        if first == p:
            continue
        if page_batches[p].pages != page_batches[first].pages or page_batches[p].batch != page_batches[first].batch:
            lane[p] = p
            for w in range(brought.shape[1]):
                brought[p, w] = brought[first, w]


@inner
def note_memory(
    tables: Any, pages: Any, own: Any, state: Any, lane: Any, rules: Any, used_of: Any, brought: Any, is_free: Any,
    entries: Any, moment: Any, is_last: Any,
) -> None:  # fmt: skip
    """Add the slot to what each policy has at a round's peak or end: tables and resident pages, int64[policies].

    In the last round also huge pages.
    """
    for p in range(rules.size):
        if state[p] == NONE:
            continue
        tables[p] += 1
        if state[p] == HUGE:
            pages[p] += entries
            if is_last and moment == PEAK:
                own[p].huge_peak += 1
            elif is_last:
                own[p].huge_end += 1
        else:
            used = used_of[rules[p].unmaps]
            more = used if is_free and not rules[p].unmaps else brought[lane[p]]  # zero pages hold no memory
            pages[p] += count_of(used, more)
