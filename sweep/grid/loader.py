"""A grid file -> Grid: every value read, checked against its field, and counted before anything is built.

What the sections mean:
- `fixed` holds for all points. `axes` and `zip` vary; a field stands in one of the three, once, and never res beside
  sparsity.
- An include row is one more point: its own values, then `fixed`, then the defaults (values of axes do not enter). A row
  that gives res drops a fixed sparsity, and the other way round. Without axes and zip the rows are all there is.
- An exclude rule drops the points that match all its fields (a list means any of its values) and fulfil its `where`.
- Repeat i of a point has its seed + i. The seed is that of the point (fixed, an axis or an include row), else the
  grid's `seed`, else 0.
- `policies` left out means all of them. What a run holds of them is a matter of rows; a point is judged by all.
- `workload: {trace: FILE}` (or a list) makes traces the points. A trace says itself what is mapped, touched and given
  back, so that only `exclude` by `where`, `derive` and `policies` go with it. FILE counts from the grid file's folder,
  on the command line (-S) from the working directory. `touch: all` counts every mapped page as written between calls.
"""

import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np

from engine.model.policy import POLICIES
from engine.model.scenario import ABSENT, FIELD, Columns, complete
from sweep.common import units
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.common.text_lines import STDIN, open_regular_file
from sweep.common.units import INT64_MAX
from sweep.grid import field_values, grid_file, shipped_grids, yaml_nodes
from sweep.grid.field_values import MAX_POINTS, AxisValues, Value, format_value
from sweep.grid.grid import Axis, ExcludeRule, Grid
from sweep.grid.grid_file import SCHEMA, GridFile
from sweep.grid.yaml_nodes import Position, Scalar, error_at
from sweep.traces import trace_points
from sweep.traces.trace_points import TraceFile
from sweep.traces.trace_reader import trace_names

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
MAX_RULES, MAX_DERIVED = 1_000, 100
DERIVED = re.compile(r"[a-z][a-z0-9_]{0,62}")


def load_grid(path: Path, overrides: Sequence[str] = ()) -> Grid:
    """The grid in a file, or the shipped grid of that name, with `-S key=value` overrides. Raises UserError."""
    path = shipped_grids.find_grid(path)
    return parse_grid(_read(path), str(path), overrides)


def parse_grid(text: str, name: str, overrides: Sequence[str] = ()) -> Grid:
    """The grid in a text; `name` stands for the file in messages. Raises UserError."""
    file, tree = grid_file.read_grid_file(text, name, overrides)
    return _Builder(file, tree, name).grid(text, tuple(overrides))


def _read(path: Path) -> str:
    """The file's text. Raises UserError if it is missing, too long or not UTF-8."""
    try:
        with open_regular_file(str(path)) as file:
            data = file.read(yaml_nodes.MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(shipped_grids.missing_grid(path)) from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from None
    if len(data) > yaml_nodes.MAX_BYTES:
        raise UserError(f"{path}: longer than {yaml_nodes.MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8") from None


class _Builder:
    """Turns a file of the right shape into a Grid. Errors carry the place of the value at fault."""

    def __init__(self, file: GridFile, tree: yaml_nodes.Mapping, source: str) -> None:
        self.file, self.tree, self.source = file, tree, source

    def grid(self, text: str, overrides: tuple[str, ...]) -> Grid:
        file = self.file
        if file.schema_.text != SCHEMA:
            raise error_at(
                file.schema_.spot, ("schema",), f"unknown {one_line(file.schema_.text)!r}; this program reads {SCHEMA}"
            )
        if not NAME.fullmatch(file.name.text):
            rule = "a letter a-z, then up to 39 of a-z, 0-9, _ and -"
            raise error_at(file.name.spot, ("name",), f"{one_line(file.name.text)!r} is not a name: {rule}")
        policies = self._policies()
        repeats, seed = self._count("repeats", file.repeats, 1), self._count("seed", file.seed, 0)
        if repeats < 1:
            raise error_at(self._spot("repeats"), ("repeats",), "0: must be 1 or more")
        self._once()
        traces = self._traces()
        fixed = {name: field_values.read_value(name, scalar, ("fixed", name)) for name, scalar in file.fixed.items()}
        dimensions = self._axes(repeats)
        if traces:
            dimensions = (Axis(("workload", "trace"), trace_points.trace_axis(traces)),)
        rows = [self._row(i, row) for i, row in enumerate(file.include)]
        grid = Grid(
            name=file.name.text,
            about=file.about.text.strip() if file.about else "",
            policies=policies,
            repeats=repeats,
            seed=seed,
            derive=self._derive(),
            excludes=self._excludes(),
            fixed=fixed,
            axes=dimensions,
            include_columns=_include(rows, fixed, seed),
            include_rows=tuple(rows),
            text=text,
            source=self.source,
            overrides=overrides,
            traces=traces,
            touch=self._touch(),
            tree=self.tree,
        )
        self._required(grid)
        self._seeds(grid)
        return grid

    def _spot(self, *path: str | int) -> Position:
        return yaml_nodes.find_node(self.tree, path)[0].spot

    def _key_spot(self, *path: str) -> Position:
        node, _ = yaml_nodes.find_node(self.tree, path[:-1])
        assert isinstance(node, yaml_nodes.Mapping)
        return node.keys[path[-1]]

    def _count(self, key: str, scalar: Scalar | None, default: int) -> int:
        try:
            return units.parse_count(scalar.text) if scalar else default
        except UserError as error:
            raise error_at(self._spot(key), (key,), str(error)) from None

    def _policies(self) -> tuple[str, ...]:
        given = self.file.policies
        if given is None:
            return POLICIES
        scalars = given if isinstance(given, list) else [given]
        if not scalars:
            raise error_at(self._spot("policies"), ("policies",), "an empty list; leave the key out for all policies")
        seen = set()
        for i, scalar in enumerate(scalars):
            path = ("policies", i) if isinstance(given, list) else ("policies",)
            if scalar.text not in POLICIES:
                raise error_at(scalar.spot, path, unknown_name("policy", scalar.text, POLICIES))
            if scalar.text in seen:
                raise error_at(scalar.spot, path, f"{scalar.text} is listed twice")
            seen.add(scalar.text)
        return tuple(policy for policy in POLICIES if policy in seen)

    def _traces(self) -> tuple[TraceFile, ...]:
        """The files of `workload`, read once for their hash; what does not go with them is refused."""
        given = self.file.workload
        if given is None:
            return ()
        for key in ("fixed", "axes", "zip", "include", "repeats", "seed"):
            if key in self.tree.entries:
                says = (
                    "nothing in a trace is random" if key in ("repeats", "seed") else "a trace says itself what is done"
                )
                raise error_at(self.tree.keys[key], (), f"{key!r} does not go with `workload`: {says}")
        for i, rule in enumerate(self.file.exclude):
            for name in FIELD:
                if name in rule:
                    raise error_at(
                        self._spot("exclude", i, name), ("exclude", i, name), "a trace has none; use `where`"
                    )
        scalars = given.trace if isinstance(given.trace, list) else [given.trace]
        if not scalars:
            raise error_at(self._spot("workload", "trace"), ("workload", "trace"), "an empty list; give a file or more")
        traces = []
        for i, (scalar, name) in enumerate(zip(scalars, trace_names([scalar.text for scalar in scalars]), strict=True)):
            path: field_values.NodePath = (
                ("workload", "trace", i) if isinstance(given.trace, list) else ("workload", "trace")
            )
            if scalar.text == STDIN:
                raise error_at(scalar.spot, path, "a grid reads traces from files, not from standard input")
            folder = Path(self.source).parent if scalar.spot.line else Path()
            try:
                traces.append(trace_points.read_trace_file(folder / scalar.text, name))
            except UserError as error:
                raise error_at(scalar.spot, path, str(error)) from None
            if traces[-1].format != "kernel" and self._touch() == trace_points.TOUCH_RECORDED:
                told = f"{one_line(name)} records no touches; add `touch: all`, which bounds VmPTE from above"
                raise error_at(scalar.spot, path, told)
        return tuple(traces)

    def _touch(self) -> str:
        given = self.file.workload.touch if self.file.workload else None
        if given and given.text not in trace_points.TOUCH_CHOICES:
            raise error_at(
                given.spot, ("workload", "touch"), unknown_name("touch", given.text, trace_points.TOUCH_CHOICES)
            )
        return given.text if given else trace_points.TOUCH_RECORDED

    def _given(self) -> Iterator[tuple[str, str, *tuple[str, ...]]]:
        """Paths of all fields in fixed, axes and zip."""
        yield from (("fixed", name) for name in self.file.fixed)
        yield from (("axes", name) for name in self.file.axes)
        yield from (("zip", group, name) for group, members in self.file.zip.items() for name in members)

    def _once(self) -> None:
        """A field is given once, and res and sparsity not both."""
        seen: dict[str, tuple[str, ...]] = {}
        for path in self._given():
            name = path[-1]
            other = {"res": "sparsity", "sparsity": "res"}.get(name, name)
            for taken, words in ((name, "is also given"), (other, f"{other} is given")):
                if taken in seen:
                    there = f"at {self._key_spot(*seen[taken])} ({yaml_nodes.format_path(seen[taken])})"
                    advice = "give it once" if taken == name else "give one of the two"
                    raise error_at(self._key_spot(*path), path, f"{words} {there}; {advice}")
            seen[name] = path

    def _axes(self, repeats: int) -> tuple[Axis, ...]:
        """All dimensions. Their sizes are known, and judged, before values are made."""
        spreads: dict[tuple[str, str], dict[str, AxisValues]] = {}
        for name, values in self.file.axes.items():
            spreads["axes", name] = {
                name: field_values.axis_values(name, values, ("axes", name), self._spot("axes", name))
            }
        for group, members in self.file.zip.items():
            if not members:
                raise error_at(self._spot("zip", group), ("zip", group), "an empty group; name two fields or more")
            spreads["zip", group] = {
                name: field_values.axis_values(name, values, ("zip", group, name), self._spot("zip", group, name))
                for name, values in members.items()
            }
        self._limit({path: max(s.count for s in fields.values()) for path, fields in spreads.items()}, repeats)
        made = [Axis(path, {name: s.make() for name, s in fields.items()}) for path, fields in spreads.items()]
        for axis in made:
            lengths = {name: len(values) for name, values in axis.values.items()}
            if len(set(lengths.values())) > 1:
                told = ", ".join(f"{name} {length}" for name, length in lengths.items())
                raise error_at(
                    self._spot(*axis.path), axis.path, f"members move together and need one length; here: {told}"
                )
        return tuple(made)

    def _limit(self, counts: dict[tuple[str, str], int], repeats: int) -> None:
        crossed = prod(counts.values()) if counts or not self.file.include else 0
        total = (crossed + len(self.file.include)) * repeats
        if total > MAX_POINTS:
            sizes = [f"{yaml_nodes.format_path(path)} {count:,}" for path, count in counts.items()]
            sizes += [f"include {len(self.file.include):,}"] if self.file.include else []
            sizes += [f"repeats {repeats:,}"] if repeats > 1 else []
            raise UserError(f"{self.source}: {total:,} points ({', '.join(sizes)}); at most {MAX_POINTS:,}")

    def _row(self, i: int, row: dict[str, Scalar]) -> dict[str, Value]:
        if not row:
            raise error_at(self._spot("include", i), ("include", i), "an empty row; name a field")
        if "res" in row and "sparsity" in row:
            raise error_at(row["res"].spot, ("include", i, "res"), "sparsity is given too; give one of the two")
        return {name: field_values.read_value(name, scalar, ("include", i, name)) for name, scalar in row.items()}

    def _excludes(self) -> tuple[ExcludeRule, ...]:
        if len(self.file.exclude) > MAX_RULES:
            raise error_at(
                self._spot("exclude"), ("exclude",), f"{len(self.file.exclude):,} rules; at most {MAX_RULES:,}"
            )
        return tuple(self._exclude(i, rule) for i, rule in enumerate(self.file.exclude))

    def _exclude(self, i: int, rule: dict[str, Scalar | list[Scalar]]) -> ExcludeRule:
        path: tuple[str | int, ...] = ("exclude", i)
        words = {}
        for key in grid_file.EXCLUDE_WORDS:
            scalar = rule.get(key)
            if isinstance(scalar, list):
                raise error_at(self._spot(*path, key), (*path, key), "must be a single value")
            words[key] = scalar.text.strip() if scalar else None
            if words[key] == "":
                raise error_at(self._spot(*path, key), (*path, key), "is empty")
        match = {name: self._matched(name, values, (*path, name)) for name, values in rule.items() if name in FIELD}
        if not match and words["where"] is None:
            raise error_at(
                self._spot(*path), path, "a rule needs a field to match or a `where`; this one would drop all points"
            )
        told = [f"{name}={','.join(format_value(FIELD[name], v) for v in values)}" for name, values in match.items()]
        label = one_line(" ".join(told + ([words["where"]] if words["where"] else [])), 80)
        return ExcludeRule(label, words["because"], match or None, words["where"])

    def _matched(self, name: str, given: Scalar | list[Scalar], path: field_values.NodePath) -> tuple[Value, ...]:
        if isinstance(given, Scalar):
            return (field_values.read_value(name, given, path),)
        if not given:
            raise error_at(self._spot(*path), path, "an empty list; give one value or more, or leave the key out")
        return tuple(field_values.read_values(name, given, path).tolist())

    def _derive(self) -> dict[str, str]:
        if len(self.file.derive) > MAX_DERIVED:
            raise error_at(
                self._spot("derive"), ("derive",), f"{len(self.file.derive):,} columns; at most {MAX_DERIVED}"
            )
        for name, scalar in self.file.derive.items():
            if not DERIVED.fullmatch(name):
                rule = "a letter a-z, then up to 62 of a-z, 0-9 and _"
                raise error_at(
                    self._key_spot("derive", name), ("derive",), f"{one_line(name)!r} is not a column name: {rule}"
                )
            if name in FIELD or name in trace_points.COLUMNS:
                raise error_at(
                    self._key_spot("derive", name), ("derive",), f"{name!r} is a scenario field; choose another name"
                )
            if not scalar.text.strip():
                raise error_at(scalar.spot, ("derive", name), "is empty; write a SQL expression")
        return {name: scalar.text.strip() for name, scalar in self.file.derive.items()}

    def _required(self, grid: Grid) -> None:
        """virt, and one of sparsity and res, are there for the cross product and for every include row."""
        if grid.traces:
            return
        given = {path[-1] for path in self._given()}
        todo: list[tuple[Position, field_values.NodePath, set[str]]] = []
        if grid.combinations:
            todo.append((self.tree.spot, (), given))
        for i, row in enumerate(grid.include_rows):
            todo.append((self._spot("include", i), ("include", i), set(row) | set(grid.fixed)))
        for spot, path, names in todo:
            advice = "in the row or in fixed" if path else "in fixed, axes or zip"
            if "virt" not in names:
                raise error_at(spot, path, f"virt is required; give it {advice}")
            if not names & {"sparsity", "res"}:
                raise error_at(spot, path, f"sparsity (or res) is required; give it {advice}")

    def _seeds(self, grid: Grid) -> None:
        seeds = [np.array([grid.seed]), grid.include_columns["seed"]]
        seeds += [axis.values["seed"] for axis in grid.axes if "seed" in axis.values]
        highest = max(int(grid.fixed.get("seed", 0)), *(int(some.max()) for some in seeds if len(some)))
        if highest + grid.repeats - 1 > INT64_MAX:
            raise UserError(f"{self.source}: seed {highest} plus {grid.repeats} repeats is above {INT64_MAX}")


def _include(rows: list[dict[str, Value]], fixed: dict[str, Value], seed: int) -> Columns:
    """Complete columns of the include rows."""
    columns = complete({"virt": np.full(len(rows), ABSENT)}, len(rows))
    columns["seed"][:] = seed
    for name in ("cluster", "zap", "folio"):
        columns[name][:] = ABSENT  # the default is the row's own arch's
    for i, row in enumerate(rows):
        dropped = {"res": "sparsity", "sparsity": "res"}
        unwanted = {dropped[name] for name in row if name in dropped}
        for name, value in (fixed | row).items():
            if name not in unwanted:
                columns[name][i] = value
    return complete(columns, len(rows))
