"""Chart: rows of a query with the roles of their columns, ready to be drawn. Labels and order are decided here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sweep.plot.colours import policy_order
from sweep.plot.quantities import Quantity
from sweep.plot.scales import scale_of, spacing_of, value_text

LEADERS = ("merged", "none")
"""The policies whose colour a group of equal series gets, where one is among them: the one in Linux, and none."""
POLICY = "policy"
SERIES, VALUE = "series", "value"
"""Columns of rows that were melted: which of several y it is, and its value."""
_ENOUGH_FOR_A_LINE = 3
_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
MOST_MARKS = 1_500
"""More points than a picture of this size can show; a page holds several pictures in 3 MB."""
_EQUAL_DIGITS = 9
"""Sums of doubles in another order differ in their last digits: two values are equal if they agree in so many."""


class Mark(NamedTuple):
    """One point or bar. x: a number, or a label; y in the chart's `y_unit`; by, facet: labels, empty without them."""

    x: Any
    y: float
    by: str
    facet: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture's content. `series`, `facets`, `x_labels`: labels in the order in which they are drawn.

    `leaders`: the name whose colour each series has. `sql`: the query that has the numbers.
    """

    title: str
    subtitle: str
    x: Quantity
    y: Quantity
    by: Quantity | None
    facet: Quantity | None
    marks: tuple[Mark, ...]
    series: tuple[str, ...]
    leaders: tuple[str, ...]
    facets: tuple[str, ...]
    x_labels: tuple[str, ...]
    y_unit: str
    sql: str

    @property
    def has_series(self) -> bool:
        """Whether series differ in colour; a chart of one series, or by its own x, needs no legend."""
        return self.by is not None and self.by.name != self.x.name

    @property
    def x_values(self) -> list[float]:
        """The numbers on the x axis, sorted."""
        return sorted({mark.x for mark in self.marks})

    @property
    def is_by_policy(self) -> bool:
        return self.by is not None and self.by.name == POLICY

    @property
    def has_numeric_x(self) -> bool:
        """Whether x is drawn along a linear or logarithmic axis; otherwise in steps, one for each of `x_labels`."""
        return not self.x_labels

    @property
    def is_line(self) -> bool:
        """Lines connect points along a numeric axis or steps of one; categories get bars."""
        return self.x.is_number and (len(self.x_labels) or len(self.x_values)) >= _ENOUGH_FOR_A_LINE


def make(
    rows: Iterable[Mapping[str, Any]],
    x: Quantity,
    y: Quantity,
    by: Quantity | None,
    facet: Quantity | None,
    sql: str,
    title: str = "",
    subtitle: str = "",
    *,
    may_merge: bool = True,
) -> Chart:
    """A chart of rows with a column for each quantity. Rows without a value of y or x are left out.

    `may_merge`: whether equal series become one.
    """
    kept = [row for row in rows if row[y.name] is not None and row[x.name] is not None]
    if x.is_number and x.unit in _BYTES:
        kept = [{**row, x.name: row[x.name] * _BYTES[x.unit]} for row in kept]
        x = replace(x, unit="bytes")
    divisor, y_unit = scale_of(max((abs(float(row[y.name])) for row in kept), default=0.0), y.unit)
    x_values = {row[x.name] for row in kept} if x.is_number else set()
    is_numeric = len(x_values) >= _ENOUGH_FOR_A_LINE and spacing_of(list(map(float, x_values))) != "steps"
    x_of = _number if is_numeric else _label_of(x)
    by_of, facet_of = _label_of(by), _label_of(facet)
    marks = [
        Mark(x_of(row[x.name]), float(row[y.name]) / divisor, by_of(_get(row, by)), facet_of(_get(row, facet)))
        for row in kept
    ]
    series = leaders = tuple(_ordered(kept, by))
    if may_merge:
        marks, series, leaders = _merge_equal(marks, "by", series)
    facets = tuple(_ordered(kept, facet))
    if facet is not None and facet.name == POLICY:
        marks, facets, _ = _merge_equal(marks, "facet", facets)
    return Chart(
        title or f"{y.short_title} by {x.name}",
        subtitle,
        x,
        y,
        by,
        facet,
        tuple(marks),
        series,
        leaders,
        facets,
        () if is_numeric else tuple(_ordered(kept, x)),
        y_unit,
        sql,
    )


def thinned(chart: Chart) -> Chart:
    """The chart with at most MOST_MARKS marks, those of every k-th x; the subtitle then says so."""
    every = -(-len(chart.marks) // MOST_MARKS)
    if every < 2:
        return chart
    found: list[Any] = list(chart.x_labels) or chart.x_values
    kept = set(found[::every])
    note = f"drawn at {len(kept):,} of {len(found):,} values of {chart.x.name}"
    return replace(
        chart,
        subtitle="; ".join(filter(None, (chart.subtitle, note))),
        marks=tuple(mark for mark in chart.marks if mark.x in kept),
        x_labels=tuple(label for label in chart.x_labels if label in kept),
    )


def melted(
    rows: Iterable[Mapping[str, Any]], values: Sequence[Quantity], series: str, name: str
) -> list[dict[str, Any]]:
    """A row for each row and value: the other columns, `series` (the value's name), and the value as `name`."""
    taken = {value.name for value in values}
    return [
        {key: cell for key, cell in row.items() if key not in taken} | {series: value.name, name: row[value.name]}
        for row in rows
        for value in values
    ]


def _get(row: Mapping[str, Any], quantity: Quantity | None) -> Any:
    return None if quantity is None else row[quantity.name]


def _number(value: Any) -> float:
    return float(value)


def _label_of(quantity: Quantity | None) -> Callable[[Any], str]:
    if quantity is None:
        return lambda _: ""
    unit = quantity.unit
    return lambda value: value_text(value, unit)


def _ordered(rows: Sequence[Mapping[str, Any]], quantity: Quantity | None) -> list[str]:
    """The labels of a column in the order of its values; policies in the order of their proposal."""
    if quantity is None:
        return [""]
    values = {row[quantity.name] for row in rows}
    if quantity.name == POLICY:
        order = sorted(values, key=policy_order)
    elif quantity.name == SERIES:
        order = list(dict.fromkeys(row[quantity.name] for row in rows))
    else:
        order = sorted(values - {None}) + ([None] if None in values else [])
    return list(dict.fromkeys(map(_label_of(quantity), order)))


def _merge_equal(
    marks: Sequence[Mark], role: Literal["by", "facet"], names: Sequence[str]
) -> tuple[list[Mark], tuple[str, ...], tuple[str, ...]]:
    """Series (or facets) with equal marks as one with all their names: the marks, the names, and their leaders."""
    groups: dict[frozenset[tuple[Any, ...]], list[str]] = {}
    for name in names:
        content = frozenset(
            (m.x, f"{m.y:.{_EQUAL_DIGITS}g}", m.facet if role == "by" else m.by)
            for m in marks
            if getattr(m, role) == name
        )
        groups.setdefault(content, []).append(name)
    leaders = [next((name for name in LEADERS if name in group), group[-1]) for group in groups.values()]
    label_of = dict(zip(leaders, map(", ".join, groups.values()), strict=True))
    kept = [_renamed(mark, role, label_of[getattr(mark, role)]) for mark in marks if getattr(mark, role) in label_of]
    return kept, tuple(label_of.values()), tuple(leaders)


def _renamed(mark: Mark, role: Literal["by", "facet"], label: str) -> Mark:
    return mark._replace(by=label) if role == "by" else mark._replace(facet=label)
