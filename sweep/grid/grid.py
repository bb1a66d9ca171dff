"""A checked grid: how many points it has, in which order, their columns, and where in the file each value stands.

Order: the cross product of the axes, then of the zip groups, as written, the last varying fastest; then the include
rows. The repeats of one combination are adjacent. The columns of point k are computed from k: no list of points exists.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import Policy
from engine.model.scenario import FIELD, Columns, ScenarioError, check, complete
from sweep.common.errors import UserError
from sweep.grid import yaml_nodes
from sweep.grid.rule_text import policy_content
from sweep.grid.value_formats import Value, canonical_value, format_value, is_absent
from sweep.grid.yaml_nodes import NodePath
from sweep.traces.trace_points import TOUCH_RECORDED, RecordedProcess, trace_columns

CHUNK_POINTS = 65_536
MAX_LISTED_VALUES = 4_096
"""An axis with more values is represented in `Grid.content` by its length and a hash."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension: arrays of equal length, one per field. The fields of a zip group move together."""

    path: tuple[str, str]  #: ("axes", field), ("zip", group), or ("workload", "trace")
    values: dict[str, NDArray[Any]]
    listed: tuple[int, ...] = ()  #: which of the listed values each one is of, where that may be several

    @property
    def length(self) -> int:
        return len(next(iter(self.values.values())))

    def path_of(self, name: str, index: int) -> NodePath:
        """The path of one value in the file, if it is listed there and not made by a rule."""
        place = self.listed[index] if self.listed else index
        return (*self.path, name, place) if self.path[0] == "zip" else (*self.path, place)


@dataclass(frozen=True, slots=True)
class ExcludeRule:
    """Drops the points that have one of the given values in every field of `match`, and fulfil `where`."""

    label: str
    because: str | None
    match: dict[str, tuple[Value, ...]] | None  #: values as in columns: choices are codes
    where: str | None  #: a SQL condition


@dataclass(frozen=True, slots=True)
class GridChunk:
    """Consecutive raw points from number `start` on: complete columns (with the seed of the repeat) and the repeats."""

    start: int
    columns: Columns
    repeat: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """A grid file after all checks. A raw point is a point before exclude rules and duplicates are dropped."""

    name: str
    about: str
    policies: tuple[Policy, ...]  #: built-in ones in the order of ALL, then those of the grid as written
    repeats: int
    seed: int
    derive: dict[str, str]  #: SQL expressions by the name of their column
    excludes: tuple[ExcludeRule, ...]
    fixed: dict[str, Value]  #: values as in columns: choices are codes
    axes: tuple[Axis, ...]
    include_rows: tuple[dict[str, Value], ...]  #: the values that each include row gives itself
    include_columns: Columns  #: complete columns, one row per include row
    text: str
    source: str
    overrides: tuple[str, ...]
    root: yaml_nodes.Mapping = field(repr=False)
    traces: tuple[RecordedProcess, ...] = ()
    touch: str = TOUCH_RECORDED
    thp_setting: str = ""  #: the system's setting of huge pages, of traces; empty if it is unknown
    kernels: tuple[str, ...] = ()  #: names of the kernels on which the kernel engine runs the points
    kernel_images: tuple[str, ...] = ()  #: what identifies these kernels; set by a launch on them

    @property
    def combinations(self) -> int:
        """Size of the cross product. Without axes it is 1 (the fixed values), or 0 if there are include rows."""
        return 0 if not self.axes and self.include_rows else prod(axis.length for axis in self.axes)

    @property
    def policy_names(self) -> tuple[str, ...]:
        return tuple(policy.name for policy in self.policies)

    @property
    def has_huge_pages(self) -> bool:
        """Whether some scenario may have `thp: always`."""
        always = FIELD["thp"].choices.index("always")
        given = [self.fixed.get("thp"), *(row.get("thp") for row in self.include_rows)]
        return always in given or any(always in axis.values.get("thp", ()) for axis in self.axes)

    @property
    def raw_points(self) -> int:
        return (self.combinations + len(self.include_rows)) * self.repeats

    @property
    def varying_columns(self) -> tuple[str, ...]:
        """The fields of axes and zip groups, then further fields of include rows."""
        names = [name for axis in self.axes for name in axis.values]
        names += [name for row in self.include_rows for name in row]
        return tuple(dict.fromkeys(names))

    def chunks(self, size: int = CHUNK_POINTS, checked: bool = True) -> Iterator[GridChunk]:
        """All raw points in order. If `checked`, raises UserError at a point that no address space can have."""
        for start in range(0, self.raw_points, size):
            index = np.arange(start, min(start + size, self.raw_points), dtype=np.int64)
            columns, repeat = self.columns_at(index)
            if checked:
                self.check_points(columns, index)
            yield GridChunk(start, columns, repeat)

    def columns_at(self, index: NDArray[np.int64]) -> tuple[Columns, NDArray[np.int64]]:
        """(complete columns, int64[n] repeats) of the raw points with these numbers."""
        combination, repeat = np.divmod(index, self.repeats)
        in_product = combination < self.combinations
        if in_product.all():
            columns = self._product_columns(combination)
        elif not in_product.any():
            columns = self._included_columns(combination)
        else:
            product = self._product_columns(combination[in_product])
            included = self._included_columns(combination[~in_product])
            columns = {}
            for name in FIELD:
                columns[name] = np.empty(len(index), product[name].dtype)
                columns[name][in_product], columns[name][~in_product] = product[name], included[name]
        columns["seed"] = columns["seed"] + repeat
        return columns, repeat

    def _product_columns(self, combination: NDArray[np.int64]) -> Columns:
        values: dict[str, NDArray[Any]] = {}
        rows = len(combination)
        for name, value in ({"seed": self.seed} | self.fixed).items():
            values[name] = np.full(rows, value)
        for axis, digit in zip(reversed(self.axes), self._axis_indexes(combination), strict=True):
            for name, array in axis.values.items():
                values[name] = array[digit]
        return trace_columns(values, self.touch, self.thp_setting) if self.traces else complete(values, rows)

    def _axis_indexes(self, combination: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The index on each axis, last axis first."""
        for axis in reversed(self.axes):
            combination, digit = np.divmod(combination, axis.length)
            yield digit

    def _included_columns(self, combination: NDArray[np.int64]) -> Columns:
        row = combination - self.combinations
        return {name: values[row] for name, values in self.include_columns.items()}

    def check_points(self, columns: Columns, index: NDArray[np.int64]) -> None:
        """Raise UserError for the first point that no address space can have. `index`: the raw points' numbers."""
        if self.traces:
            return
        try:
            check(columns)
        except ScenarioError as error:
            path = self._value_path(error.field, int(index[error.row]))
            place = self.location(*path) if path else f"{self.source}: {error.field}"
            point = self.describe_point(columns, error.row)
            raise UserError(f"{place}: {error.message} (in the point {point})") from None

    def location(self, *path: str | int) -> str:
        """`grids/a.yaml:7:9: axes.zap[1]`: the place of the value at `path`, or of the deepest node on the way."""
        node, existing_path = yaml_nodes.find_node(self.root, path)
        return str(yaml_nodes.error_at(node.position, existing_path, "")).removesuffix(": ")

    def value_location(self, name: str, raw: int) -> str:
        """The place in the file that gives raw point number `raw` its value of this field, or `default`."""
        path = self._value_path(name, raw)
        return self.location(*path) if path else "default"

    def _value_path(self, name: str, raw: int) -> NodePath | None:
        combination = np.array([raw // self.repeats])
        row = int(combination[0]) - self.combinations
        if row >= 0 and name in self.include_rows[row]:
            return ("include", row, name)
        if row < 0:
            for axis, digit in zip(reversed(self.axes), self._axis_indexes(combination), strict=True):
                if name in axis.values:
                    return axis.path_of(name, int(digit[0]))
        if name in self.fixed:
            return ("fixed", name)
        if name == "touch" and self.touch != TOUCH_RECORDED:
            return ("workload", "touch")
        return ("seed",) if name == "seed" and "seed" in self.root.entries else None

    def describe_point(self, columns: Columns, row: int) -> str:
        """A point as the grid gives it, without defaults: `virt=1GiB sparsity=0.9`."""
        names = [name for name in FIELD if name in self.fixed or name in self.varying_columns]
        values = [(name, columns[name][row].item()) for name in names]
        present = [(name, value) for name, value in values if not is_absent(name, value)]
        return " ".join(f"{name}={format_value(FIELD[name], value)}" for name, value in present)

    def content(self) -> dict[str, Any]:
        """What identifies a run of this grid: canonical values, without comments and `about`. Key order is free."""
        if self.traces:
            traces = {"trace": [trace.identity for trace in self.traces], "touch": self.touch}
            traces |= {"thp": self.thp_setting} if self.thp_setting else {}
            return replace(self, traces=(), axes=()).content() | {"workload": traces}
        axes = {
            axis.path: {name: _canonical_list(name, values) for name, values in axis.values.items()}
            for axis in self.axes
        }
        return {
            "name": self.name,
            "policies": [policy_content(policy) for policy in self.policies],
            "fixed": _canonical_row(self.fixed),
            "axes": {path[1]: fields[path[1]] for path, fields in axes.items() if path[0] == "axes"},
            "zip": {path[1]: fields for path, fields in axes.items() if path[0] == "zip"},
            "include": [_canonical_row(row) for row in self.include_rows],
            "exclude": [
                {
                    "match": {name: _canonical_list(name, values) for name, values in (rule.match or {}).items()},
                    "where": rule.where,
                }
                for rule in self.excludes
            ],
            "derive": self.derive,
            "repeats": self.repeats,
            "seed": self.seed,
        } | ({"kernels": list(self.kernel_images)} if self.kernel_images else {})


def _canonical_row(row: Mapping[str, Value]) -> dict[str, int | float | str]:
    return {name: canonical_value(FIELD[name], value) for name, value in row.items()}


def _canonical_list(name: str, values: Iterable[Value]) -> Any:
    """The values, or their number and hash if they are many."""
    array = np.asarray(list(values) if isinstance(values, tuple) else values)
    if len(array) <= MAX_LISTED_VALUES:
        return [canonical_value(FIELD[name], value) for value in array.tolist()]
    little_endian = array.astype("<f8" if FIELD[name].kind == "share" else "<i8")
    return {"count": len(array), "blake2b": blake2b(little_endian.tobytes(), digest_size=16).hexdigest()}
