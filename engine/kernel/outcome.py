"""From what /proc showed of a point to the columns of an outcome."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernel.proc_reader import spanned
from engine.kernel.script import Script, common_pages, upper_tables
from engine.model.arch import KIB
from engine.model.results import ROUND_COLUMNS, STATE

RES_PEAK, RES_END, VM_PEAK, VM_END = (
    ROUND_COLUMNS.index(name) for name in ("res_bytes_peak", "res_bytes_end", "vm_pte_kib_peak", "vm_pte_kib_end")
)
BY_SCAN = ("vm_pte_kib_needed_end", "pte_tables_empty_end")
"""Columns that need every entry, guard markers too: PAGEMAP_SCAN of Linux 6.15."""
COUNTED = ("zap_calls", "ptes_installed", "ptes_zapped", "pte_tables_allocated", "pte_tables_freed")
"""Work that shows from outside: calls are ours, entries and tables the differences between two looks."""
SEEN = (*STATE, *COUNTED)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel showed of one point.

    values: the columns that can be seen, by name; rounds: int64[rounds, 4], as engine.model.results.ROUND_COLUMNS;
    times_ns: int64[rounds, 2], CPU time of all threads in a round's installs and in its zaps;
    drift_pages: the most that the kernel's own counter (VmRSS) was off the entries that were counted
    """

    values: dict[str, int]
    rounds: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    drift_pages: int

    @property
    def install_ns(self) -> int:
        return int(self.times_ns[:, 0].sum())

    @property
    def zap_ns(self) -> int:
        return int(self.times_ns[:, 1].sum())


def columns(work: Script, rounds: NDArray[np.int64], left: NDArray[np.int64] | None) -> dict[str, int]:
    """The columns. `left`: ranges of pages whose entries are not none at the end, None if that cannot be seen.

    PTE tables are VmPTE less the upper tables, which /proc does not show apart: those follow from the addresses.
    """
    arch = work.scenario.geometry
    pmd = upper_tables(work, arch.entries * arch.pmd_span_tables)
    pud = upper_tables(work, arch.entries * arch.pud_span_tables) if arch.has_pud else np.zeros_like(pmd)
    tables = rounds[:, [VM_PEAK, VM_END]] * KIB // arch.page_bytes - pmd - pud
    before = np.append(0, tables[:-1, 1])
    res = rounds[:, [RES_PEAK, RES_END]] // arch.page_bytes
    values = {name: int(rounds[-1, at]) for at, name in enumerate(ROUND_COLUMNS)}
    values["vm_pte_kib_max"] = int(rounds[:, [VM_PEAK, VM_END]].max())
    ends = (int(level[-1, 1]) for level in (tables, pmd, pud))
    values["pte_tables_end"], values["pmd_tables_end"], values["pud_tables_end"] = ends
    values["zap_calls"] = sum(len(r.calls) for r in work.rounds)
    values["ptes_installed"] = int((res[:, 0] - np.append(0, res[:-1, 1])).sum())
    unmarked = sum(common_pages(work.markers, r.calls) for r in work.rounds) if work.unmap else 0
    values["ptes_zapped"] = int((res[:, 0] - res[:, 1]).sum()) + unmarked
    values["pte_tables_allocated"] = int((tables[:, 0] - before).sum())
    values["pte_tables_freed"] = int((tables[:, 0] - tables[:, 1]).sum())
    if left is not None:
        holding = spanned(left, arch.entries)
        above = spanned(left, arch.entries * arch.pmd_span_tables)
        above += spanned(left, arch.entries * arch.pud_span_tables) if arch.has_pud else 0
        values["vm_pte_kib_needed_end"] = (holding + above) * arch.page_bytes // KIB
        values["pte_tables_empty_end"] = values["pte_tables_end"] - holding
    return {name: values[name] for name in SEEN if name in values}
