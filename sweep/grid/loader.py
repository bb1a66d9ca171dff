"""Load a grid file: every value is read, checked against its field, and counted before any array is built.

What the sections mean:
- `fixed` holds for all points; `axes` and `zip` vary. A field is given in one of the three, once, and res never beside
  sparsity.
- An include row is one more point: its own values, then `fixed`, then the defaults, but no values of axes. A row with
  res drops a fixed sparsity, and the reverse. Without axes and zip the include rows are all points.
- An exclude rule drops the points that match all its fields (a list means any of its values) and fulfil its `where`.
- Repeat i of a point has its seed + i. The seed is that of the point (fixed, an axis or an include row), else the
  grid's `seed`, else 0.
- `policies` left out means the seven built-in ones. sweep.grid.rules reads them.
- `workload: {trace: FILE}` (or a list) makes traces the points. The trace determines what is mapped, touched and given
  back, so only `derive`, `policies` and `exclude` with `where` go with it. A path counts from the folder of the grid
  file, or on the command line (-S) from the working directory. `touch: all` counts every mapped page as written
  between calls. `thp` is the system's setting of huge pages.

The SQL of `where` and `derive` is checked in sweep.grid.sql_expressions, when a plan is made.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from engine.model.policy import ALL
from engine.model.scenario import FIELD
from engine.traces.huge_pages import SETTINGS
from sweep.common import units
from sweep.common.errors import UserError, UserErrors, one_line, unknown_name
from sweep.common.text_lines import STDIN, open_regular_file
from sweep.grid import axes, shipped_grids, yaml_reader
from sweep.grid.field_values import read_value, read_values
from sweep.grid.grid import Axis, ExcludeRule, Grid
from sweep.grid.grid_file import EXCLUDE_WORDS, SCHEMA, GridDocument, check_shape, read_tree
from sweep.grid.rules import read_policies
from sweep.grid.value_formats import Value, format_value
from sweep.grid.yaml_nodes import GridError, NodePath, Scalar, error_at, find_node, without
from sweep.trace_readers import forms
from sweep.trace_readers.trace_reader import trace_names
from sweep.traces import trace_points
from sweep.traces.trace_points import TOUCH_CHOICES, TOUCH_RECORDED, RecordedProcess

GRID_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
DERIVED_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_RULES, MAX_DERIVED, MAX_MISTAKES = 1_000, 100, 20
_NOT_WITH_TRACES = {
    **dict.fromkeys(("fixed", "axes", "zip", "include"), "a trace determines what is mapped and touched"),
    **dict.fromkeys(("repeats", "seed"), "nothing in a trace is random"),
}


def load_grid(path: Path, overrides: Sequence[str] = ()) -> Grid:
    """The grid in a file, or the shipped grid of that name. Raises UserError.

    `overrides` are texts such as `axes.zap=[64KiB]` (-S of the command line).
    """
    path = shipped_grids.find_grid(path)
    return parse_grid(read_text(path), str(path), overrides)


def parse_grid(text: str, source: str, overrides: Sequence[str] = ()) -> Grid:
    """The grid in a text; `source` names the file in messages. Raises UserError with the place of each mistake.

    After a mistake the rest is read without the value that is wrong. What is missing or empty only for that is no
    mistake of its own.
    """
    root, mistakes = read_tree(text, source, overrides), list[GridError]()
    for _ in range(MAX_MISTAKES):
        try:
            grid = _read_grid(check_shape(root, source), text, overrides)
        except GridError as mistake:
            wrong = find_node(root, mistake.node)[1]
            if not _follows(mistake, wrong, mistakes):
                mistakes.append(mistake)
            if not wrong:
                break  # a required key is missing
            root = without(root, wrong)
        except UserError:
            if not mistakes:
                raise
            break
        else:
            if not mistakes:
                return grid
            break
    if len(mistakes) == 1:
        raise mistakes[0]
    mistakes.sort(key=lambda mistake: (mistake.position.line, mistake.position.column))
    raise UserErrors(mistakes)


def _follows(mistake: GridError, wrong: NodePath, earlier: Sequence[GridError]) -> bool:
    """Whether a mistake may only be there because earlier ones were taken out.

    `wrong`: the part of its node that exists. The fields of a policy depend on each other.
    """
    is_missing = wrong != mistake.node
    above = wrong if is_missing else mistake.node
    if wrong[:1] == ("policies",):
        above = wrong[:2]
    return any(above == other.node[: len(above)] for other in earlier)


def _read_grid(document: GridDocument, text: str, overrides: Sequence[str]) -> Grid:
    """The grid of a file of the right shape. Raises UserError for the first wrong value."""
    file, source = document.file, document.source
    _check_header(document)
    given = document.root.entries.get("policies")
    policies = read_policies(given, ("policies",)) if given else ALL
    repeats, seed = _read_count(document, "repeats", 1), _read_count(document, "seed", 0)
    if repeats < 1:
        raise document.error(("repeats",), "0: must be 1 or more")
    axes.check_given_once(document)
    touch = _read_touch(document)
    traces = _read_traces(document, touch)
    fixed = {name: read_value(name, scalar, ("fixed", name)) for name, scalar in file.fixed.items()}
    if traces:
        files = list(dict.fromkeys(trace.path for trace in traces))
        listed = tuple(files.index(trace.path) for trace in traces)
        dimensions: tuple[Axis, ...] = (Axis(("workload", "trace"), trace_points.trace_axis(traces), listed),)
    else:
        dimensions = axes.read_axes(document, repeats, len(policies))
    include_rows = axes.read_include_rows(document)
    grid = Grid(
        name=file.name.text,
        about=file.about.text.strip() if file.about else "",
        policies=policies,
        repeats=repeats,
        seed=seed,
        derive=_read_derive(document),
        excludes=_read_exclude_rules(document),
        fixed=fixed,
        axes=dimensions,
        include_columns=axes.include_columns(include_rows, fixed, seed),
        include_rows=tuple(include_rows),
        text=text,
        source=source,
        overrides=tuple(overrides),
        traces=traces,
        touch=touch,
        thp_setting=_read_thp_setting(document),
        kernels=_read_kernels(document),
        root=document.root,
    )
    if not traces:
        axes.check_required(document, grid)
    axes.check_seeds(grid)
    return grid


def read_text(path: Path) -> str:
    """The file's text. Raises UserError if it is no readable regular file, too long, or not UTF-8."""
    try:
        with open_regular_file(str(path)) as file:
            data = file.read(yaml_reader.MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(shipped_grids.missing_grid(path)) from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from None
    if len(data) > yaml_reader.MAX_BYTES:
        raise UserError(f"{path}: longer than {yaml_reader.MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8") from None


def _check_header(document: GridDocument) -> None:
    schema, name = document.file.schema_.text, document.file.name.text
    if schema != SCHEMA:
        raise document.error(("schema",), f"unknown {one_line(schema)!r}; this program reads {SCHEMA}")
    if not GRID_NAME.fullmatch(name):
        rule = "a letter a-z, then up to 39 of a-z, 0-9, _ and -"
        raise document.error(("name",), f"{one_line(name)!r} is not a name: {rule}")


def _read_count(document: GridDocument, key: str, default: int) -> int:
    """The number at a key of the top level, which may be left out."""
    scalar: Scalar | None = getattr(document.file, key)
    try:
        return units.parse_count(scalar.text) if scalar else default
    except UserError as error:
        raise document.error((key,), str(error)) from None


def _read_kernels(document: GridDocument) -> tuple[str, ...]:
    """Names of kernels; a file's path is relative to the grid's folder. They are looked up when the points run."""
    given = document.file.kernels
    if given is None:
        return ()
    if given == []:
        raise document.error(("kernels",), "an empty list; leave the key out for the running kernel")
    names: list[str] = []
    for path, scalar in _scalars(given, ("kernels",)):
        folder = Path() if not scalar.position.line else Path(document.source).parent
        name = str(folder / scalar.text) if "/" in scalar.text or (folder / scalar.text).is_file() else scalar.text
        if not name.strip() or name in names:
            raise error_at(scalar.position, path, f"{one_line(name)} is listed twice" if name.strip() else "is empty")
        names.append(name)
    return tuple(names)


def _read_touch(document: GridDocument) -> str:
    scalar = document.file.workload.touch if document.file.workload else None
    if scalar and scalar.text not in TOUCH_CHOICES:
        raise document.error(("workload", "touch"), unknown_name("touch", scalar.text, TOUCH_CHOICES))
    return scalar.text if scalar else TOUCH_RECORDED


def _read_thp_setting(document: GridDocument) -> str:
    scalar = document.file.workload.thp if document.file.workload else None
    if scalar and scalar.text not in SETTINGS:
        raise document.error(("workload", "thp"), unknown_name("setting of huge pages", scalar.text, SETTINGS))
    return scalar.text if scalar else ""


def _read_traces(document: GridDocument, touch: str) -> tuple[RecordedProcess, ...]:
    """The processes of the files of `workload`. Raises UserError for sections that do not go with them."""
    workload = document.file.workload
    if workload is None:
        return ()
    for key, reason in _NOT_WITH_TRACES.items():
        if key in document.root.entries:
            raise error_at(document.key_position(key), (), f"{key!r} does not go with `workload`: {reason}")
    for i, rule in enumerate(document.file.exclude):
        for name in FIELD:
            if name in rule:
                raise document.error(("exclude", i, name), "a trace has none; use `where`")
    if workload.trace == []:
        raise document.error(("workload", "trace"), "an empty list; give a file or more")
    scalars = _scalars(workload.trace, ("workload", "trace"))
    names = trace_names([scalar.text for _, scalar in scalars])
    return tuple(
        trace
        for (path, scalar), name in zip(scalars, names, strict=True)
        for trace in _read_trace(document, path, scalar, name, touch)
    )


def _read_trace(document: GridDocument, path: NodePath, scalar: Scalar, name: str, touch: str) -> list[RecordedProcess]:
    if scalar.text == STDIN:
        raise error_at(scalar.position, path, "a grid reads traces from files, not from standard input")
    is_override = not scalar.position.line
    folder = Path() if is_override else Path(document.source).parent
    try:
        processes = trace_points.read_processes(folder / scalar.text, name)
    except UserError as error:
        raise error_at(scalar.position, path, str(error)) from None
    if processes[0].form not in forms.WITH_TOUCHES and touch == TOUCH_RECORDED:
        message = f"{one_line(name)} records no touches; add `touch: all`, which bounds VmPTE from above"
        raise error_at(scalar.position, path, message)
    return processes


def _read_exclude_rules(document: GridDocument) -> tuple[ExcludeRule, ...]:
    rules = document.file.exclude
    if len(rules) > MAX_RULES:
        raise document.error(("exclude",), f"{len(rules):,} rules; at most {MAX_RULES:,}")
    return tuple(_read_exclude_rule(document, ("exclude", i), rule) for i, rule in enumerate(rules))


def _read_exclude_rule(document: GridDocument, path: NodePath, rule: dict[str, Scalar | list[Scalar]]) -> ExcludeRule:
    words: dict[str, str | None] = {}
    for key in EXCLUDE_WORDS:
        scalar = rule.get(key)
        if isinstance(scalar, list):
            raise document.error((*path, key), "must be a single value")
        words[key] = scalar.text.strip() if scalar else None
        if words[key] == "":
            raise document.error((*path, key), "is empty")
    match: dict[str, tuple[Value, ...]] = {}
    for name, given in rule.items():
        if name in FIELD:
            if given == []:
                raise document.error((*path, name), "an empty list; give one value or more, or leave the key out")
            scalars = given if isinstance(given, list) else [given]
            values = read_values(name, scalars, (*path, name), single=not isinstance(given, list))
            match[name] = tuple(values.tolist())
    where = words["where"]
    if not match and where is None:
        raise document.error(path, "a rule needs a field to match or a `where`; this one would drop all points")
    parts = [f"{name}={','.join(format_value(FIELD[name], v) for v in values)}" for name, values in match.items()]
    label = one_line(" ".join([*parts, where] if where else parts), 80)
    return ExcludeRule(label, words["because"], match or None, where)


def _read_derive(document: GridDocument) -> dict[str, str]:
    """SQL expressions by the name of their column."""
    derive = document.file.derive
    if len(derive) > MAX_DERIVED:
        raise document.error(("derive",), f"{len(derive):,} columns; at most {MAX_DERIVED}")
    for name, scalar in derive.items():
        position = document.key_position("derive", name)
        if not DERIVED_NAME.fullmatch(name):
            rule = "a letter a-z, then up to 62 of a-z, 0-9 and _"
            raise error_at(position, ("derive",), f"{one_line(name)!r} is not a column name: {rule}")
        if name in FIELD or name in trace_points.COLUMNS:
            raise error_at(position, ("derive",), f"{name!r} is a scenario field; choose another name")
        if not scalar.text.strip():
            raise error_at(scalar.position, ("derive", name), "is empty; write a SQL expression")
    return {name: scalar.text.strip() for name, scalar in derive.items()}


def _scalars(given: Scalar | list[Scalar], path: NodePath) -> list[tuple[NodePath, Scalar]]:
    """(path, scalar) of a list at `path`, or of the single value there."""
    return [((*path, i), scalar) for i, scalar in enumerate(given)] if isinstance(given, list) else [(path, given)]
