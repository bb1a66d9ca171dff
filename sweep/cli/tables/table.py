"""A table as columns of values and of their texts, before and while it is made to fit a page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sweep.cli.tables.text_wrapping import text_width

Format = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `head`, its name and unit, broken into lines where it is long; `cells`, as text, with line ends."""

    name: str
    values: tuple[Any, ...]
    head: str
    cells: tuple[str, ...]
    is_number: bool

    @property
    def width(self) -> int:
        return max(
            map(text_width, (*self.head.split("\n"), *(line for cell in self.cells for line in cell.split("\n"))))
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and what is said above them of those that were taken out."""

    columns: tuple[Column, ...]
    above: tuple[str, ...] = ()
    gap: int = 2

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns) + self.gap * (len(self.columns) - 1)

    @property
    def rows(self) -> int:
        return len(self.columns[0].values) if self.columns else 0


def column_of(name: str, values: Sequence[Any], readable: Format) -> Column:
    return Column(name, tuple(values), readable(name), tuple(map(readable, values)), are_numbers(values))


def are_numbers(values: Iterable[Any]) -> bool:
    """True for numbers, also with NULLs among them."""
    checks = [_is_number(value) for value in values if value is not None]
    return bool(checks) and all(checks)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def rows_of(column: Column, rows: Sequence[int]) -> Column:
    return replace(column, values=tuple(column.values[r] for r in rows), cells=tuple(column.cells[r] for r in rows))
