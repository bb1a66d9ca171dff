"""What a run yields: integers a point, policy and column, and the same memory figures a round."""

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
)
COLUMNS = STATE + WORK
ROUND_COLUMNS = ("res_bytes_peak", "res_bytes_end", "vm_pte_kib_peak", "vm_pte_kib_end")


@dataclass(frozen=True, slots=True)
class Results:
    """Outcomes of n points under all seven policies.

    values: int64[n, 7, len(COLUMNS)], policies in the order of engine.model.policy.POLICIES
    rounds: int64[sum of rounds, 7, len(ROUND_COLUMNS)], point after point
    round_counts: int64[n]
    known: the columns that `values` holds; the others are not known, whatever stands there
    remarks: a point's own, or None: what its figures leave out. Empty if no point has one
    """

    values: NDArray[np.int64]
    rounds: NDArray[np.int64]
    round_counts: NDArray[np.int64]
    known: tuple[str, ...] = COLUMNS
    remarks: tuple[str | None, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Columns lie apart in memory and stay so on their way; pickle by itself would turn them round."""
        apart = (np.moveaxis(self.values, 2, 0), np.moveaxis(self.rounds, 2, 0))
        return arrived, (*apart, self.round_counts, self.known, self.remarks)


def arrived(values: NDArray[np.int64], rounds: NDArray[np.int64], *others: Any) -> Results:
    """From columns first: int64[len(COLUMNS), n, 7] and int64[len(ROUND_COLUMNS), rounds, 7]."""
    return Results(np.moveaxis(values, 0, 2), np.moveaxis(rounds, 0, 2), *others)
