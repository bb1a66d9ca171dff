"""How values of a scenario's fields are written: in JSON and for people. Reads no grid, so it loads quickly."""

from typing import Any

from numpy.typing import NDArray

from engine.model.scenario import ABSENT, FIELD, Field
from sweep.common import units

Value = int | float
"""Bytes, a count, a share, or the code of a choice: its index in `Field.choices`."""


def canonical_value(field: Field, value: Value) -> int | float | str:
    """The value as JSON has it: bytes and counts as integers, shares as doubles, choices by name."""
    if field.kind == "choice":
        return field.choices[int(value)]
    return float(value) if field.kind == "share" else int(value)


def format_value(field: Field, value: Value) -> str:
    """The value as people write it: `64KiB`, `0.9`, `random`."""
    return units.format_size(int(value)) if field.kind == "bytes" else str(canonical_value(field, value))


def format_column(name: str, values: NDArray[Any]) -> list[str]:
    """The values of one column as people write them. An absent res or sparsity is an empty string."""
    if name not in FIELD:
        return [str(value) for value in values.tolist()]
    return ["" if is_absent(name, value) else format_value(FIELD[name], value) for value in values.tolist()]


def is_absent(name: str, value: Value) -> bool:
    """Whether a scenario does not have this value: it has either res or sparsity."""
    return value != value or (name == "res" and value == ABSENT)
