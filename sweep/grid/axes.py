"""The sections of a grid file that give the points' fields: fixed, axes, zip and include, checked and expanded."""

from collections.abc import Iterator
from math import prod

import numpy as np

from engine.model.scenario import ABSENT, Columns, complete
from sweep.common.errors import UserError
from sweep.common.units import INT64_MAX
from sweep.grid.field_values import MAX_POINTS, MAX_ROWS, AxisValues, axis_values, read_value
from sweep.grid.grid import Axis, Grid
from sweep.grid.grid_file import GridDocument
from sweep.grid.value_formats import Value
from sweep.grid.yaml_nodes import Scalar, error_at, format_path

_RES_OR_SPARSITY = {"res": "sparsity", "sparsity": "res"}
"""Two ways to say how much is resident: a point has one of them."""


def check_given_once(document: GridDocument) -> None:
    """Raise UserError for a field that is given twice in fixed, axes and zip, or for res beside sparsity."""
    seen: dict[str, tuple[str, ...]] = {}
    for path in _field_paths(document):
        name = path[-1]
        other = _RES_OR_SPARSITY.get(name, name)
        for earlier, message, advice in (
            (name, "is also given", "give it once"),
            (other, f"{other} is given", "give one of the two"),
        ):
            if earlier in seen:
                place = f"at {document.key_position(*seen[earlier])} ({format_path(seen[earlier])})"
                raise error_at(document.key_position(*path), path, f"{message} {place}; {advice}")
        seen[name] = path


def read_axes(document: GridDocument, repeats: int, policies: int) -> tuple[Axis, ...]:
    """All axes, then all zip groups. The number of points is checked before any value is made. Raises UserError.

    `policies`: their number.
    """
    values: dict[tuple[str, str], dict[str, AxisValues]] = {}
    for name, entry in document.file.axes.items():
        path = ("axes", name)
        values[path] = {name: axis_values(name, entry, path, document.position(*path))}
    for group, members in document.file.zip.items():
        if not members:
            raise document.error(("zip", group), "an empty group; name two fields or more")
        values["zip", group] = {
            name: axis_values(name, entry, ("zip", group, name), document.position("zip", group, name))
            for name, entry in members.items()
        }
    counts = {path: max(v.count for v in fields.values()) for path, fields in values.items()}
    _check_size(document, counts, repeats, policies)
    axes = [Axis(path, {name: v.make() for name, v in fields.items()}) for path, fields in values.items()]
    for axis in axes:
        lengths = {name: len(array) for name, array in axis.values.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise document.error(axis.path, f"members move together and need one length; here: {listed}")
    return tuple(axes)


def _check_size(document: GridDocument, counts: dict[tuple[str, str], int], repeats: int, policies: int) -> None:
    """Raise UserError for more than MAX_POINTS points or MAX_ROWS rows. `counts`: most values of each axis."""
    rows = len(document.file.include)
    combinations = prod(counts.values()) if counts or not rows else 0
    total = (combinations + rows) * repeats
    if total > MAX_POINTS:
        sizes = [f"{format_path(path)} {count:,}" for path, count in counts.items()]
        sizes += [f"include {rows:,}"] if rows else []
        sizes += [f"repeats {repeats:,}"] if repeats > 1 else []
        raise UserError(f"{document.source}: {total:,} points ({', '.join(sizes)}); at most {MAX_POINTS:,}")
    if total * policies > MAX_ROWS:
        rows_text = f"{total:,} points under {policies:,} policies are {total * policies:,} rows"
        raise UserError(f"{document.source}: {rows_text}; at most {MAX_ROWS:,}")


def read_include_rows(document: GridDocument) -> list[dict[str, Value]]:
    """The values that each include row gives itself. Raises UserError."""
    return [_read_row(document, i, row) for i, row in enumerate(document.file.include)]


def _read_row(document: GridDocument, i: int, row: dict[str, Scalar]) -> dict[str, Value]:
    if not row:
        raise document.error(("include", i), "an empty row; name a field")
    if "res" in row and "sparsity" in row:
        raise document.error(("include", i, "res"), "sparsity is given too; give one of the two")
    return {name: read_value(name, scalar, ("include", i, name)) for name, scalar in row.items()}


def include_columns(rows: list[dict[str, Value]], fixed: dict[str, Value], seed: int) -> Columns:
    """Complete columns of the include rows, one row each: its own values, then `fixed`, then the defaults."""
    columns = complete({"virt": np.full(len(rows), ABSENT)}, len(rows))
    columns["seed"][:] = seed
    for name in ("cluster", "zap", "folio"):
        columns[name][:] = ABSENT  # the default depends on the arch of the row
    for i, row in enumerate(rows):
        replaced = {_RES_OR_SPARSITY[name] for name in row if name in _RES_OR_SPARSITY}
        for name, value in (fixed | row).items():
            if name not in replaced:
                columns[name][i] = value
    return complete(columns, len(rows))


def check_required(document: GridDocument, grid: Grid) -> None:
    """Raise UserError where virt, or both sparsity and res, are missing in the cross product or an include row."""
    if grid.combinations:
        _check_required(document, (), {path[-1] for path in _field_paths(document)}, "in fixed, axes or zip")
    for i, row in enumerate(grid.include_rows):
        _check_required(document, ("include", i), {*row, *grid.fixed}, "in the row or in fixed")


def _check_required(document: GridDocument, path: tuple[str | int, ...], names: set[str], where: str) -> None:
    if "virt" not in names:
        raise document.error(path, f"virt is required; give it {where}")
    if not names & {"sparsity", "res"}:
        raise document.error(path, f"sparsity (or res) is required; give it {where}")


def check_seeds(grid: Grid) -> None:
    """Raise UserError if the seed of a repeat would be above 2^63 - 1."""
    seeds = [np.array([grid.seed]), grid.include_columns["seed"]]
    seeds += [axis.values["seed"] for axis in grid.axes if "seed" in axis.values]
    highest = max(int(grid.fixed.get("seed", 0)), *(int(array.max()) for array in seeds if len(array)))
    if highest + grid.repeats - 1 > INT64_MAX:
        raise UserError(f"{grid.source}: seed {highest} plus {grid.repeats} repeats is above {INT64_MAX}")


def _field_paths(document: GridDocument) -> Iterator[tuple[str, ...]]:
    """The paths of all fields in fixed, axes and zip."""
    yield from (("fixed", name) for name in document.file.fixed)
    yield from (("axes", name) for name in document.file.axes)
    yield from (("zip", group, name) for group, members in document.file.zip.items() for name in members)
