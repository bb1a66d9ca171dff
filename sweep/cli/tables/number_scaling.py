"""Columns of large numbers in larger units, so that they need fewer digits."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sweep.cli.tables.table import Column, Table

MAX_SCALED = 10_000
"""Numbers are scaled until the largest of a column is below this."""
SIGNIFICANT_DIGITS = 4

BINARY_UNITS, TIME_UNITS = ("bytes", "kib", "mib", "gib", "tib"), ("ns", "us", "ms", "s")
COUNT_UNITS = ("", "k", "M", "G", "T")
IN_BYTES = frozenset(("virt", "res", "cluster", "zap", "zap_shift", "folio", "shift"))
"""Sizes that a user has written with a unit. Columns of these names are in bytes; zap_kib and such in what they say."""
IDENTIFIERS = frozenset(("pid", "seed"))
"""Columns of whole numbers that are names: printed without separators, to be copied."""


def scaled(table: Table) -> Table:
    """Return the table with large numbers in larger units, with four digits; the header has the unit: locks (M)."""
    columns = tuple(_scaled_column(column) for column in table.columns)
    letters = {c.head[-2] for c in columns if c.head.endswith(tuple(f"({unit})" for unit in COUNT_UNITS[1:]))}
    words = {"k": "thousand", "M": "million", "G": "thousand million", "T": "million million"}
    said = [f"{letter}: {words[letter]}" for letter in COUNT_UNITS if letter in letters]
    return replace(table, columns=columns, above=(*table.above, *([", ".join(said)] if said else [])))


def _scaled_column(column: Column) -> Column:
    name, _, unit = column.name.rpartition("_")
    if column.name in IN_BYTES and _are_whole(column):
        return _as_sizes(column, column.head, 1)
    if name in IN_BYTES and unit in BINARY_UNITS and _are_whole(column):
        return _as_sizes(column, name, 1024 ** BINARY_UNITS.index(unit))
    if not column.is_number or column.name in IDENTIFIERS:
        return column
    largest = max((abs(float(value)) for value in column.values if _is_finite(value)), default=0)
    head, scale = _scaled_head(column.head, largest)
    return replace(column, head=head, cells=tuple(_scaled_text(value, scale) for value in column.values))


def _are_whole(column: Column) -> bool:
    return all(v is None or isinstance(v, int) or (isinstance(v, float) and v.is_integer()) for v in column.values)


def _as_sizes(column: Column, head: str, unit: int) -> Column:
    """The column as sizes with a unit each, 64KiB: axes have values of many magnitudes. `unit`: bytes of 1."""
    from sweep.common.units import format_size

    cells = ("-" if value is None else format_size(int(value) * unit) for value in column.values)
    return replace(column, head=head, cells=tuple(cells))


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _scaled_head(name: str, largest: float) -> tuple[str, float]:
    """The name with the unit in which the largest value is below MAX_SCALED, and how many of the old unit that is."""
    words = name.split("_")
    for units, step in ((BINARY_UNITS, 1024), (TIME_UNITS, 1000)):
        for place, word in enumerate(words):
            if word in units:
                power, scale = _power(largest, step, units[units.index(word) :])
                words[place] = units[units.index(word) + power]
                return "_".join(words), scale
    power, scale = _power(largest, 1000, COUNT_UNITS) if largest >= 100_000 else (0, 1.0)
    return f"{name} ({COUNT_UNITS[power]})" if power else name, scale


def _power(largest: float, step: int, units: Sequence[str]) -> tuple[int, float]:
    power = 0
    while largest >= MAX_SCALED and power + 1 < len(units):
        largest, power = largest / step, power + 1
    return power, float(step**power)


def _scaled_text(value: Any, scale: float) -> str:
    if not _is_finite(value):
        return "-"
    if scale == 1 and (isinstance(value, int) or value == int(value)):
        return f"{int(value):,}"
    number = float(value) / scale
    whole_digits = len(str(int(abs(number))))
    text = f"{number:,.{max(0, SIGNIFICANT_DIGITS - whole_digits)}f}" if abs(number) >= 1 else f"{number:.4g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
