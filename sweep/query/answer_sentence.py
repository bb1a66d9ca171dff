"""The answer of a run in one or two sentences, computed from its rows, and the figures of each policy behind them.

`sweep launch` prints it after the run's status, `sweep report` shows it first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from sweep.common import schema
from sweep.common.units import human_size
from sweep.query.database import Database
from sweep.query.views import quoted

BASELINE, IN_LINUX = "none", "merged"
UNIMPORTANT_PERCENT = 5
"""An axis along which the share that comes back differs by less is not worth a sentence."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    """What one policy does in all points of a run together, against the policy `none`.

    given_back: per cent of the page tables (VmPTE) under `none`. The times are nanoseconds of cost_ns that the policy
    adds for each freed table and for each call. None: not known, without `none`, freed tables or priced counters.
    """

    policy: str
    given_back: float | None
    added_ns_a_table: float | None
    added_ns_a_call: float | None


@dataclass(frozen=True, slots=True)
class Axis:
    """Per cent that `policy` gives back for each value of a column that varies in the run, in the values' order."""

    column: str
    policy: str
    values: tuple[Any, ...]
    given_back: tuple[float, ...]

    @property
    def is_in_bytes(self) -> bool:
        return self.column in _IN_BYTES

    @property
    def spread(self) -> float:
        return max(self.given_back) - min(self.given_back)


@dataclass(frozen=True, slots=True)
class Headline:
    """`sentences`: plain text without line ends, none for a run without rows. `moment`: `end`, or `peak` with rounds,
    as a grid with a point of several rounds asks what a process has while it works.

    `axes`: for the policy of Linux, else the last one, those along which it differs; the most important first.
    `best`: the design that gives back most, if that is another one than the axes are for; munmap is no such design.
    """

    moment: str
    sentences: tuple[str, ...]
    policies: tuple[PolicyFigures, ...]
    axes: tuple[Axis, ...]

    @property
    def given_back_title(self) -> str:
        return "given back" if self.moment == "end" else "given back at work"

    best: str | None = None


def headline(database: Database) -> Headline:
    """The headline of the one run that `database` was opened for.

    VmPTE is that after the last calls, or, if a point has several rounds, that of the process at work, after the last
    install.
    """
    rows_of = partial(_rows, database)
    distinct = ", ".join(f'count(DISTINCT "{name}") AS "{name}"' for name in _AXES)
    (facts,) = rows_of(
        f"SELECT coalesce(max(rounds), 1) AS most_rounds, list(DISTINCT policy) AS policies, {distinct} FROM latest"
    )
    policies = [name for name in database.policy_names if name in (facts["policies"] or ())]
    moment = "peak" if facts["most_rounds"] > 1 else "end"
    if not policies:
        return Headline(moment, (), (), ())
    figures = _policy_figures(rows_of, moment, policies)
    focus = _focus(policies)
    axes = _axes(rows_of, moment, focus, [name for name in _AXES if facts[name] > 1]) if BASELINE in policies else ()
    best = _best(figures, focus)
    sentences = (*_summary(rows_of, moment, figures, best), *_dependence(axes))
    return Headline(moment, sentences, tuple(figures), axes, None if focus in best else best[0])


_AXES = tuple(column.name for column in schema.SCENARIO if column.name not in ("seed", "res"))
_IN_BYTES = frozenset(column.name for column in schema.SCENARIO if column.unit == "bytes")
_ORDERED = frozenset(column.name for column in schema.SCENARIO if column.unit)
_WORDS = {"zap": "calls of", "cluster": "extents of", "virt": "VIRT of", "sparsity": "sparsity"}


def _rows(database: Database, sql: str) -> list[Row]:
    rows: list[Row] = database.query(sql, None).to_pylist()
    return rows


def _focus(policies: Sequence[str]) -> str:
    """The policy whose dependence on the axes is described: that of Linux, else the last that is not munmap."""
    others = [policy for policy in policies if policy not in (BASELINE, "munmap")]
    return IN_LINUX if IN_LINUX in policies else (others or list(policies))[-1]


def _policy_figures(rows_of: Callable[[str], list[Row]], moment: str, policies: Sequence[str]) -> list[PolicyFigures]:
    rows = rows_of(
        f"SELECT policy, avg(vm_pte_kib_{moment}) AS kib, avg(pte_tables_freed) AS freed, avg(zap_calls) AS calls,"
        " avg(cost_ns) AS cost FROM latest GROUP BY policy"
    )
    by_policy = {row["policy"]: row for row in rows}
    none = by_policy.get(BASELINE)
    return [_figures(by_policy[policy], none) for policy in policies]


def _figures(row: Row, none: Row | None) -> PolicyFigures:
    def added(count: float | None) -> float | None:
        costs = row["cost"], none and none["cost"]
        return (costs[0] - costs[1]) / count if count and None not in costs else None

    given_back = 100 * (1 - row["kib"] / none["kib"]) if none and none["kib"] else None
    return PolicyFigures(row["policy"], given_back, added(row["freed"]), added(row["calls"]))


def _axes(rows_of: Callable[[str], list[Row]], moment: str, policy: str, columns: Sequence[str]) -> tuple[Axis, ...]:
    """The axes along which `policy` differs, those with a size of call up to which it frees nothing first."""
    axes = [_axis(rows_of, moment, policy, column) for column in columns]
    axes = [axis for axis in axes if len(axis.values) > 1 and axis.spread >= UNIMPORTANT_PERCENT]
    return tuple(sorted(axes, key=lambda axis: (_threshold(axis) is None, -axis.spread)))


def axis_of(database: Database, moment: str, policy: str, column: str) -> Axis:
    """What `policy` gives back for each value of `column`; points without one, such as traces, are left out."""
    return _axis(partial(_rows, database), moment, policy, column)


def _axis(rows_of: Callable[[str], list[Row]], moment: str, policy: str, column: str) -> Axis:
    kib = f"avg(vm_pte_kib_{moment})"  # in a run on several kernels each policy has its own number of rows
    rows = rows_of(
        f'SELECT "{column}" AS value, 100 * (1 - {kib} FILTER (policy = {quoted(policy)})'
        f" / nullif({kib} FILTER (policy = '{BASELINE}'), 0)) AS given_back"
        f' FROM latest WHERE "{column}" IS NOT NULL GROUP BY ALL HAVING given_back IS NOT NULL ORDER BY value'
    )
    return Axis(column, policy, tuple(row["value"] for row in rows), tuple(row["given_back"] for row in rows))


def _threshold(axis: Axis) -> tuple[int, int] | None:
    """The largest call that frees nothing and the smallest that frees tables; None if there are no such two sizes."""
    useless = len(list(takewhile(lambda percent: percent == 0, axis.given_back)))
    if axis.column != "zap" or not 0 < useless < len(axis.values) or not all(axis.given_back[useless:]):
        return None
    return axis.values[useless - 1], axis.values[useless]


def _best(figures: Sequence[PolicyFigures], focus: str) -> list[str]:
    """The policies that give back most, rounded; munmap is not among these: it takes the address range away too."""
    given_back = {f.policy: f.given_back for f in figures if f.given_back is not None and f.policy != BASELINE}
    rivals = {policy: percent for policy, percent in given_back.items() if policy != "munmap" or focus == "munmap"}
    most = percent_text(max(rivals.values(), default=0))
    return [policy for policy, percent in rivals.items() if percent_text(percent) == most] or [focus]


def _summary(
    rows_of: Callable[[str], list[Row]], moment: str, figures: Sequence[PolicyFigures], best: Sequence[str]
) -> list[str]:
    """One sentence: what the policy of interest gives back, and the best."""
    given_back = {f.policy: f.given_back for f in figures if f.given_back is not None and f.policy != BASELINE}
    if not given_back:
        return _without_baseline(rows_of)
    focus = _focus([figure.policy for figure in figures])
    name = f"{focus} (Linux 6.14+)" if focus == IN_LINUX else focus
    of_what = "page tables" if moment == "end" else "the page tables of a process at work"
    other = "no other design more" if focus in best else f"{_some(best)} {percent_text(given_back[best[0]])}"
    more = f", {other}" if len(given_back.keys() - {"munmap"}) > 1 else ""
    return [f"{name} gives back {percent_text(given_back[focus])} of {of_what}{more}."]


def _without_baseline(rows_of: Callable[[str], list[Row]]) -> list[str]:
    """For a run without the policy `none`, such as one on a live kernel: VmPTE before and after the calls.

    They are averages over the points, as in the named query `savings`.
    """
    rows = rows_of(
        "SELECT policy, avg(vm_pte_kib_peak) AS peak, avg(vm_pte_kib_end) AS left_over, count(*) AS points"
        " FROM latest GROUP BY policy"
        " ORDER BY TRY_CAST(policy AS policies)"
    )
    phrases = [
        f"{row['policy']} leaves {human_size(row['left_over'] * 1024)} of {human_size(row['peak'] * 1024)}"
        for row in rows
    ]
    average = " on average" if rows and rows[0]["points"] > 1 else ""
    return [f"{', '.join(phrases)} of page tables after the last calls{average}."]


def _dependence(axes: Sequence[Axis]) -> list[str]:
    """At most one sentence: the size of call up to which nothing is freed, else the axis that decides most.

    Of a process at work also how often its pages moved, beside how they lie, or the other way round.
    """
    if not axes:
        return []
    axis = axes[0]
    threshold = _threshold(axis)
    if threshold:
        small, large = map(size_text, threshold)
        return [f"Under {axis.policy}, calls of up to {small} free no tables; calls of {large} or more do."]
    told = axes[:2] if "rounds" in [axis.column for axis in axes[:2]] else axes[:1]
    return [f"Under {axis.policy} it is {'; '.join(map(_ends, told))}."]


def _ends(axis: Axis) -> str:
    """`0 % with 1 round, and 99 % with 500 rounds`: the least and the most that is given back along an axis."""
    ends = sorted(zip(axis.given_back, axis.values, strict=True), key=lambda end: end[0])
    low, high = (
        f"{percent_text(percent)} with {value_text(axis.column, value)}" for percent, value in (ends[0], ends[-1])
    )
    return f"{low}, and {high}"


def value_text(column: str, value: Any) -> str:
    """`calls of 64 KiB`, `sparsity 0.9`, `threads 8`, `10 rounds`."""
    if column == "rounds":
        return f"{value:,} round{'s' * (value > 1)}"
    shown = size_text(value) if column in _IN_BYTES else f"{value:,}" if column in _ORDERED else str(value)
    return f"{_WORDS.get(column, column)} {shown}"


def size_text(size: int) -> str:
    """`64 KiB`, `1.5 GiB`."""
    return human_size(size).replace(".0 ", " ")


def percent_text(percent: float) -> str:
    """`54 %`; never 0 % or 100 % for what is not quite."""
    if 0 < percent < 0.5:
        return "below 1 %"
    if 99.5 <= percent < 100:
        return "over 99 %"
    return f"{percent:.0f} %"


def _some(names: Sequence[str]) -> str:
    """`refcount and async`; of many names their number."""
    return " and ".join(names) if len(names) < 3 else f"{len(names)} policies"
