"""What is to be drawn, with defaults taken from what varies in a run, and the SQL that has it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweep.common import schema
from sweep.common.errors import UserError
from sweep.plot import quantities
from sweep.plot.quantities import Quantity
from sweep.query.database import Database
from sweep.store.store import RunInfo

_X_FIRST = ("zap", "rounds", "trace", "sparsity", "virt", "cluster", "threads")
"""The axis to draw along where several vary: the size of a call decides most. Others follow in their declared order."""
_FACETS_FIRST = ("cluster", "sparsity", "threads", "zap_shift", "rounds")
_MOST_FACETS = 6
_ENOUGH_FOR_A_LINE = 3
_NO_AXIS = ("seed", "trace_hash", "trace_rows", "res")
_RESERVED = ("cluster", "partition", "order")
_ROUND = "round"
_ROUND_COLUMNS = tuple(c.name for c in schema.ROUNDS if c.name not in ("run_id", "point_id", "policy", "engine"))


@dataclass(frozen=True, slots=True)
class PlotRequest:
    """Names of columns or measures. None, and no `y`: chosen from what varies. Several `y` make a series each."""

    x: str | None = None
    y: tuple[str, ...] = ()
    by: str | None = None
    facet: str | None = None


@dataclass(frozen=True, slots=True)
class Variation:
    """What varies in a run: numbers of different values by column, its policies and its points. is_timed: of calls."""

    values: dict[str, int]
    policies: tuple[str, ...]
    points: int
    is_timed: bool = False

    @property
    def axes(self) -> list[str]:
        """The columns of a point with several values."""
        return [name for name, count in self.values.items() if count > 1]


def survey(database: Database) -> Variation:
    """What varies in `latest`, which has the rows of one run. Raises UserError if it has none."""
    names = [column.name for column in schema.POINT if column.name not in _NO_AXIS]
    counts = ", ".join(f'count(DISTINCT "{name}") AS "{name}"' for name in names)
    row = database.query(
        f"SELECT count(DISTINCT point_id) AS points, list(DISTINCT policy) AS policies, count(zap_ns) AS timed,"
        f" {counts} FROM latest"
    ).to_pylist()[0]
    return Variation({name: row[name] for name in names}, tuple(row["policies"] or ()), row["points"], row["timed"] > 0)


def with_defaults(request: PlotRequest, run: RunInfo, variation: Variation, *, may_facet: bool) -> PlotRequest:
    """The request with every part that was left out, except those that the run has nothing for."""
    taken = {request.x, request.by, request.facet, *request.y}
    y = request.y or (_default_y(request, run, variation),)
    policies = [name for name in variation.policies if name != "none" or not _needs_none(y)]
    x = request.x or _default_x(variation, taken, has_policies=len(policies) > 1)
    by, facet = request.by, request.facet
    several_policies = len(policies) > 1 and "policy" not in (x, by, facet)
    if len(y) > 1:
        if by:
            raise UserError(f"--by {by}: with several --y each is a series of its own; leave --by out, or give one --y")
        facet = facet or ("policy" if several_policies else None)
    else:
        by = by or ("policy" if several_policies else None)
    if facet is None and may_facet and request.x is None and len(y) == 1:
        facet = _default_facet(variation, {x, by, *y})
    return PlotRequest(x, y, by, facet)


def known_quantities(run: RunInfo) -> dict[str, Quantity]:
    """Everything of a run that can be drawn, by name: measures first."""
    return quantities.by_name(quantities.MEASURES) | quantities.columns_of_run(run.document.get("derived", {}))


def grouped_sql(
    keys: Sequence[Quantity], values: Sequence[Quantity], derived: Iterable[str], *, totals: str | None = None
) -> str:
    """SQL with one row for each combination of the keys: these columns, then the values.

    `totals`: a key for each of whose values there is also a row over all others, which are NULL in it.
    """
    names, none_columns = [key.name for key in keys], list(dict.fromkeys(c for v in values for c in v.none_columns))
    used = {*names, *re.findall(r"\w+", " ".join(value.sql for value in values))}
    source = ["FROM latest"]
    if _ROUND in used:
        of_points = ", ".join(name for name in _ROUND_COLUMNS if name != _ROUND)
        kernel = "coalesce(kernel_release, '') AS kernel"  # USING joins no NULL, which it is for the model
        source = [
            f"FROM (SELECT * EXCLUDE ({of_points}), {kernel} FROM latest)",
            f"JOIN (SELECT run_id, point_id, policy, {kernel}, {', '.join(_ROUND_COLUMNS)} FROM rounds)",
            "    USING (run_id, point_id, policy, kernel)",
        ]
    if own := sorted(used & set(derived)):
        source.append(f"JOIN (SELECT run_id, point_id, {_names(own, own)} FROM points) USING (run_id, point_id)")
    if none_columns:
        # One row a point: on several kernels that free nothing a point has several rows of none.
        columns = ", ".join(f"avg({name}) AS {quantities.NONE}{name}" for name in none_columns)
        source += [
            f"JOIN (SELECT run_id, point_id, {columns} FROM latest WHERE policy = 'none' GROUP BY ALL)",
            "    USING (run_id, point_id)",
            "WHERE policy <> 'none'",
        ]
    selected = [_name(name, derived) for name in names] + [
        f"{value.sql} AS {_name(value.name, derived)}" for value in values
    ]
    lines = ["SELECT", *(f"    {item}{',' * (item is not selected[-1])}" for item in selected), *source]
    if names:
        grouping = _names(names, derived)
        sets = f"GROUPING SETS (({_name(totals, derived)}), ({grouping}))" if totals in names[1:] else grouping
        lines += [f"GROUP BY {sets}", f"ORDER BY {grouping}"]
    return "\n".join(lines)


def check(option: str, name: str, run: RunInfo) -> Quantity:
    """The quantity that an option names. Raises UserError with the nearest name."""
    return quantities.find(option, name, known_quantities(run))


def checked_value(name: str, run: RunInfo) -> Quantity:
    """The quantity of --y: a number. Raises UserError."""
    quantity = check("--y", name, run)
    if not quantity.sql:
        raise UserError(f"--y {name}: is text, not a number; draw it with --x, --by or --facet")
    return quantity


def checked_key(option: str, name: str, run: RunInfo) -> Quantity:
    """The quantity of --x, --by or --facet: a column, by whose values rows are grouped. Raises UserError."""
    quantity = check(option, name, run)
    if quantity in quantities.MEASURES or name == schema.COST_NS.name:
        raise UserError(f"{option} {name}: is computed from a group of rows; draw it with --y")
    return quantity


def _default_y(request: PlotRequest, run: RunInfo, variation: Variation) -> str:
    if request.x == _ROUND:
        return "vm_pte_kib_peak"
    if run.engine == "kernel" and run.document.get("grid", {}).get("content", {}).get("workload") is None:
        return "zap_ns_a_call" if variation.is_timed else "vm_pte_kib_end"
    if "none" not in variation.policies or len(variation.policies) < 2:
        return "vm_pte_kib_end"
    return "saved_percent_peak" if "rounds" in (request.x, _default_x(variation, set(), True)) else "saved_percent"


def _default_x(variation: Variation, taken: set[str | None], has_policies: bool) -> str:
    """The first of the usual axes with enough values for a line, else the one with the most values, else policy."""
    free = [name for name in (*_X_FIRST, *variation.axes) if variation.values.get(name, 0) > 1 and name not in taken]
    for name in free:
        if variation.values[name] >= _ENOUGH_FOR_A_LINE:
            return name
    return free[0] if free else ("policy" if has_policies or "policy" not in taken else "point_id")


def _default_facet(variation: Variation, taken: set[str | None]) -> str | None:
    names = dict.fromkeys((*_FACETS_FIRST, *variation.axes))
    fitting = (n for n in names if 1 < variation.values.get(n, 0) <= _MOST_FACETS and n not in taken)
    return next(fitting, None)


def _needs_none(names: Iterable[str]) -> bool:
    return any(measure.none_columns for measure in quantities.MEASURES if measure.name in names)


def _name(name: str, derived: Iterable[str]) -> str:
    return f'"{name}"' if name in _RESERVED or name in derived else name


def _names(names: Iterable[str], derived: Iterable[str]) -> str:
    return ", ".join(_name(name, derived) for name in names)
