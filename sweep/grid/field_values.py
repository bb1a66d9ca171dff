"""Values of a scenario field: one from its text, many from a list or a rule (pow2, range, log).

Ends are inclusive. pow2 doubles from one power of two to another. range goes up by `step`; `to` is reached if a step
falls on it. log spaces `points` values evenly in their logarithm: sizes are rounded to whole pages of 4 KiB, counts to
whole numbers, shares to 6 significant digits; the ends stay as written; neighbours that fall together are one value.
Both use decimal arithmetic, so every machine makes the same values. How many a rule makes is known before it is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.arch import KIB
from engine.model.scenario import ABSENT, FIELD, MAX_VIRT_BYTES, Field, ScenarioError, check, complete
from sweep.common import units
from sweep.common.errors import UserError, unknown_name
from sweep.grid.grid_file import VALUE_RULES, LogRule, Pow2Rule, RangeRule, ValueRule
from sweep.grid.yaml_nodes import Position, Scalar, error_at

Value = int | float
NodePath = tuple[str | int, ...]

MAX_POINTS = 10_000_000
MAX_LOG_POINTS = 10_000
LOG_PAGE_BYTES = 4 * KIB
LOG_SHARE_DIGITS = 6
MAX_SHARE_DECIMALS = 15  # integers over 10^15 divide to the nearest double

_EXACT = Context(prec=40)


@dataclass(frozen=True, slots=True)
class AxisValues:
    """Values not made yet: at most `count` of them."""

    count: int
    make: Callable[[], NDArray[Any]]


def parse_value(field: Field, text: str) -> Value:
    """The value of one text: bytes, a share, a count, or the code of a choice. Raises UserError without a place."""
    if field.kind == "bytes":
        return units.parse_size(text)
    if field.kind == "share":
        return units.parse_share(text)
    if field.kind == "count":
        return units.parse_count(text)
    if text not in field.choices:
        raise UserError(unknown_name(field.name, text, field.choices))
    return field.choices.index(text)


def canonical_value(field: Field, value: Value) -> int | float | str:
    """The canonical value: bytes and counts as integers, shares as doubles, choices by name."""
    if field.kind == "choice":
        return field.choices[int(value)]
    return float(value) if field.kind == "share" else int(value)


def format_value(field: Field, value: Value) -> str:
    """The value as people write it: `64KiB`, `0.9`, `random`."""
    return units.format_size(int(value)) if field.kind == "bytes" else str(canonical_value(field, value))


def format_column(name: str, values: NDArray[Any]) -> list[str]:
    """Values of one column as people write them; an absent res or sparsity is empty."""
    if name not in FIELD:
        return [str(value) for value in values.tolist()]
    return ["" if is_absent(name, value) else format_value(FIELD[name], value) for value in values.tolist()]


def is_absent(name: str, value: Value) -> bool:
    """Whether a scenario is without this value: of res and sparsity it has one."""
    return value != value or (name == "res" and value == ABSENT)


def read_value(name: str, scalar: Scalar, path: NodePath) -> Value:
    """One checked value. Raises UserError with its place."""
    value: Value = read_values(name, [scalar], path, single=True)[0].item()
    return value


def read_values(name: str, scalars: list[Scalar], path: NodePath, single: bool = False) -> NDArray[Any]:
    """Checked values of a list at `path`; `single` if the one value stands there itself."""
    field = FIELD[name]
    values = np.empty(len(scalars), np.float64 if field.kind == "share" else np.int64)
    for i, scalar in enumerate(scalars):
        try:
            values[i] = parse_value(field, scalar.text)
        except UserError as error:
            raise error_at(scalar.spot, path if single else (*path, i), str(error)) from None
    try:
        check_values(name, values)
    except ScenarioError as error:
        scalar = scalars[error.row]
        raise error_at(
            scalar.spot, path if single else (*path, error.row), f"{error.message} ({scalar.text})"
        ) from None
    return values


def check_values(name: str, values: NDArray[Any]) -> None:
    """Raise ScenarioError for the first value that this field may have in no scenario, whatever the others are."""
    given: dict[str, NDArray[Any]] = {
        "virt": np.full(len(values), MAX_VIRT_BYTES, np.int64),
        "sparsity": np.full(len(values), np.nan if name == "res" else 0.5),
    }
    check(complete(given | {name: values}, len(values)))


def axis_values(name: str, given: list[Scalar] | ValueRule | Scalar, path: NodePath, spot: Position) -> AxisValues:
    """What an axis holds. Raises UserError with its place; a rule's values are counted, not made."""
    if isinstance(given, ValueRule):
        return _Rule(FIELD[name], path, spot).spread(given)
    scalars = given if isinstance(given, list) else [given]
    if not scalars:
        raise error_at(spot, path, "an empty list; give one value or more, or leave the key out")
    return AxisValues(len(scalars), lambda: read_values(name, scalars, path, single=not isinstance(given, list)))


@dataclass(frozen=True, slots=True)
class _Rule:
    field: Field
    path: NodePath
    spot: Position

    def spread(self, rule: ValueRule) -> AxisValues:
        given = [(name, getattr(rule, name)) for name in VALUE_RULES if getattr(rule, name) is not None]
        if len(given) != 1:
            raise error_at(self.spot, self.path, f"give exactly one of {', '.join(VALUE_RULES)}")
        if self.field.kind == "choice":
            names = ", ".join(self.field.choices)
            raise error_at(self.spot, self.path, f"no rule makes names; list them ([{names}])")
        name, ends = given[0]
        inner = _Rule(self.field, (*self.path, name), self.spot)
        made: AxisValues = getattr(inner, name)(ends)
        return AxisValues(made.count, lambda: inner.checked(made.make(), ends))

    def checked(self, values: NDArray[Any], ends: Pow2Rule) -> NDArray[Any]:
        try:
            check_values(self.field.name, values)
        except ScenarioError as error:
            raise error_at(ends.from_.spot, self.path, f"value {error.row + 1}: {error.message}") from None
        return values

    def number(self, key: str, scalar: Scalar) -> Decimal:
        """An end or step, exactly."""
        try:
            parse_value(self.field, scalar.text)
            return Decimal(scalar.text if self.field.kind == "share" else parse_value(self.field, scalar.text))
        except UserError as error:
            raise error_at(scalar.spot, (*self.path, key), str(error)) from None

    def ends(self, ends: Pow2Rule) -> tuple[Decimal, Decimal]:
        low, high = self.number("from", ends.from_), self.number("to", ends.to)
        if low > high:
            raise error_at(ends.to.spot, (*self.path, "to"), f"{ends.to.text} is below `from`, {ends.from_.text}")
        return low, high

    def pow2(self, ends: Pow2Rule) -> AxisValues:
        if self.field.kind == "share":
            raise error_at(self.spot, self.path, "pow2 is for sizes and counts; use range or log, or a list")
        low, high = (int(end) for end in self.ends(ends))
        for key, scalar, end in (("from", ends.from_, low), ("to", ends.to, high)):
            if end < 1 or end & (end - 1):
                below = 1 << max(end.bit_length() - 1, 0)
                near = " or ".join(
                    format_value(self.field, power) for power in ((below, 2 * below) if end else (below,))
                )
                raise error_at(scalar.spot, (*self.path, key), f"{scalar.text} is not a power of two; near it: {near}")
        exponents = range(low.bit_length() - 1, high.bit_length())
        return AxisValues(len(exponents), lambda: np.array([1 << e for e in exponents], np.int64))

    def range(self, ends: RangeRule) -> AxisValues:
        low, high = self.ends(ends)
        step = self.number("step", ends.step)
        if step == 0:
            raise error_at(ends.step.spot, (*self.path, "step"), f"{ends.step.text}: a step must be above 0")
        decimals = max(0, *(-int(number.as_tuple().exponent) for number in (low, high, step)))
        if decimals > MAX_SHARE_DECIMALS:
            raise error_at(ends.step.spot, self.path, f"more than {MAX_SHARE_DECIMALS} decimals")
        first, last, stride = (int(number.scaleb(decimals, _EXACT)) for number in (low, high, step))
        count = (last - first) // stride + 1

        def make() -> NDArray[Any]:
            whole = first + stride * np.arange(count, dtype=np.int64)
            return whole / 10**decimals if self.field.kind == "share" else whole

        return AxisValues(count, make)

    def log(self, ends: LogRule) -> AxisValues:
        low, high = self.ends(ends)
        if low == 0:
            raise error_at(ends.from_.spot, (*self.path, "from"), f"{ends.from_.text}: a log scale starts above 0")
        try:
            points = units.parse_count(ends.points.text)
        except UserError as error:
            raise error_at(ends.points.spot, (*self.path, "points"), str(error)) from None
        if not 2 <= points <= MAX_LOG_POINTS:
            raise error_at(ends.points.spot, (*self.path, "points"), f"{points}: must be from 2 to {MAX_LOG_POINTS}")
        return AxisValues(points, lambda: self._log_values(low, high, points))

    def _log_values(self, low: Decimal, high: Decimal, points: int) -> NDArray[Any]:
        ratio = _EXACT.ln(_EXACT.divide(high, low))

        def value(i: int) -> Decimal:
            exponent = _EXACT.divide(_EXACT.multiply(ratio, Decimal(i)), Decimal(points - 1))
            return self._rounded(_EXACT.multiply(low, _EXACT.exp(exponent)))

        inner = map(value, range(1, points - 1))
        kept = [low, *(x for x in inner if low < x < high), high]
        dtype = np.float64 if self.field.kind == "share" else np.int64
        return np.array([float(x) if dtype is np.float64 else int(x) for x in dict.fromkeys(kept)], dtype)

    def _rounded(self, value: Decimal) -> Decimal:
        if self.field.kind == "share":
            return Context(prec=LOG_SHARE_DIGITS).plus(value)
        unit = Decimal(LOG_PAGE_BYTES if self.field.kind == "bytes" else 1)
        return _EXACT.multiply(_EXACT.to_integral_value(_EXACT.divide(value, unit)), unit)
