"""Computes outcome columns from what /proc showed of a point."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernel.proc_reader import count_spans
from engine.kernel.script import Script, common_pages, upper_tables
from engine.model.arch import KIB
from engine.model.results import ROUND_COLUMNS, STATE

RES_PEAK, RES_END, VM_PEAK, VM_END = (
    ROUND_COLUMNS.index(name) for name in ("res_bytes_peak", "res_bytes_end", "vm_pte_kib_peak", "vm_pte_kib_end")
)
SCANNED_COLUMNS = ("vm_pte_kib_needed_end", "pte_tables_empty_end")
"""Columns that need every entry, guard markers too: PAGEMAP_SCAN of Linux 6.15."""
WORK_COLUMNS = ("zap_calls", "ptes_installed", "ptes_zapped", "pte_tables_allocated", "pte_tables_freed")
"""Counters that can be observed: calls are made here; entries and tables are differences between two readings."""
HUGE_COLUMNS = ("thp_faults", "thp_splits")
"""Of points with huge pages only where nothing else runs: /proc/vmstat counts those of all processes."""
OBSERVED_COLUMNS = (*STATE, *WORK_COLUMNS, *HUGE_COLUMNS)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the kernel showed of one point.

    values: outcome columns that can be observed, by name; rounds: int64[rounds, 4], columns as in ROUND_COLUMNS;
    times_ns: int64[rounds, 2], CPU time of all threads in a round's installs and in its zaps;
    drift_pages: largest difference between VmRSS and the entries that were counted;
    anon_huge_kib: int64[rounds, 2], AnonHugePages at a round's peak and end;
    reschedules: how often the point's threads were preempted, where probes count that (a zap then leaves its fast path)
    """

    values: dict[str, int]
    rounds: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    drift_pages: int
    anon_huge_kib: NDArray[np.int64] | None = None
    reschedules: int = 0

    @property
    def install_ns(self) -> int:
        return int(self.times_ns[:, 0].sum())

    @property
    def zap_ns(self) -> int:
        return int(self.times_ns[:, 1].sum())


def outcome_columns(
    script: Script,
    rounds: NDArray[np.int64],
    entries_left: NDArray[np.int64] | None,
    anon_huge_kib: NDArray[np.int64],
) -> dict[str, int]:
    """Outcome columns by name, from `rounds` and `anon_huge_kib` (as in Observation).

    entries_left: int64[*, 2], page ranges [first, end) whose entries are not none at the end; None if /proc cannot show
    them all (PAGEMAP_SCAN, Linux 6.7)

    /proc shows the sum of all levels of page tables. The upper ones follow from the addresses (upper_tables); PTE
    tables are the rest.
    """
    arch = script.scenario.geometry
    pmd = upper_tables(script, arch.entries * arch.pmd_span_tables)
    pud = upper_tables(script, arch.entries * arch.pud_span_tables) if arch.has_pud else np.zeros_like(pmd)
    tables = rounds[:, [VM_PEAK, VM_END]] * KIB // arch.page_bytes - pmd - pud
    tables_before = np.append(0, tables[:-1, 1])
    res = rounds[:, [RES_PEAK, RES_END]] // arch.page_bytes
    values = {name: int(rounds[-1, at]) for at, name in enumerate(ROUND_COLUMNS)}
    values["vm_pte_kib_max"] = int(rounds[:, [VM_PEAK, VM_END]].max())
    ends = (int(level[-1, 1]) for level in (tables, pmd, pud))
    values["pte_tables_end"], values["pmd_tables_end"], values["pud_tables_end"] = ends
    values["zap_calls"] = sum(len(r.calls) for r in script.rounds)
    values["ptes_installed"] = int((res[:, 0] - np.append(0, res[:-1, 1])).sum())
    values["ptes_zapped"] = int((res[:, 0] - res[:, 1]).sum()) + markers_zapped(script)
    values["pte_tables_allocated"] = int((tables[:, 0] - tables_before).sum())
    values["pte_tables_freed"] = int((tables[:, 0] - tables[:, 1]).sum())
    if entries_left is not None:
        needed = count_spans(entries_left, arch.entries)
        needed_above = count_spans(entries_left, arch.entries * arch.pmd_span_tables)
        needed_above += count_spans(entries_left, arch.entries * arch.pud_span_tables) if arch.has_pud else 0
        values["vm_pte_kib_needed_end"] = (needed + needed_above) * arch.page_bytes // KIB
        values["pte_tables_empty_end"] = values["pte_tables_end"] - needed
    values["anon_huge_kib_peak"], values["anon_huge_kib_end"] = map(int, anon_huge_kib[-1])
    if script.scenario.thp == "never":
        values |= dict.fromkeys(HUGE_COLUMNS, 0)
    else:
        del values["ptes_zapped"]  # RES does not tell entries of a split huge page from whole huge pages
        brought = anon_huge_kib[:, 0] - np.append(0, anon_huge_kib[:-1, 1])
        values["ptes_installed"] -= int(brought.sum()) * KIB // arch.page_bytes
        if script.scenario.advice == "free" and not script.unmap:
            del values["ptes_installed"]  # a write to an entry of the zero page brings a page, but installs no entry
    return {name: values[name] for name in OBSERVED_COLUMNS if name in values}


def join_counters(script: Script, values: dict[str, int], inside: dict[str, int]) -> dict[str, int]:
    """Outcome columns from /proc, replaced by what probes inside the kernel counted.

    Of points with huge pages tables are counted by VmPTE: another function frees that of a huge page that goes.
    """
    if script.scenario.thp == "always":
        inside = {name: count for name, count in inside.items() if name not in OBSERVED_COLUMNS}
    return values | inside


def seen_columns(observed: Sequence[str], inside: Sequence[str]) -> tuple[str, ...]:
    """Columns from /proc, and then those that only probes count."""
    return (*observed, *(name for name in inside if name not in OBSERVED_COLUMNS))


def huge_page_columns(script: Script, observation: Observation, faults: int, splits: int) -> dict[str, int]:
    """Columns of a point with huge pages that follow from the huge pages that it faulted in and split.

    What the zaps took from RES are entries, and whole huge pages, which are those that were not split.
    """
    values = {"thp_faults": faults, "thp_splits": splits}
    if script.unmap or script.scenario.advice != "free":
        page, span = script.page, script.scenario.geometry.span_bytes
        res, huge = observation.rounds[:, [RES_PEAK, RES_END]], observation.anon_huge_kib
        assert huge is not None
        zapped_bytes = int((res[:, 0] - res[:, 1]).sum()) - int((huge[:, 0] - huge[:, 1]).sum()) * KIB + splits * span
        values["ptes_zapped"] = zapped_bytes // page + markers_zapped(script)
    return values


def markers_zapped(script: Script) -> int:
    """Guard markers that munmap clears, which RES does not count."""
    return sum(common_pages(script.markers, r.calls) for r in script.rounds) if script.unmap else 0
