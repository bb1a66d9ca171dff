"""A grid given in Python: a file's path, the name of a shipped grid, or a dict of the sections of a grid file."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweep.common.errors import UserError, one_line
from sweep.common.units import plain_number
from sweep.grid.grid import Grid
from sweep.grid.grid_file import SCHEMA
from sweep.grid.loader import load_grid, parse_grid

GridLike = str | Path | Mapping[str, Any]

SOURCE = "grid"
_POSITION = re.compile(rf"^{SOURCE}:\d+:\d+: ")


def read_grid(grid: GridLike, overrides: Sequence[str] = ()) -> Grid:
    """The checked grid. Raises UserError. A dict needs no `schema`, and is called `grid` if it has no `name`."""
    if isinstance(grid, Mapping):
        text = yaml_text({"schema": SCHEMA, "name": SOURCE, **grid})
        try:
            return parse_grid(text, SOURCE, overrides)
        except UserError as error:  # lines and columns are those of a text that the caller never saw
            raise UserError(_POSITION.sub(f"{SOURCE}: ", str(error))) from None
    if not isinstance(grid, str | Path):
        raise UserError(f"grid: a {type(grid).__name__}; give a path, the name of a shipped grid, or a dict")
    return load_grid(Path(grid), tuple(overrides))


def yaml_text(value: object) -> str:
    """The value as JSON that the grid reader takes: numbers plain (0.00001, not 1e-05), texts in quotes."""
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return yaml_text(value.tolist())
    if isinstance(value, Mapping):
        return "{" + ",\n".join(f"{json.dumps(str(key))}: {yaml_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Path | str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        raise UserError(f"{SOURCE}: {value} is no value of a grid; give a number or a text")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return plain_number(repr(value)) or repr(value)
    if isinstance(value, Sequence) or hasattr(value, "__iter__"):
        return "[" + ", ".join(yaml_text(item) for item in value) + "]"
    raise UserError(f"{SOURCE}: {one_line(repr(value))} is no value of a grid; give a number or a text")
