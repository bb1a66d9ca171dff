"""Values of a scenario's fields from a grid: parse one, expand a list or a rule (pow2, range, log).

A rule includes both ends. `pow2` doubles from one power of two to another. `range` goes up by `step`, and reaches `to`
if a step falls on it. `log` spaces `points` values evenly on a logarithmic scale: sizes are rounded to whole pages of
4 KiB, counts to whole numbers, shares to 6 significant digits; the ends stay as written, and equal neighbours become
one value. range and log use decimal arithmetic, so every machine makes the same values. The number of values of a rule
is known before they are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import KIB
from engine.model.scenario import FIELD, MAX_VIRT_BYTES, Field, ScenarioError, check, complete
from sweep.common import units
from sweep.common.errors import UserError, unknown_name
from sweep.grid.grid_file import VALUE_RULES, LogRule, Pow2Rule, RangeRule, ValueRule
from sweep.grid.value_formats import Value, format_value
from sweep.grid.yaml_nodes import NodePath, Position, Scalar, error_at

MAX_POINTS = 10_000_000
MAX_ROWS = 100_000_000
"""Most points times policies."""
MAX_LOG_POINTS = 10_000
LOG_PAGE_BYTES = 4 * KIB
LOG_SHARE_DIGITS = 6
MAX_SHARE_DECIMALS = 15  # integers divided by 10^15 give the nearest double

_EXACT = Context(prec=40)


@dataclass(frozen=True, slots=True)
class AxisValues:
    """Values that are not made yet. `make()` returns at most `count` of them, and raises UserError with the place."""

    count: int
    make: Callable[[], NDArray[Any]]


def parse_value(field: Field, text: str) -> Value:
    """The value of a text. Raises UserError without a place."""
    if field.kind == "bytes":
        return units.parse_size(text)
    if field.kind == "share":
        return units.parse_share(text)
    if field.kind == "count":
        return units.parse_count(text)
    if text not in field.choices:
        raise UserError(unknown_name(field.name, text, field.choices))
    return field.choices.index(text)


def read_value(name: str, scalar: Scalar, path: NodePath) -> Value:
    """The checked value of a scalar at `path`. Raises UserError with its place."""
    value: Value = read_values(name, [scalar], path, single=True)[0].item()
    return value


def read_values(name: str, scalars: list[Scalar], path: NodePath, single: bool = False) -> NDArray[Any]:
    """The checked values of a list at `path`, or of the one scalar at `path` if `single`.

    float64 for shares, else int64. Raises UserError with the place.
    """
    field = FIELD[name]
    values = np.empty(len(scalars), np.float64 if field.kind == "share" else np.int64)
    for i, scalar in enumerate(scalars):
        try:
            values[i] = parse_value(field, scalar.text)
        except UserError as error:
            raise error_at(scalar.position, path if single else (*path, i), str(error)) from None
    try:
        check_values(name, values)
    except ScenarioError as error:
        scalar = scalars[error.row]
        place = path if single else (*path, error.row)
        raise error_at(scalar.position, place, f"{error.message} ({scalar.text})") from None
    return values


def check_values(name: str, values: NDArray[Any]) -> None:
    """Raise ScenarioError for the first value that no scenario can have, whatever its other fields are."""
    lenient: dict[str, NDArray[Any]] = {
        "virt": np.full(len(values), MAX_VIRT_BYTES, np.int64),
        "sparsity": np.full(len(values), np.nan if name == "res" else 0.5),
    }
    check(complete(lenient | {name: values}, len(values)))


def axis_values(name: str, given: list[Scalar] | ValueRule | Scalar, path: NodePath, position: Position) -> AxisValues:
    """The values of a field on an axis, from a list, a rule or a single value. Raises UserError with its place."""
    if isinstance(given, ValueRule):
        return _Rule(FIELD[name], path, position).expand(given)
    scalars = given if isinstance(given, list) else [given]
    if not scalars:
        raise error_at(position, path, "an empty list; give one value or more, or leave the key out")
    return AxisValues(len(scalars), lambda: read_values(name, scalars, path, single=not isinstance(given, list)))


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule of a field, and where it is written. The methods raise UserError with the place."""

    field: Field
    path: NodePath
    position: Position

    def expand(self, rule: ValueRule) -> AxisValues:
        given = [(name, getattr(rule, name)) for name in VALUE_RULES if getattr(rule, name) is not None]
        if len(given) != 1:
            raise error_at(self.position, self.path, f"give exactly one of {', '.join(VALUE_RULES)}")
        if self.field.kind == "choice":
            names = ", ".join(self.field.choices)
            raise error_at(self.position, self.path, f"no rule makes names; list them ([{names}])")
        name, keys = given[0]
        inner = _Rule(self.field, (*self.path, name), self.position)
        values: AxisValues = getattr(inner, f"_{name}")(keys)
        return AxisValues(values.count, lambda: inner._checked(values.make(), keys))

    def _checked(self, values: NDArray[Any], rule: Pow2Rule) -> NDArray[Any]:
        try:
            check_values(self.field.name, values)
        except ScenarioError as error:
            raise error_at(rule.from_.position, self.path, f"value {error.row + 1}: {error.message}") from None
        return values

    def _error(self, key: str, scalar: Scalar, message: str) -> UserError:
        return error_at(scalar.position, (*self.path, key), message)

    def _number(self, key: str, scalar: Scalar) -> Decimal:
        """An end or step, exactly."""
        try:
            value = parse_value(self.field, scalar.text)
        except UserError as error:
            raise self._error(key, scalar, str(error)) from None
        return Decimal(scalar.text if self.field.kind == "share" else value)

    def _ends(self, rule: Pow2Rule) -> tuple[Decimal, Decimal]:
        low, high = self._number("from", rule.from_), self._number("to", rule.to)
        if low > high:
            raise self._error("to", rule.to, f"{rule.to.text} is below `from`, {rule.from_.text}")
        return low, high

    def _pow2(self, rule: Pow2Rule) -> AxisValues:
        if self.field.kind == "share":
            raise error_at(self.position, self.path, "pow2 is for sizes and counts; use range or log, or a list")
        low, high = (int(end) for end in self._ends(rule))
        for key, scalar, end in (("from", rule.from_, low), ("to", rule.to, high)):
            if end < 1 or end & (end - 1):
                below = 1 << max(end.bit_length() - 1, 0)
                powers = (below, 2 * below) if end else (below,)
                near = " or ".join(format_value(self.field, power) for power in powers)
                raise self._error(key, scalar, f"{scalar.text} is not a power of two; near it: {near}")
        exponents = range(low.bit_length() - 1, high.bit_length())
        return AxisValues(len(exponents), lambda: np.array([1 << e for e in exponents], np.int64))

    def _range(self, rule: RangeRule) -> AxisValues:
        low, high = self._ends(rule)
        step = self._number("step", rule.step)
        if step == 0:
            raise self._error("step", rule.step, f"{rule.step.text}: a step must be above 0")
        decimals = max(0, *(-int(number.as_tuple().exponent) for number in (low, high, step)))
        if decimals > MAX_SHARE_DECIMALS:
            raise error_at(rule.step.position, self.path, f"more than {MAX_SHARE_DECIMALS} decimals")
        first, last, stride = (int(number.scaleb(decimals, _EXACT)) for number in (low, high, step))
        count = (last - first) // stride + 1

        def make() -> NDArray[Any]:
            integers = first + stride * np.arange(count, dtype=np.int64)
            return integers / 10**decimals if self.field.kind == "share" else integers

        return AxisValues(count, make)

    def _log(self, rule: LogRule) -> AxisValues:
        low, high = self._ends(rule)
        if low == 0:
            raise self._error("from", rule.from_, f"{rule.from_.text}: a log scale starts above 0")
        try:
            points = units.parse_count(rule.points.text)
        except UserError as error:
            raise self._error("points", rule.points, str(error)) from None
        if not 2 <= points <= MAX_LOG_POINTS:
            raise self._error("points", rule.points, f"{points}: must be from 2 to {MAX_LOG_POINTS}")
        return AxisValues(points, lambda: self._log_values(low, high, points))

    def _log_values(self, low: Decimal, high: Decimal, points: int) -> NDArray[Any]:
        ratio = _EXACT.ln(_EXACT.divide(high, low))

        def value(i: int) -> Decimal:
            exponent = _EXACT.divide(_EXACT.multiply(ratio, Decimal(i)), Decimal(points - 1))
            return self._rounded(_EXACT.multiply(low, _EXACT.exp(exponent)))

        inner = map(value, range(1, points - 1))
        distinct = dict.fromkeys([low, *(x for x in inner if low < x < high), high])
        if self.field.kind == "share":
            return np.array([float(x) for x in distinct], np.float64)
        return np.array([int(x) for x in distinct], np.int64)

    def _rounded(self, value: Decimal) -> Decimal:
        if self.field.kind == "share":
            return Context(prec=LOG_SHARE_DIGITS).plus(value)
        unit = Decimal(LOG_PAGE_BYTES if self.field.kind == "bytes" else 1)
        return _EXACT.multiply(_EXACT.to_integral_value(_EXACT.divide(value, unit)), unit)
