"""How values are spaced along an axis, and how they are written."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from sweep.common.units import human_size

Spacing = Literal["linear", "log", "steps"]
_MANY = 24
_EVEN, _UNEVEN = 4.0, 30.0
"""Largest gap divided by the smallest one: up to `_EVEN` values are evenly spaced, above `_UNEVEN` some would touch."""
_LOG_RANGE, _LOG_RANGE_OF_TWO = 4.0, 10.0
_SCALES = {
    "bytes": (1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB")),
    "KiB": (1024.0, ("KiB", "MiB", "GiB", "TiB", "PiB")),
    "MiB": (1024.0, ("MiB", "GiB", "TiB", "PiB")),
    "ns": (1000.0, ("ns", "us", "ms", "s")),
    "us": (1000.0, ("us", "ms", "s")),
    "ms": (1000.0, ("ms", "s")),
}


def spacing_of(values: Sequence[float]) -> Spacing:
    """log for a row of powers, linear for evenly spaced values, steps (equal distances) for few others.

    `values`: those of an axis, in any order. A row of powers has more even gaps between its logarithms than between
    its values, and spans a factor of 4 or more.
    """
    points = sorted(set(values))
    if len(points) < 2:
        return "linear"
    linear = _unevenness(points)
    if points[0] > 0:
        ratio, log = points[-1] / points[0], _unevenness([math.log(point) for point in points])
        is_row_of_powers = log < linear and ratio >= _LOG_RANGE if len(points) > 2 else ratio >= _LOG_RANGE_OF_TWO
        if is_row_of_powers and (log <= _UNEVEN or len(points) > _MANY):
            return "log"
    return "linear" if linear <= _EVEN or len(points) > _MANY else "steps"


def scale_of(largest: float, unit: str) -> tuple[float, str]:
    """(divisor, unit) that turn values of up to `largest` in `unit` into numbers that are easy to read."""
    if unit not in _SCALES:
        return 1.0, unit
    base, units = _SCALES[unit]
    power = 0
    while power + 1 < len(units) and abs(largest) >= base ** (power + 1):
        power += 1
    return base**power, units[power]


def value_text(value: Any, unit: str) -> str:
    """A value with its unit, for a label: `64 KiB`, `0.99`, `merged`; `-` for NULL."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if unit == "bytes":
        return human_size(value).replace(".0 ", " ")
    if unit in _SCALES:
        divisor, unit = scale_of(value, unit)
        value = value / divisor
    number = number_text(value)
    return f"{number} {unit}" if unit not in ("", "count", "share", "entries", "tables") else number


def number_text(value: float) -> str:
    """A number in few characters: 12,345 but 1.23."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def numbers_text(values: Sequence[float]) -> list[str]:
    """Numbers for a column: all with as many decimals as give the largest one four digits."""
    largest = max((abs(value) for value in values), default=0.0)
    decimals = 0 if all(value == int(value) for value in values) else max(0, 3 - len(f"{largest:.0f}") + 1)
    return [f"{value:,.{decimals}f}" for value in values]


def _unevenness(points: Sequence[float]) -> float:
    gaps = [b - a for a, b in pairwise(points)]
    return max(gaps) / min(gaps) if min(gaps) > 0 else math.inf
