"""Threads in lock step: which trylocks of a PMD lock fail (docs/method.md, section 6)."""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.random.splitmix import TRYLOCK, draw, key
from engine.reclaim.records import record

ATTEMPT = record("step", "table", "fast")
"""A trylock of one policy in one round. fast: if it fails, a fast path becomes a slow one."""


@inner
def thread_of(call: Any, threads: Any, calls: Any, interleaved: Any) -> Any:
    """The thread that makes a call."""
    return call % threads if interleaved else call * threads // calls


@inner
def note_trylock(attempts: Any, number: Any, step: Any, table: Any, fast: Any) -> None:
    """Write ATTEMPT number `number` of attempts: ATTEMPT[*]."""
    attempts[number].step, attempts[number].table, attempts[number].fast = step, table, fast


@inner
def settle_trylocks(
    attempts: Any, count: Any, seed: Any, round_: Any, limits: Any, steps: Any, entries: Any, counters: Any, rule: Any
) -> None:
    """Turn the trylocks that failed in one PMD table and round into slow paths. Only counters change.

    attempts: ATTEMPT[*], the first `count` of them; limits: uint64[701], by the number of trylocks at a step;
    steps: int64[2, *], scratch: a hash table of steps and how many trylocks each has
    """
    lowest, highest, previous, is_increasing = np.int64(1) << 60, np.int64(-1), np.int64(-1), True
    for i in range(count):
        step = attempts[i].step
        is_increasing = is_increasing and step > previous
        lowest, highest, previous = min(lowest, step), max(highest, step), step
    if is_increasing:  # as one thread's always are: no two visits at one step
        return
    size = np.int64(1)
    while size < 2 * count:
        size *= 2
    mask = size - 1
    spread = 1 if highest - lowest <= mask else 0x9E3779B1
    numbers, crowds = steps[0], steps[1]
    for at in range(size):
        numbers[at] = -1
    for i in range(count):
        at = ((attempts[i].step - lowest) * spread) & mask
        while numbers[at] >= 0 and numbers[at] != attempts[i].step:
            at = (at + 1) & mask
        if numbers[at] < 0:
            numbers[at], crowds[at] = attempts[i].step, 0
        crowds[at] += 1
    stream = key(seed, round_, TRYLOCK)
    for i in range(count):
        at = ((attempts[i].step - lowest) * spread) & mask
        while numbers[at] != attempts[i].step:
            at = (at + 1) & mask
        if crowds[at] > 1 and draw(np.uint64(stream), attempts[i].table) < limits[min(crowds[at], 700)]:
            counters.pmd_trylocks_failed += 1
            counters.pmd_locks += 1
            counters.fast_paths -= attempts[i].fast
            counters.slow_paths += attempts[i].fast
            if rule.counts == 0:
                counters.pte_locks_extra += 1
                counters.ptes_rescanned += entries
