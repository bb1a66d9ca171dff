"""From a request to a Chart: of the columns of a run, or of the rows of a query."""

import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from engine.model.policy import POLICIES
from sweep.common.errors import UserError, one_line
from sweep.plot import chart, quantities, request
from sweep.plot.chart import SERIES, VALUE, Chart
from sweep.plot.quantities import Quantity
from sweep.plot.request import PlotRequest, Variation
from sweep.query.database import Database
from sweep.query.named_queries import NamedQuery
from sweep.query.views import views_named_in
from sweep.store.store import RunInfo
from sweep.tables.arrow_tables import Table

_NAMED, _MOST_SERIES, _MOST_FACETS = 3, 40, 40


def draw_run(database: Database, run: RunInfo, wanted: PlotRequest, *, may_facet: bool = True) -> Chart:
    """The chart of a run's columns, grouped by x, series and facet. `database` has this run only.

    `may_facet`: whether to choose facets where none are asked for.
    Raises UserError for a name that is none, and if there is nothing to draw.
    """
    for option, name in (("--x", wanted.x), ("--by", wanted.by), ("--facet", wanted.facet)):
        if name is not None:
            request.checked_key(option, name, run)
    ys = [request.checked_value(name, run) for name in wanted.y]
    _check_roles(wanted)
    variation = request.survey(database)
    if not variation.points:
        raise UserError(f"{run.run_id}: has no row of a point that is ok; nothing to draw")
    full = request.with_defaults(wanted, run, variation, may_facet=may_facet)
    known = request.known_quantities(run)
    ys = ys or [known[name] for name in full.y]
    keys = [known[name] for name in dict.fromkeys((full.x, full.by, full.facet)) if name is not None]
    if "none" not in variation.policies and any(y.none_columns for y in ys):
        raise UserError(f"{run.run_id}: has no policy none, which {ys[0].name} compares with; add it to the policies")
    derived = run.document.get("derived", {})
    sql = request.grouped_sql(keys, ys, derived)
    rows = _cells(database.query(sql))
    return _chart_of(
        rows,
        _typed(known[full.x or ""], rows),
        ys,
        known.get(full.by or ""),
        known.get(full.facet or ""),
        sql,
        source=run.run_id,
        subtitle=f"{run.run_id}: {_averaged(variation, [key.name for key in keys])}",
    )


def draw_query(database: Database, run: RunInfo, question: NamedQuery, wanted: PlotRequest) -> Chart:
    """The chart of the rows of a query. Raises UserError for a name that is none of its columns, and if it has no row.

    Without y, a query with a column for each policy gets a series for each; other queries show their last number.
    """
    table = database.query(question.sql)
    rows = _cells(table)
    if not rows:
        raise UserError(f"nothing to draw: {question.why_empty(run.run_id)}")
    known = {name: _column(name, rows) for name in table.column_names}
    keys = [name for name in known if name not in ("run_id", "point_id")]
    numbers = [name for name in keys if known[name].is_number]

    def column(option: str, name: str) -> Quantity:
        return quantities.find(option, question.current_column(name), known)

    ys = [column("--y", name) for name in wanted.y]
    ys = (
        ys
        or [known[name] for name in numbers if name in database.policy_names]
        or [known[name] for name in _last(numbers)]
    )
    for y in ys:
        if not y.is_number:
            raise UserError(f"--y {y.name}: is not a number; numbers: {', '.join(numbers) or 'none'}")
    if not ys:
        raise UserError(f"{question.name or 'the query'}: has no column of numbers; nothing to draw")
    taken = {y.name for y in ys}
    free = [name for name in keys if name not in taken]
    varying = [name for name in free if name != "policy" and len({row[name] for row in rows}) > 1]
    if "policy" in free and len({row["policy"] for row in rows}) == len(rows):
        varying = ["policy"]
    x = column("--x", wanted.x) if wanted.x else known[(varying or free[::-1] or keys)[0]]
    by = column("--by", wanted.by) if wanted.by else known.get("policy") if len(ys) == 1 else None
    facet = column("--facet", wanted.facet) if wanted.facet else None
    _check_roles(wanted)
    by = None if by is x else by
    return _chart_of(
        rows,
        x,
        ys,
        by,
        facet,
        question.sql,
        source=question.name or "the query",
        title=question.help,
        subtitle=run.run_id if views_named_in(question.sql) else "",
    )


def _check_roles(wanted: PlotRequest) -> None:
    """Raise UserError for panels that would hold one bar or one series each."""
    for option, name in (("--x", wanted.x), ("--by", wanted.by)):
        if name is not None and name == wanted.facet:
            raise UserError(f"--facet {one_line(name)}: is {option} already; name another column")


def _chart_of(
    rows: list[dict[str, Any]],
    x: Quantity,
    ys: Sequence[Quantity],
    by: Quantity | None,
    facet: Quantity | None,
    sql: str,
    *,
    source: str,
    title: str = "",
    subtitle: str = "",
) -> Chart:
    empty = [quantity.name for quantity in (*ys, x) if all(row[quantity.name] is None for row in rows)]
    if empty:
        raise UserError(f"{source}: no row has a value of {_listed(empty)}; nothing to draw")
    if not any(row[x.name] is not None and row[y.name] is not None for row in rows for y in ys):
        raise UserError(f"{source}: no row has both {x.name} and {_listed([y.name for y in ys])}; nothing to draw")
    y = ys[0]
    if len(ys) > 1:
        names = {each.name for each in ys}
        y = Quantity(VALUE, _common([each.unit for each in ys]), "")
        by = Quantity("policy" if names & set(POLICIES) else SERIES, is_number=False)
        rows = chart.melted(rows, ys, by.name, VALUE)
        title = (
            title or f"{_listed([each.name for each in ys]) if len(ys) <= _NAMED else f'{len(ys)} columns'} by {x.name}"
        )
    for option, quantity, most in (("--by", by, _MOST_SERIES), ("--facet", facet, _MOST_FACETS)):
        count = 0 if quantity is None else len({row[quantity.name] for row in rows})
        if count > most and quantity is not None:
            raise UserError(f"{option} {quantity.name}: has {count:,} values; at most {most}; draw it with --x")
    return chart.thinned(chart.make(rows, x, y, by, facet, sql, title, subtitle))


def _cells(table: Table) -> list[dict[str, Any]]:
    """The rows of a table with numbers, texts, booleans and None only."""
    return [{name: _cell(value) for name, value in row.items()} for row in table.to_pylist()]


def _cell(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _column(name: str, rows: Sequence[dict[str, Any]]) -> Quantity:
    return _typed(quantities.column_of_query(name), rows)


def _typed(quantity: Quantity, rows: Sequence[dict[str, Any]]) -> Quantity:
    """The quantity as a number or not, by its values: those of a derived column can be either."""
    values = [row[quantity.name] for row in rows if row[quantity.name] is not None]
    is_number = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return replace(quantity, is_number=is_number)


def _last(names: Sequence[str]) -> Sequence[str]:
    return ["saved_percent"] if "saved_percent" in names else names[-1:]


def _common(units: Sequence[str]) -> str:
    return units[0] if len(set(units)) == 1 else ""


def _averaged(variation: Variation, keys: Sequence[str]) -> str:
    """What a value stands for: `30 points, over virt and threads`."""
    over = [name for name in variation.axes if name not in keys]
    points = f"{variation.points:,} point{'s' * (variation.points != 1)}"
    return f"{points}; each value is over all {_listed(over)}" if over else points


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
