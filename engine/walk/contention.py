"""Threads in lock step: which trylocks on a PMD lock fail (docs/method.md, section 6)."""

from typing import Any

import numpy as np

from engine.numeric.jit import inner
from engine.random.splitmix import TRYLOCK, call_key, draw, key, scale
from engine.walk.columns import FAILED, FAST, MERGED, PMD_LOCKS, PTE_LOCKS, RESCANNED, SEED_INLINE, SLOW

BY_MERGED, BY_SEED, AFTER_BREAK = 1, 2, 4
STEP_SHIFT = 3


@inner
def failed_trylocks(
    attempts: Any,
    first_table: Any,
    policy: Any,
    seed: Any,
    round_: Any,
    limits: Any,
    steps: Any,
    counts: Any,
    lowest: Any,
    highest: Any,
) -> tuple[Any, Any]:
    """(all, those after a mid break) of one policy's failed trylocks in one PMD table and round.

    attempts: int64[tables], step << 3 | flags, or -1, all steps in lowest..highest; limits: uint64[701] by the number
    of trylocks at a step; steps, counts: int64 scratch, a power of two of at least twice the tables.
    """
    mask = steps.size - 1
    spread = 1 if highest - lowest <= mask else 0x9E3779B1
    steps[:] = -1
    crowd = 0
    for j in range(attempts.size):
        if attempts[j] >= 0 and attempts[j] & policy:
            step = attempts[j] >> STEP_SHIFT
            at = ((step - lowest) * spread) & mask
            while steps[at] >= 0 and steps[at] != step:
                at = (at + 1) & mask
            if steps[at] < 0:
                steps[at] = step
                counts[at] = 0
            counts[at] += 1
            crowd = max(crowd, counts[at])
    failed, broken = 0, 0
    if crowd < 2:
        return failed, broken
    stream = key(seed, round_, TRYLOCK)
    for j in range(attempts.size):
        if attempts[j] >= 0 and attempts[j] & policy:
            step = attempts[j] >> STEP_SHIFT
            at = ((step - lowest) * spread) & mask
            while steps[at] != step:
                at = (at + 1) & mask
            if counts[at] > 1 and draw(np.uint64(stream), first_table + j) < limits[min(counts[at], 700)]:
                failed += 1
                broken += 1 if attempts[j] & AFTER_BREAK else 0
    return failed, broken


@inner
def thread_of(call: Any, threads: Any, n_calls: Any, interleaved: Any) -> Any:
    """The thread that a call belongs to."""
    return call % threads if interleaved else call * threads // n_calls


@inner
def settle_trylocks(
    attempts: Any,
    first_table: Any,
    seed: Any,
    round_: Any,
    limits: Any,
    steps: Any,
    counts: Any,
    entries: Any,
    work: Any,
) -> None:
    """Turn the trylocks that failed in one PMD table and round into slow paths, for both policies; clear attempts.

    work: int64[7, *], columns as in engine/walk/columns.py
    """
    uniform, increasing, lowest, highest, previous = True, True, np.int64(1) << 60, -1, -1
    for j in range(attempts.size):
        if attempts[j] >= 0:
            step = attempts[j] >> STEP_SHIFT
            uniform = uniform and attempts[j] & 7 == BY_MERGED | BY_SEED
            increasing = increasing and step > previous
            lowest, highest, previous = min(lowest, step), max(highest, step), step
    if increasing:  # as one thread's always are: no two visits at one step
        attempts[:] = -1
        return
    failed, broken = 0, 0
    for policy, p in ((BY_MERGED, MERGED), (BY_SEED, SEED_INLINE)):
        if policy == BY_MERGED or not uniform:
            failed, broken = failed_trylocks(
                attempts, first_table, policy, seed, round_, limits, steps, counts, lowest, highest
            )
        work[p, FAILED] += failed
        work[p, FAST] -= failed - broken
        work[p, SLOW] += failed - broken
        work[p, PMD_LOCKS] += failed
        work[p, PTE_LOCKS] += failed
        work[p, RESCANNED] += failed * entries
    attempts[:] = -1


@inner
def attempt(
    first_call: Any, visited: Any, threads: Any, n_calls: Any, interleaved: Any, pace: Any, attempts: Any
) -> None:
    """Note the steps of visits by calls of one table each, in order; visited: uint16[n], attempts: int64[n]."""
    t, t_end = 0, first_call
    for i in range(attempts.size):
        if visited[i] == 0:
            continue
        call = first_call + i
        if interleaved:
            t = call % threads
        elif call >= t_end:
            t = call * threads // n_calls
            t_end = -((-(t + 1) * n_calls) // threads)
        attempts[i] = (pace[t] << STEP_SHIFT) | BY_MERGED | BY_SEED
        pace[t] += 1


@inner
def attempt_by_key(first_call: Any, visited: Any, hand: Any, stream: Any, low: Any, attempts: Any) -> None:
    """The same in random order, where a call's key says its step (docs/method.md, section 6)."""
    for i in range(attempts.size):
        if visited[i] != 0:
            step = scale(call_key(stream, low, first_call + i), hand) * 2
            attempts[i] = (step << STEP_SHIFT) | BY_MERGED | BY_SEED
