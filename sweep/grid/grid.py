"""A grid, checked: which points it holds, in which order, and where in the file each value stands.

Order: the cross product of the axes, then of the zip groups, as written, the last varying fastest; then the include
rows; the repeats of one combination lie beside each other. Point k is found by divmod: no list of points is ever made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import FIELD, Columns, ScenarioError, check, complete
from sweep.common.errors import UserError
from sweep.grid import yaml_nodes
from sweep.grid.field_values import Value, canonical_value, format_value, is_absent
from sweep.traces.trace_points import TOUCH_RECORDED, TraceFile, trace_columns

CHUNK_POINTS = 65_536
MAX_LISTED_VALUES = 4_096
"""Values of an axis that `content` spells out; a longer axis is named by its length and a hash."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension. Its fields move together: one array a field, all of one length."""

    path: tuple[str, str]  #: ("axes", field), ("zip", group), or ("workload", "trace")
    values: dict[str, NDArray[Any]]

    @property
    def length(self) -> int:
        return len(next(iter(self.values.values())))

    def path_of(self, name: str, index: int) -> tuple[str | int, ...]:
        """Where a value stands in the tree (if it stands there itself and is not made by a rule)."""
        return (*self.path, name, index) if self.path[0] == "zip" else (*self.path, index)


@dataclass(frozen=True, slots=True)
class ExcludeRule:
    """A rule that drops points: those that match every field given, one of its values each, and fulfil `where`."""

    label: str
    because: str | None
    match: dict[str, tuple[Value, ...]] | None  #: values as the columns hold them: choices are codes
    where: str | None


@dataclass(frozen=True, slots=True)
class GridChunk:
    """Raw points start, start + 1, ...: complete columns (the seed is the repeat's) and the repeat, int64[n]."""

    start: int
    columns: Columns
    repeat: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """What a grid file says. `fixed` and `axes` hold values as columns do, `include` complete columns, a row each."""

    name: str
    about: str
    policies: tuple[str, ...]
    repeats: int
    seed: int
    derive: dict[str, str]
    excludes: tuple[ExcludeRule, ...]
    fixed: dict[str, Value]
    axes: tuple[Axis, ...]
    include_columns: Columns
    include_rows: tuple[dict[str, Value], ...]
    text: str
    source: str
    overrides: tuple[str, ...]
    tree: yaml_nodes.Mapping = field(repr=False)
    traces: tuple[TraceFile, ...] = ()
    touch: str = TOUCH_RECORDED

    @property
    def combinations(self) -> int:
        """Size of the cross product. Without axes and zip: one point, the fixed values; none beside include rows."""
        return 0 if not self.axes and self.include_rows else prod(axis.length for axis in self.axes)

    @property
    def raw_points(self) -> int:
        return (self.combinations + len(self.include_rows)) * self.repeats

    @property
    def varying_columns(self) -> tuple[str, ...]:
        """The columns that vary: those of axes and zip groups, then what else include rows give."""
        names = [name for axis in self.axes for name in axis.values]
        names += [name for row in self.include_rows for name in row]
        return tuple(dict.fromkeys(names))

    def chunks(self, size: int = CHUNK_POINTS, checked: bool = True) -> Iterator[GridChunk]:
        """All raw points in order. Raises UserError at a point that no address space can have, unless not `checked`."""
        for start in range(0, self.raw_points, size):
            index = np.arange(start, min(start + size, self.raw_points), dtype=np.int64)
            columns, repeat = self.columns_at(index)
            if checked:
                self.check_points(columns, index)
            yield GridChunk(start, columns, repeat)

    def columns_at(self, index: NDArray[np.int64]) -> tuple[Columns, NDArray[np.int64]]:
        """(complete columns, repeat) of the raw points with these numbers."""
        combination, repeat = np.divmod(index, self.repeats)
        crossed = combination < self.combinations
        if crossed.all():
            columns = self._cross(combination)
        elif not crossed.any():
            columns = self._included(combination)
        else:
            inside, outside = self._cross(combination[crossed]), self._included(combination[~crossed])
            columns = {}
            for name in FIELD:
                columns[name] = np.empty(len(index), inside[name].dtype)
                columns[name][crossed], columns[name][~crossed] = inside[name], outside[name]
        columns["seed"] = columns["seed"] + repeat
        return columns, repeat

    def _cross(self, combination: NDArray[np.int64]) -> Columns:
        given: dict[str, NDArray[Any]] = {}
        rows = len(combination)
        for name, value in ({"seed": self.seed} | self.fixed).items():
            given[name] = np.full(rows, value)
        for axis, digit in zip(reversed(self.axes), self._digits(combination), strict=True):
            for name, values in axis.values.items():
                given[name] = values[digit]
        return trace_columns(given, self.touch) if self.traces else complete(given, rows)

    def _digits(self, combination: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The place on each axis, last axis first."""
        for axis in reversed(self.axes):
            combination, digit = np.divmod(combination, axis.length)
            yield digit

    def _included(self, combination: NDArray[np.int64]) -> Columns:
        row = combination - self.combinations
        return {name: values[row] for name, values in self.include_columns.items()}

    def check_points(self, columns: Columns, index: NDArray[np.int64]) -> None:
        """Raise UserError for the first point that no address space can have; `index`: the points' raw numbers."""
        if self.traces:
            return
        try:
            check(columns)
        except ScenarioError as error:
            path = self._origin(error.field, int(index[error.row]))
            place = self.location(*path) if path else f"{self.source}: {error.field}"
            raise UserError(
                f"{place}: {error.message} (in the point {self.describe_point(columns, error.row)})"
            ) from None

    def location(self, *path: str | int) -> str:
        """`grids/a.yaml:7:9: axes.zap[1]`: the value at `path`, or what of the path there is."""
        node, found = yaml_nodes.find_node(self.tree, path)
        return str(yaml_nodes.error_at(node.spot, found, "")).removesuffix(": ")

    def value_location(self, name: str, raw: int) -> str:
        """Where a raw point's value of this field comes from: a place in the file, or `default`."""
        path = self._origin(name, raw)
        return self.location(*path) if path else "default"

    def _origin(self, name: str, raw: int) -> tuple[str | int, ...] | None:
        combination = np.array([raw // self.repeats])
        row = int(combination[0]) - self.combinations
        if row >= 0 and name in self.include_rows[row]:
            return ("include", row, name)
        if row < 0:
            for axis, digit in zip(reversed(self.axes), self._digits(combination), strict=True):
                if name in axis.values:
                    return axis.path_of(name, int(digit[0]))
        if name in self.fixed:
            return ("fixed", name)
        if name == "touch" and self.touch != TOUCH_RECORDED:
            return ("workload", "touch")
        return ("seed",) if name == "seed" and "seed" in self.tree.entries else None

    def describe_point(self, columns: Columns, row: int) -> str:
        """A point in the user's words: what the grid gives, such as `virt=1GiB sparsity=0.9`."""
        names = [name for name in FIELD if name in self.fixed or name in self.varying_columns]
        values = [(name, columns[name][row].item()) for name in names]
        given = [(name, value) for name, value in values if not is_absent(name, value)]
        return " ".join(f"{name}={format_value(FIELD[name], value)}" for name, value in given)

    def content(self) -> dict[str, Any]:
        """What a run is a run of: values canonical, no comments, no `about`; the order of keys carries nothing."""
        if self.traces:
            traces = {"trace": [trace.digest for trace in self.traces], "touch": self.touch}
            return replace(self, traces=(), axes=()).content() | {"workload": traces}
        axes = {axis.path: {name: _listed(name, values) for name, values in axis.values.items()} for axis in self.axes}
        return {
            "name": self.name,
            "policies": list(self.policies),
            "fixed": _shown(self.fixed),
            "axes": {path[1]: fields[path[1]] for path, fields in axes.items() if path[0] == "axes"},
            "zip": {path[1]: fields for path, fields in axes.items() if path[0] == "zip"},
            "include": [_shown(row) for row in self.include_rows],
            "exclude": [
                {"match": {name: _listed(name, some) for name, some in (rule.match or {}).items()}, "where": rule.where}
                for rule in self.excludes
            ],
            "derive": self.derive,
            "repeats": self.repeats,
            "seed": self.seed,
        }


def _shown(given: Mapping[str, Value]) -> dict[str, int | float | str]:
    return {name: canonical_value(FIELD[name], value) for name, value in given.items()}


def _listed(name: str, values: Iterable[Value]) -> Any:
    """The values, or their number and hash where they are many."""
    array = np.asarray(list(values) if isinstance(values, tuple) else values)
    if len(array) <= MAX_LISTED_VALUES:
        return [canonical_value(FIELD[name], value) for value in array.tolist()]
    little_endian = array.astype("<f8" if FIELD[name].kind == "share" else "<i8")
    return {"count": len(array), "blake2b": blake2b(little_endian.tobytes(), digest_size=16).hexdigest()}
