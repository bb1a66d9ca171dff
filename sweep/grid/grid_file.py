"""The shape of a grid file, checked with pydantic: its keys, and which of them are lists, mappings or values.

Leaves stay `Scalar` nodes, so the code that reads a value knows its position; no value is judged here. Errors name
line, column and the nearest right key.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, InstanceOf, Tag, ValidationError
from pydantic_core import PydanticCustomError

from engine.model.scenario import FIELD
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.grid import yaml_reader
from sweep.grid.yaml_nodes import GridError, Mapping, Node, NodePath, Position, Scalar, Sequence, error_at, find_node

SCHEMA = "sweep/1"
EXCLUDE_WORDS = ("where", "because")
VALUE_RULES = {"pow2": ("from", "to"), "range": ("from", "to", "step"), "log": ("from", "to", "points")}
_TAGS = ("<list>", "<map>", "<one>")
_NOT_IN_PATH = (*_TAGS, "[key]")  # what pydantic adds to a location: the tags below, and its word for a key

Leaf = InstanceOf[Scalar]


class StrictModel(BaseModel):
    """A mapping that refuses unknown keys with pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Pow2Rule(StrictModel):
    from_: Leaf = Field(alias="from")
    to: Leaf


class RangeRule(Pow2Rule):
    step: Leaf


class LogRule(Pow2Rule):
    points: Leaf


class ValueRule(StrictModel):
    """Values by a rule. The reader of the values checks that exactly one key is given."""

    pow2: Pow2Rule | None = None
    range: RangeRule | None = None
    log: LogRule | None = None


def _tag(value: object) -> str:
    return "<list>" if isinstance(value, list) else "<map>" if isinstance(value, dict) else "<one>"


def _tag_without_map(value: object) -> str:
    return "<list>" if isinstance(value, list) else "<one>"


OneOrMany = Annotated[
    Annotated[list[Leaf], Tag("<list>")] | Annotated[Leaf, Tag("<one>")],
    Discriminator(_tag_without_map),
]
AxisEntry = Annotated[
    Annotated[list[Leaf], Tag("<list>")] | Annotated[ValueRule, Tag("<map>")] | Annotated[Leaf, Tag("<one>")],
    Discriminator(_tag),
]


def _check_field_name(key: str) -> str:
    if key not in FIELD:
        raise PydanticCustomError("unknown_field", "not a scenario field")
    return key


def _check_exclude_key(key: str) -> str:
    return key if key in EXCLUDE_WORDS else _check_field_name(key)


FieldName = Annotated[str, AfterValidator(_check_field_name)]
ExcludeKey = Annotated[str, AfterValidator(_check_exclude_key)]


class Workload(StrictModel):
    """Traces as points."""

    trace: OneOrMany
    touch: Leaf | None = None
    thp: Leaf | None = None


class GridFile(StrictModel):
    """The sections of a grid file. sweep.grid.loader says what they mean."""

    schema_: Leaf = Field(alias="schema")
    name: Leaf
    about: Leaf | None = None
    policies: Any = None  #: sweep.grid.rules reads it, and checks its shape
    kernels: OneOrMany | None = None
    workload: Workload | None = None
    fixed: dict[FieldName, Leaf] = {}
    axes: dict[FieldName, AxisEntry] = {}
    zip: dict[str, dict[FieldName, AxisEntry]] = {}
    include: list[dict[FieldName, Leaf]] = []
    exclude: list[dict[ExcludeKey, OneOrMany]] = []
    derive: dict[str, Leaf] = {}
    repeats: Leaf | None = None
    seed: Leaf | None = None


TOP_KEYS = tuple(field.alias or name for name, field in GridFile.model_fields.items())
_UNKNOWN_KEY = ("extra_forbidden", "unknown_field")  # types of pydantic's errors


@dataclass(frozen=True, slots=True)
class GridDocument:
    """A grid file of the right shape, and the nodes that it was made from."""

    file: GridFile
    root: Mapping
    source: str

    def position(self, *path: str | int) -> Position:
        """Where the node at `path` stands."""
        return find_node(self.root, path)[0].position

    def key_position(self, *path: str) -> Position:
        """Where the last key of `path` stands; it must exist."""
        parent, _ = find_node(self.root, path[:-1])
        assert isinstance(parent, Mapping)
        return parent.key_positions[path[-1]]

    def error(self, path: NodePath, message: str) -> UserError:
        """A UserError about the node at `path`."""
        return error_at(self.position(*path), path, message)


def read_tree(text: str, source: str, overrides: Iterable[str] = ()) -> Mapping:
    """The nodes of a grid's text, with `-S key=value` overrides put in. Raises UserError."""
    root = yaml_reader.parse_yaml(text, source)
    if not isinstance(root, Mapping):
        raise error_at(root.position, (), f"a grid is a mapping that starts with `schema: {SCHEMA}`")
    for override in overrides:
        root = _apply_override(root, override)
    return root


def check_shape(root: Mapping, source: str) -> GridDocument:
    """The grid file that these nodes are. Raises GridError for the first one that has no place in it."""
    try:
        return GridDocument(GridFile.model_validate(_to_plain(root)), root, source)
    except ValidationError as error:
        raise _first_error(error, root) from None


def _apply_override(root: Mapping, override: str) -> Mapping:
    """The tree with an override such as `axes.zap=[64KiB,2MiB]`. Raises UserError."""
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    source, first = f"-S {one_line(key)}", path[0]
    words = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", part) for part in path)
    if not equals or not words or len(path) > yaml_reader.MAX_DEPTH:
        raise UserError(f"{source}: write key=value, the key dotted, such as fixed.virt=4GiB or axes.zap=[64KiB,2MiB]")
    if first in FIELD and first not in TOP_KEYS:
        raise UserError(f"{source}: unknown key {first!r}; did you mean 'fixed.{first}' or 'axes.{first}'?")
    if first not in TOP_KEYS:
        raise UserError(f"{source}: {unknown_name('key', first, TOP_KEYS)}")
    return _put(root, path, yaml_reader.parse_yaml(text, source, inline=True), Position(source))


def _put(root: Node, path: tuple[str, ...], value: Node, position: Position) -> Mapping:
    """A copy of the tree with `value` at `path`. Missing mappings on the way are made, other nodes replaced."""
    old = root if isinstance(root, Mapping) else Mapping({}, {}, position)
    child = old.entries.get(path[0], Mapping({}, {}, position))
    new = _put(child, path[1:], value, position) if path[1:] else value
    key_position = old.key_positions.get(path[0], position) if path[1:] else position
    return Mapping(old.entries | {path[0]: new}, old.key_positions | {path[0]: key_position}, old.position)


def _to_plain(node: Node) -> Any:
    """Dicts, lists and Scalars, for pydantic. Recursive: yaml_reader limits the depth."""
    match node:
        case Mapping():
            return {key: _to_plain(child) for key, child in node.entries.items()}
        case Sequence():
            return [_to_plain(child) for child in node.items]
    return node


def _first_error(errors: ValidationError, root: Mapping) -> GridError:
    """The error to report: unknown keys before missing ones, as one slip makes both, then the first in the file."""
    ranked = []
    for error in errors.errors(include_url=False, include_input=False, include_context=False):
        path = tuple(part for part in error["loc"] if part not in _NOT_IN_PATH)
        position, message, rank = _explain(error["type"], path, root)
        shown_path = path[:-1] if error["type"] in (*_UNKNOWN_KEY, "missing") else path
        ranked.append((rank, position.line, position.column, error_at(position, shown_path, message, path)))
    return min(ranked, key=lambda error: (*error[:3], str(error[3])))[-1]


def _explain(error_type: str, path: NodePath, root: Mapping) -> tuple[Position, str, int]:
    """(position, message, rank) of one pydantic error; the lowest rank is reported."""
    node, _ = find_node(root, path)
    if error_type in _UNKNOWN_KEY:
        parent, _ = find_node(root, path[:-1])
        position = parent.key_positions[str(path[-1])] if isinstance(parent, Mapping) else parent.position
        return position, f"{unknown_name('key', str(path[-1]), known_keys(path[:-1]))}{_policies_hint(path)}", 0
    if error_type == "missing":
        return node.position, f"key {path[-1]!r} is required", 2
    if error_type in ("model_type", "dict_type"):
        return node.position, "must be a mapping (key: value)", 1
    if error_type == "list_type":
        return node.position, "must be a list ([a, b])", 1
    hint = "; lists and ranges go under axes" if path[0] in ("fixed", "include") else ""
    return node.position, f"must be a single value{hint}", 1


def _policies_hint(path: NodePath) -> str:
    if path[-1] in ("policy", "policies") and len(path) > 1:
        return " (every point is judged by all policies; choose them with `policies:` at the top)"
    return ""


def known_keys(path: NodePath) -> tuple[str, ...]:
    """The keys that the mapping at `path` may have."""
    if not path:
        return TOP_KEYS
    if path[0] == "workload":
        return tuple(Workload.model_fields)
    if path[0] == "exclude":
        return (*FIELD, *EXCLUDE_WORDS)
    below_field = len(path) - {"axes": 2, "zip": 3}.get(str(path[0]), len(path) + 1)
    if below_field == 0:
        return tuple(VALUE_RULES)
    if below_field == 1:
        return VALUE_RULES[str(path[-1])]
    return tuple(FIELD)
