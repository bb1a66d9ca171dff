"""TLB flushes of a gather, and the page slots it fills (docs/method.md, sections 4 and 5)."""

from typing import Any

import numpy as np

from engine.numeric.bit_ops import ONE, ZERO
from engine.numeric.jit import inner

FULL, RANGED, SENT = 0, 1, 2
"""Columns of a flush account: full flushes, INVLPGs of ranged ones, flushes of both kinds."""


@inner
def flush(account: Any, lo: Any, hi: Any, stride: Any, ceiling: Any) -> None:
    """Add one flush of pages [lo, hi) to account int64[3]; nothing if the range is empty (flush_tlb_mm_range)."""
    if hi <= lo:
        return
    account[SENT] += 1
    if (hi - lo) // stride > ceiling:
        account[FULL] += 1
    else:
        account[RANGED] += (hi - lo + stride - 1) // stride


@inner
def flush_with_table(account: Any, slot: Any, lo: Any, hi: Any, entries: Any, ceiling: Any) -> None:
    """The flush of a call that cleared [lo, hi) (empty if hi <= lo) and freed the one table at `slot`."""
    if hi <= lo:
        flush(account, slot, slot + 1, entries, ceiling)
    else:
        flush(account, min(lo, slot), max(hi, slot + 1), 1, ceiling)


@inner
def fill_gather(
    words: Any, first: Any, end: Any, folio: Any, slots: Any, batch: Any, batch_slots: Any, batches: Any
) -> tuple[Any, Any, Any]:
    """Put the pages [first, end) of a piece into a gather: (slots in the batch, batch, entry of the break or -1).

    A piece breaks at most once: a table has fewer entries than a gather has slots.
    """
    broke = -1
    e = first
    while e < end:
        if words[e >> 6] & (ONE << np.uint64(e & 63)) == ZERO:
            e += 1
            continue
        stop = min(end, (e // folio + 1) * folio)
        last = e
        while last + 1 < stop and words[(last + 1) >> 6] & (ONE << np.uint64((last + 1) & 63)) != ZERO:
            last += 1
        slots += 1 if last == e else 2
        if slots >= (7 if batch == 0 else batch_slots - 1):
            slots = 0
            batch += 1
            if batch > batches:
                batch = 0
                broke = last
        e = last + 1
    return slots, batch, broke
