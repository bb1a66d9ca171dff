"""Values as JSON has them, as text for people, and column names made unique."""

import json
import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import count
from typing import Any

from sweep.common.errors import printable

_NULL = "-"
_SPACES = str.maketrans("\n\r\t", "   ")


def unique_names(names: Sequence[str]) -> list[str]:
    """Column names made unique as DuckDB does it: a, a, b becomes a, a_1, b."""
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        unique.append(
            name if name not in unique else next(other for other in numbered if other not in (*unique, *names))
        )
    return unique


def plain(value: Any) -> Any:
    """Convert a value to JSON's types: whole decimals to integers, times to ISO 8601 text, NaN to null."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def readable(value: Any) -> str:
    """A value as one line for people: 102,640 and 0.25, six digits, `-` for NULL, control characters visible."""
    value = value if isinstance(value, datetime) else plain(value)
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else printable(text.translate(_SPACES))
