"""Threads in lock step: which trylocks of a PMD lock fail (docs/method.md, section 6)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.numeric.jit import inner
from engine.random.splitmix import TRYLOCK, draw, key
from engine.reclaim.records import record

ATTEMPT = record("step", "table", "tried", "fast")
"""Trylocks at one visit. tried: the policies that tried, a bit each; fast: those for which it was a fast path."""


class LockStep(NamedTuple):
    """Memory for threads in lock step. `rows` is 1 if every policy visits the same tables, else the number of policies.

    pace: int64[rows, rounds x threads], visits that each thread has made
    attempts: ATTEMPT[rows, rounds, tables of a PMD table]; attempted: int64[rows, rounds], how many of them are used
    steps: int64[2, *], a hash table of steps
    """

    pace: NDArray[np.int64]
    attempts: NDArray[np.void]
    attempted: NDArray[np.int64]
    steps: NDArray[np.int64]


def lock_step_for(par: NDArray[np.void], rows: int, pieces: int = 1) -> LockStep:
    """Return the memory for the largest of these points, PARAMETERS[n]. It is empty if none has several threads.

    There is at most one trylock per table and round: it frees the table, and what a refault brings back no later call
    clears. With huge pages a later call may clear it: at most one trylock per table and piece (`pieces` in a slot).
    """
    threaded = par[par["threads"] > 1]
    trylocks = int(np.minimum(threaded["pmd_span"], threaded["end_table"]).max(initial=0)) * pieces
    rounds = int(threaded["rounds"].max(initial=0))
    return LockStep(
        np.zeros((rows, int((threaded["rounds"] * threaded["threads"]).max(initial=0))), np.int64),
        np.zeros((rows, rounds, trylocks), ATTEMPT),
        np.zeros((rows, rounds), np.int64),
        np.zeros((2, 1 << max(2 * trylocks - 1, 1).bit_length()), np.int64),
    )


@inner
def calls_per_thread(par: Any) -> Any:
    """The number of calls that one thread makes in a round, at most."""
    return (par.calls + par.threads - 1) // par.threads


@inner
def pace_index(par: Any, r: Any, call: Any) -> Any:
    """The index in a row of `pace` for the thread that makes a call in round `r`, if the calls are in order."""
    thread = call % par.threads if par.interleaved else call * par.threads // par.calls
    return r * par.threads + thread


@inner
def note_trylocks(lock_step: Any, row: Any, r: Any, step: Any, table: Any, tried: Any, fast: Any) -> None:
    """Add an ATTEMPT of round `r`."""
    at = lock_step.attempted[row, r]
    attempt = lock_step.attempts[row, r, at]
    attempt.step, attempt.table, attempt.tried, attempt.fast = step, table, tried, fast
    lock_step.attempted[row, r] = at + 1


@inner
def keep_pace(visit: Any, exists: Any, r: Any, table: Any, call: Any, par: Any, lock_step: Any) -> None:
    """Let the thread that makes a call go one step on under each policy that had the table; note the trylocks.

    visit.step is the step if the calls are in random order; else it is the number of visits that the thread has made
    """
    for p in range(lock_step.attempted.shape[0]):
        if (exists >> p) & 1 == 0:
            continue
        step = visit.step
        if not par.random:
            at = pace_index(par, r, call)
            step = lock_step.pace[p, at]
            lock_step.pace[p, at] += 1
        bit = 1 << p
        if visit.tried & bit:
            note_trylocks(lock_step, p, r, step, table, bit, visit.fast & bit)


@inner
def settle_rounds(lock_step: Any, rounds: Any, seed: Any, limits: Any, entries: Any, counters: Any, rules: Any) -> None:
    """Settle the trylocks of all rounds in the PMD table that the pass leaves, and forget them."""
    for row in range(lock_step.attempted.shape[0]):
        for r in range(rounds):
            settle_trylocks(
                lock_step.attempts[row, r], lock_step.attempted[row, r], seed, r, limits, lock_step.steps, entries,
                counters, rules,
            )  # fmt: skip
            lock_step.attempted[row, r] = 0


@inner
def settle_trylocks(
    attempts: Any, count: Any, seed: Any, round_: Any, limits: Any, steps: Any, entries: Any, counters: Any, rules: Any
) -> None:
    """Turn the trylocks that failed in one PMD table and round into slow paths. Only counters change.

    attempts: ATTEMPT[*], the first `count` of them; limits: uint64[701], by the number of trylocks at a step;
    steps: int64[2, *]: scratch; counters: COUNTERS[policies]; rules: RULE[policies]
    """
    lowest, highest, previous, is_increasing = np.int64(1) << 60, np.int64(-1), np.int64(-1), True
    anyone, everyone, fast_for_all, fast_for_any = np.int64(0), np.int64(-1), np.int64(-1), np.int64(0)
    for i in range(count):
        step, tried, fast = attempts[i].step, attempts[i].tried, attempts[i].fast
        is_increasing = is_increasing and step > previous
        lowest, highest, previous = min(lowest, step), max(highest, step), step
        anyone, everyone = anyone | tried, everyone & tried
        fast_for_any, fast_for_all = fast_for_any | fast, fast_for_all & (fast | ~tried)
    if is_increasing:  # as one thread's always are: no two visits at one step
        return
    are_alike = anyone == everyone and fast_for_any & ~fast_for_all == 0  # as where no gather was full
    failed, failed_fast, is_known = np.int64(0), np.int64(0), False
    for p in range(rules.size):
        if (anyone >> p) & 1 == 0:
            continue
        if not (are_alike and is_known):
            failed, failed_fast = failed_trylocks(attempts, count, 1 << p, seed, round_, limits, steps, lowest, highest)
            is_known = True
        if are_alike:
            failed_fast = failed * ((fast_for_any >> p) & 1)
        counters[p].pmd_trylocks_failed += failed
        counters[p].pmd_locks += failed
        counters[p].fast_paths -= failed_fast
        counters[p].slow_paths += failed_fast
        if rules[p].counts == 0:
            counters[p].pte_locks_extra += failed
            counters[p].ptes_rescanned += failed * entries


@inner
def failed_trylocks(
    attempts: Any, count: Any, policy: Any, seed: Any, round_: Any, limits: Any, steps: Any, lowest: Any, highest: Any
) -> Any:
    """(all, those on a fast path) of one policy's trylocks that failed; policy: its bit; all steps in lowest..highest.

    steps[0] is a hash table of steps, steps[1] how many trylocks each has.
    """
    size = np.int64(1)
    while size < 2 * count:
        size *= 2
    mask = size - 1
    spread = 1 if highest - lowest <= mask else 0x9E3779B1
    numbers, crowds = steps[0], steps[1]
    for at in range(size):
        numbers[at] = -1
    most = np.int64(0)
    for i in range(count):
        if attempts[i].tried & policy:
            at = ((attempts[i].step - lowest) * spread) & mask
            while numbers[at] >= 0 and numbers[at] != attempts[i].step:
                at = (at + 1) & mask
            if numbers[at] < 0:
                numbers[at], crowds[at] = attempts[i].step, 0
            crowds[at] += 1
            most = max(most, crowds[at])
    failed, failed_fast = np.int64(0), np.int64(0)
    if most < 2:
        return failed, failed_fast
    stream = key(seed, round_, TRYLOCK)
    for i in range(count):
        if attempts[i].tried & policy:
            at = ((attempts[i].step - lowest) * spread) & mask
            while numbers[at] != attempts[i].step:
                at = (at + 1) & mask
            if crowds[at] > 1 and draw(np.uint64(stream), attempts[i].table) < limits[min(crowds[at], 700)]:
                failed += 1
                failed_fast += (attempts[i].fast & policy) != 0
    return failed, failed_fast
