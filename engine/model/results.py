"""Results of a batch: one integer per point, policy and column, and the memory figures of each round."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATE = (
    "res_bytes_peak",
    "res_bytes_end",
    "vm_pte_kib_peak",
    "vm_pte_kib_end",
    "vm_pte_kib_max",
    "vm_pte_kib_needed_end",
    "pte_tables_end",
    "pmd_tables_end",
    "pud_tables_end",
    "pte_tables_empty_end",
    "anon_huge_kib_peak",
    "anon_huge_kib_end",
)
WORK = (
    "zap_calls",
    "ptes_installed",
    "ptes_zapped",
    "table_visits",
    "pte_tables_allocated",
    "pte_tables_freed",
    "ptes_rescanned",
    "fast_paths",
    "slow_paths",
    "force_breaks",
    "pmd_trylocks",
    "pmd_trylocks_failed",
    "pmd_locks",
    "pte_locks_extra",
    "atomics",
    "tlb_flushes_full",
    "tlb_invlpgs",
    "ipis",
    "thp_faults",
    "thp_splits",
)
COLUMNS = STATE + WORK
ROUND_COLUMNS = ("res_bytes_peak", "res_bytes_end", "vm_pte_kib_peak", "vm_pte_kib_end")


@dataclass(frozen=True, slots=True)
class Results:
    """Outcomes of n points under P policies, by default those of engine.model.policy.POLICIES in that order.

    values: int64[n, P, len(COLUMNS)]
    rounds: int64[sum of round_counts, P, len(ROUND_COLUMNS)], the rounds of the first point, then those of the next
    round_counts: int64[n], rounds of each point
    known: names of the columns of `values` that are measured or computed; the content of all others is undefined
    remarks: for each point a note on what its figures leave out, or None; empty if no point has one
    """

    values: NDArray[np.int64]
    rounds: NDArray[np.int64]
    round_counts: NDArray[np.int64]
    known: tuple[str, ...] = COLUMNS
    remarks: tuple[str | None, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the column axis first: columns are contiguous in memory, and pickle would reorder the data."""
        columns_first = (np.moveaxis(self.values, 2, 0), np.moveaxis(self.rounds, 2, 0))
        return results_from_columns, (*columns_first, self.round_counts, self.known, self.remarks)


def results_from_columns(values: NDArray[np.int64], rounds: NDArray[np.int64], *others: Any) -> Results:
    """Return Results from arrays whose first axis is the column. `others`: the remaining fields of Results in order.

    values: int64[len(COLUMNS), n, P]; rounds: int64[len(ROUND_COLUMNS), sum of rounds, P]
    """
    return Results(np.moveaxis(values, 0, 2), np.moveaxis(rounds, 0, 2), *others)
