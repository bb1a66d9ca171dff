"""A call that crosses tables: one gather for each policy that frees at its own moment (docs/method.md, section 5).

State is a row of OPEN int64: ranges in pages (lo > hi is empty), slots filled, tables held.
"""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.walk.tlb import flush

(LO, HI, SLOTS, BATCH, LO_M, HI_M, SLOTS_M, BATCH_M) = range(8)
LANE_REFCOUNT, LANE_SEED, LANE_MERGED, LATE_SECOND, LATE_MUNMAP, OPEN = 8, 12, 16, 20, 26, 32
L_LO, L_HI, L_PTES, L_TABLES = range(4)
T_LO, T_HI, T_TABLES, T_FIRST_LO, T_FIRST_HI, T_BATCHED = range(6)
EMPTY_LO = np.int64(1) << np.int64(62)
EMPTY_HI = np.int64(-1)


@inner
def open_call(g: Any) -> None:
    """Start a gather for each policy that keeps its own range."""
    for i in range(OPEN):
        g[i] = 0
    for i in (LO, LO_M, LANE_REFCOUNT, LANE_SEED, LANE_MERGED, LATE_SECOND, LATE_MUNMAP):
        g[i] = EMPTY_LO
    for i in (HI, HI_M, LANE_REFCOUNT + 1, LANE_SEED + 1, LANE_MERGED + 1, LATE_SECOND + 1, LATE_MUNMAP + 1):
        g[i] = EMPTY_HI


@inner
def widen(g: Any, at: Any, lo: Any, hi: Any) -> None:
    """Let the range at g[at], g[at + 1] cover pages [lo, hi)."""
    g[at] = min(g[at], lo)
    g[at + 1] = max(g[at + 1], hi)


@inner
def empty(g: Any, at: Any) -> None:
    g[at] = EMPTY_LO
    g[at + 1] = EMPTY_HI


@inner
def clear_in_lane(g: Any, lane: Any, lo: Any, hi: Any) -> None:
    widen(g, lane, lo, hi)
    g[lane + L_PTES] = 1


@inner
def flush_lane(g: Any, lane: Any, account: Any, entries: Any, ceiling: Any) -> None:
    flush(account, g[lane], g[lane + 1], 1 if g[lane + L_PTES] else entries, ceiling)
    empty(g, lane)
    g[lane + L_PTES] = 0
    g[lane + L_TABLES] = 0


@inner
def free_in_lane(g: Any, lane: Any, slot: Any, account: Any, entries: Any, ceiling: Any, table_batch: Any) -> None:
    """tlb_remove_table: the table's first page joins the range; a full batch is flushed."""
    widen(g, lane, slot, slot + 1)
    g[lane + L_TABLES] += 1
    if g[lane + L_TABLES] == table_batch:
        flush_lane(g, lane, account, entries, ceiling)


@inner
def free_late(g: Any, late: Any, slot: Any, account: Any, entries: Any, ceiling: Any, table_batch: Any) -> None:
    """A table freed after the whole call is zapped: only the first batch shares its flush with the cleared entries."""
    widen(g, late, slot, slot + 1)
    g[late + T_TABLES] += 1
    if g[late + T_TABLES] == table_batch:
        if g[late + T_BATCHED] == 0:
            g[late + T_FIRST_LO], g[late + T_FIRST_HI] = g[late], g[late + 1]
            g[late + T_BATCHED] = 1
        else:
            flush(account, g[late], g[late + 1], entries, ceiling)
        empty(g, late)
        g[late + T_TABLES] = 0


@inner
def close_late(g: Any, late: Any, lo: Any, hi: Any, account: Any, entries: Any, ceiling: Any) -> None:
    """End of a call that frees late; [lo, hi) is what its entries left to flush."""
    stride = 1 if hi > lo else entries
    if g[late + T_BATCHED]:
        flush(account, min(lo, g[late + T_FIRST_LO]), max(hi, g[late + T_FIRST_HI]), stride, ceiling)
        flush(account, g[late], g[late + 1], entries, ceiling)
    else:
        flush(account, min(lo, g[late]), max(hi, g[late + 1]), stride, ceiling)
