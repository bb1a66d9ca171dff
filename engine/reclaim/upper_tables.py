"""PMD and PUD tables: how many exist in each round, and how many are still needed at the end."""

from typing import Any

from engine.numeric.jit import inner
from engine.reclaim.records import PMD, UNMAP, ZAP, record

LEVELS = 2
LEVEL = record("first_round", "needed", "needed_unmap")
"""The PMD or PUD table that the pass is in. first_round: the first round in which policies that zap have it (the number
of rounds if none does); needed, needed_unmap: whether an entry remains under it, under those and where ranges are
unmapped."""
LEVEL_ROUND = record("touched", "mapped")
"""One round of it where ranges are unmapped: whether an entry is installed under it, whether a page stays mapped."""


@inner
def enter_tables(levels: Any, level_rounds: Any, rounds: Any) -> None:
    """Start a point. Writes levels, LEVEL[LEVELS], and level_rounds, LEVEL_ROUND[LEVELS, at least rounds]."""
    for n in range(LEVELS):
        enter_upper_table(levels[n], level_rounds[n], rounds)


@inner
def enter_upper_table(level: Any, level_rounds: Any, rounds: Any) -> None:
    level.first_round, level.needed, level.needed_unmap = rounds, 0, 0
    for r in range(rounds):
        level_rounds[r].touched, level_rounds[r].mapped = 0, 0


@inner
def need_upper_tables(levels: Any, r: Any) -> None:
    """Note that policies that zap have the current PMD and PUD table from round `r` on, or earlier. Writes levels."""
    for n in range(LEVELS):
        levels[n].first_round = min(levels[n].first_round, r)


@inner
def leave_tables(done: Any, par: Any, levels: Any, level_rounds: Any, upper: Any, contents: Any, rounds: Any) -> Any:
    """The pass has finished the slots before `done`: count the PMD and PUD table that end there.

    Adds to upper, UPPER[rounds, LEVELS], and contents, CONTENT[2]. Returns whether a PMD table ends there.
    """
    is_last = done == par.end_table
    if not is_last and done & (par.pmd_span - 1) != 0:  # spans are powers of two, and a PUD table ends with a PMD table
        return False
    for n in range(LEVELS):
        span = par.pmd_span if n == PMD else par.pud_span
        if span == 0 or not (is_last or done & (span - 1) == 0):
            continue
        level = levels[n]
        if level.first_round < rounds:
            upper[level.first_round, n].new += 1
        exists = False
        for r in range(rounds):
            exists = exists or level_rounds[n, r].touched != 0
            upper[r, n].peak += exists
            exists = exists and level_rounds[n, r].mapped != 0
            upper[r, n].end += exists
        if n == PMD:
            contents[ZAP].needed_pmd += level.needed
            contents[UNMAP].needed_pmd += level.needed_unmap
        else:
            contents[ZAP].needed_pud += level.needed
            contents[UNMAP].needed_pud += level.needed_unmap
        enter_upper_table(level, level_rounds[n], rounds)
    return True
