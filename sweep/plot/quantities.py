"""What an axis can show: the columns of a run, and measures computed from groups of its rows."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweep.common import schema
from sweep.common.errors import UserError, did_you_mean, one_line

NONE = "none_"
"""Prefix of a column's value under the policy `none` at the same point."""
_NONE_COLUMN = re.compile(rf"\b{NONE}(\w+)")
_UNIT_OF_SUFFIX = {
    "percent": "%",
    "kib": "KiB",
    "mib": "MiB",
    "gib": "GiB",
    "bytes": "bytes",
    "ns": "ns",
    "us": "us",
    "ms": "ms",
}
_LISTED = 12
_LONGEST_TITLE, _LONGEST_HEADING = 64, 40


@dataclass(frozen=True, slots=True)
class Quantity:
    """A name with its unit and meaning. `sql`: its value in a group of rows; empty for a column that groups."""

    name: str
    unit: str = ""
    meaning: str = ""
    sql: str = ""
    is_number: bool = True

    @property
    def title(self) -> str:
        """Text for an axis, without the unit: the meaning up to a remark, if that is short, else the name."""
        meaning = re.split(r" \(|[;:]", self.meaning)[0]
        return meaning if 0 < len(meaning) <= _LONGEST_TITLE else self.name

    @property
    def short_title(self) -> str:
        """Text for a heading."""
        text = self.title if len(self.title) <= _LONGEST_HEADING else self.name
        return text if text == self.name else text[:1].upper() + text[1:]

    @property
    def none_columns(self) -> list[str]:
        """The columns of which it needs the value under `none`."""
        return list(dict.fromkeys(_NONE_COLUMN.findall(self.sql)))


MEASURES = (
    Quantity(
        "saved_percent",
        "%",
        "page tables given back",
        "100 * (1 - sum(vm_pte_kib_end) / sum(none_vm_pte_kib_end))",
    ),
    Quantity(
        "saved_percent_peak",
        "%",
        "page tables given back, while the process has all its memory",
        "100 * (1 - sum(vm_pte_kib_peak) / sum(none_vm_pte_kib_peak))",
    ),
    Quantity(
        "saved_kib",
        "KiB",
        "page tables given back",
        "avg(none_vm_pte_kib_end - vm_pte_kib_end)",
    ),
    Quantity(
        "added_ns_a_call",
        "ns",
        "cost added to one madvise call",
        "sum(cost_ns - none_cost_ns) / nullif(sum(zap_calls), 0)",
    ),
    Quantity(
        "added_ns_a_freed_table",
        "ns",
        "cost added for each freed table",
        "sum(cost_ns - none_cost_ns) / nullif(sum(pte_tables_freed), 0)",
    ),
    Quantity(
        "added_percent",
        "%",
        "cost added, in percent of the cost without reclaim",
        "100 * sum(cost_ns - none_cost_ns) / nullif(sum(none_cost_ns), 0)",
    ),
    Quantity("zap_ns_a_call", "ns", "measured time of one madvise call", "sum(zap_ns) / nullif(sum(zap_calls), 0)"),
    Quantity(
        "zap_ns_a_page", "ns", "measured time of a zap for each page", "sum(zap_ns) / nullif(sum(ptes_zapped), 0)"
    ),
)
"""Figures of a group of rows that no single column holds."""


def columns_of_run(derived: Mapping[str, str]) -> dict[str, Quantity]:
    """The columns of a run's rows: those of `latest` and `rounds`, and the grid's derived ones (SQL by name)."""
    declared = {column.name: _of_column(column) for column in (*schema.ROUNDS, *schema.VIEWS["latest"])}
    return declared | {name: Quantity(name, "", "", f'avg("{name}")') for name in derived}


def column_of_query(name: str) -> Quantity:
    """A column of a query's result; the unit is that of a declared column of this name, or the name's last word."""
    declared = columns_of_run({}).get(name)
    if declared is not None:
        return Quantity(name, declared.unit, declared.meaning)
    last = name.rpartition("_")[2]
    return Quantity(name, _UNIT_OF_SUFFIX.get(last, ""))


def find(option: str, name: str, known: Mapping[str, Quantity]) -> Quantity:
    """The quantity of this name. Raises UserError with the nearest name and some of the others."""
    if name not in known:
        names = list(known)
        some = ", ".join(names[:_LISTED])
        more = f", ... ({len(names)} in all: sweep plot --columns)" if len(names) > _LISTED else ""
        hint = did_you_mean(name, names) or ";"
        raise UserError(f"{option}: unknown column {one_line(name)!r}{hint} known: {some}{more}")
    return known[name]


def by_name(quantities: Iterable[Quantity]) -> dict[str, Quantity]:
    return {quantity.name: quantity for quantity in quantities}


def _of_column(column: schema.Column) -> Quantity:
    is_number = column.type in ("int64", "float64")
    return Quantity(column.name, column.unit, column.meaning, f'avg("{column.name}")' if is_number else "", is_number)
