"""The table of all rows of a run, or of as many of its points as a page may hold."""

from collections.abc import Sequence
from typing import Any

from sweep.common import schema
from sweep.plot.request import Variation
from sweep.query.database import Database
from sweep.report.html_page import Rows
from sweep.store.store import RunInfo

MOST_ROWS = 8_000
"""About 0.7 MB of the page's 3 MB."""
_FIGURES = (
    "vm_pte_kib_peak",
    "vm_pte_kib_end",
    "pte_tables_empty_end",
    "zap_calls",
    "pte_tables_freed",
    "ptes_rescanned",
    "pmd_trylocks_failed",
    "ipis",
    "zap_ns",
    "cost_ns",
)
_SAVED = """round(100 * (1 - vm_pte_kib_end
            / nullif(max(vm_pte_kib_end) FILTER (policy = 'none') OVER (PARTITION BY run_id, point_id), 0)), 2)"""
_DIGITS = 6


def row_table(database: Database, run: RunInfo, variation: Variation) -> tuple[Rows, list[str]]:
    """The rows with the columns that vary, the policy, what it saves and the main counters; and what is left out.

    More than MOST_ROWS rows: those of every k-th point, chosen by a hash of its id, with all its policies.
    """
    points = variation.points
    every = -(-points * len(variation.policies) // MOST_ROWS)
    axes = [f'"{name}"' for name in (*variation.axes, *(["seed"] if run.repeats > 1 else []))]
    sample = f"WHERE hash(point_id) % {every} = 0" if every > 1 else ""
    table = database.query(f"""
        SELECT point_id, {", ".join([*axes, "policy", "kernel_release", "saved_percent", *_FIGURES])}
        FROM (SELECT *, {_SAVED} AS saved_percent FROM latest {sample})
        ORDER BY {", ".join([*axes, "point_id"])}, TRY_CAST(policy AS policies), policy, kernel_release""")
    rows = table.to_pylist()
    names = [name for name in table.column_names if name != "point_id" and _has_value(rows, name)]
    shown = len({row["point_id"] for row in rows})
    what = f"{shown:,} of {points:,} points" if every > 1 else f"{points:,} point{'s' * (points != 1)}"
    note = f"{what}, a row for each policy{' and kernel' * (run.engine == 'kernel')}. Sizes are bytes."
    notes = [f"The table of all rows shows a sample, {what}; the pictures are made of all."] if every > 1 else []
    return (
        Rows(
            names,
            [_are_numbers(rows, name) for name in names],
            [_hint(name) for name in names],
            [[_short(row[name]) for name in names] for row in rows],
            note,
        ),
        notes,
    )


def _has_value(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row[name] is not None for row in rows)


def _are_numbers(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return all(isinstance(row[name], int | float | None) and not isinstance(row[name], bool) for row in rows)


def _short(value: Any) -> Any:
    """A value in few characters of JSON."""
    if not isinstance(value, float):
        return value
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _hint(name: str) -> str:
    for column in schema.VIEWS["latest"]:
        if column.name == name:
            return f"{column.meaning} ({column.unit})" if column.unit else column.meaning
    return "VmPTE given back at the end, per cent of that under none" if name == "saved_percent" else ""
