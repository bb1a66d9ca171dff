"""The edge: a grid file's tree -> checked structure (pydantic), with errors that say line, column and the right key.

pydantic judges only the shape: which keys, which of them are lists, mappings or single values. Leaves stay
sweep.grid.yaml_nodes.Scalar, so that whoever reads a value can still say where it stands. No value is judged here.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, InstanceOf, Tag, ValidationError
from pydantic_core import PydanticCustomError

from engine.model.scenario import FIELD
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.grid import yaml_nodes
from sweep.grid.yaml_nodes import Mapping, Node, Position, Scalar, Sequence, error_at

SCHEMA = "sweep/1"
EXCLUDE_WORDS = ("where", "because")
VALUE_RULES = {"pow2": ("from", "to"), "range": ("from", "to", "step"), "log": ("from", "to", "points")}
NOT_PATH = ("<list>", "<map>", "<one>", "[key]")  # what pydantic adds to a loc: our tags, and its word for a key

Leaf = InstanceOf[Scalar]


class StrictModel(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Pow2Rule(StrictModel):
    from_: Leaf = Field(alias="from")
    to: Leaf


class RangeRule(Pow2Rule):
    step: Leaf


class LogRule(Pow2Rule):
    points: Leaf


class ValueRule(StrictModel):
    """Values by rule; exactly one of the keys."""

    pow2: Pow2Rule | None = None
    range: RangeRule | None = None
    log: LogRule | None = None


def _kind(value: object) -> str:
    return "<list>" if isinstance(value, list) else "<map>" if isinstance(value, dict) else "<one>"


def _kind_not_map(value: object) -> str:
    return "<list>" if isinstance(value, list) else "<one>"


OneOrMany = Annotated[
    Annotated[list[Leaf], Tag("<list>")] | Annotated[Leaf, Tag("<one>")],
    Discriminator(_kind_not_map),
]
AxisValues = Annotated[
    Annotated[list[Leaf], Tag("<list>")] | Annotated[ValueRule, Tag("<map>")] | Annotated[Leaf, Tag("<one>")],
    Discriminator(_kind),
]


def _field_name(key: str) -> str:
    if key not in FIELD:
        raise PydanticCustomError("unknown_field", "not a scenario field")
    return key


def _exclude_name(key: str) -> str:
    return key if key in EXCLUDE_WORDS else _field_name(key)


FieldName = Annotated[str, AfterValidator(_field_name)]
ExcludeName = Annotated[str, AfterValidator(_exclude_name)]


class Workload(StrictModel):
    """Points that are no scenarios."""

    trace: OneOrMany
    touch: Leaf | None = None


class GridFile(StrictModel):
    """A grid file's shape."""

    schema_: Leaf = Field(alias="schema")
    name: Leaf
    about: Leaf | None = None
    policies: OneOrMany | None = None
    workload: Workload | None = None
    fixed: dict[FieldName, Leaf] = {}
    axes: dict[FieldName, AxisValues] = {}
    zip: dict[str, dict[FieldName, AxisValues]] = {}
    include: list[dict[FieldName, Leaf]] = []
    exclude: list[dict[ExcludeName, OneOrMany]] = []
    derive: dict[str, Leaf] = {}
    repeats: Leaf | None = None
    seed: Leaf | None = None


TOP_KEYS = tuple(field.alias or name for name, field in GridFile.model_fields.items())
UNKNOWN = ("extra_forbidden", "unknown_field")


def read_grid_file(text: str, source: str, overrides: Iterable[str] = ()) -> tuple[GridFile, Mapping]:
    """The checked structure, and the tree with the overrides put in. Raises UserError."""
    root = yaml_nodes.parse_yaml(text, source)
    if not isinstance(root, Mapping):
        raise error_at(root.spot, (), f"a grid is a mapping that starts with `schema: {SCHEMA}`")
    for override in overrides:
        root = _override(root, override)
    try:
        return GridFile.model_validate(_plain(root)), root
    except ValidationError as error:
        raise _translate(error, root) from None


def _override(root: Mapping, override: str) -> Mapping:
    """`-S axes.zap=[64KiB,2MiB]` into the tree."""
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    source, first = f"-S {one_line(key)}", path[0]
    words = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", part) for part in path)
    if not equals or not words or len(path) > yaml_nodes.MAX_DEPTH:
        raise UserError(f"{source}: write key=value, the key dotted, such as fixed.virt=4GiB or axes.zap=[64KiB,2MiB]")
    if first in FIELD and first not in TOP_KEYS:
        raise UserError(f"{source}: unknown key {first!r}; did you mean 'fixed.{first}' or 'axes.{first}'?")
    if first not in TOP_KEYS:
        raise UserError(f"{source}: {unknown_name('key', first, TOP_KEYS)}")
    return _put(root, path, yaml_nodes.parse_yaml(text, source, inline=True), Position(source))


def _put(root: Node, path: tuple[str, ...], value: Node, spot: Position) -> Mapping:
    """The tree with `value` at `path`. Mappings on the way are made; what is in the way is replaced."""
    old = root if isinstance(root, Mapping) else Mapping({}, {}, spot)
    child = old.entries.get(path[0], Mapping({}, {}, spot))
    new = _put(child, path[1:], value, spot) if path[1:] else value
    key = old.keys.get(path[0], spot) if path[1:] else spot
    return Mapping(old.entries | {path[0]: new}, old.keys | {path[0]: key}, old.spot)


def _plain(node: Node) -> Any:
    """Dicts, lists and Scalars, for pydantic (yamltree limits the depth)."""
    match node:
        case Mapping():
            return {key: _plain(child) for key, child in node.entries.items()}
        case Sequence():
            return [_plain(child) for child in node.items]
    return node


def _translate(error: ValidationError, root: Mapping) -> UserError:
    """The first error in the file: unknown keys before what is missing, as a slip makes both."""
    found = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        path = tuple(part for part in one["loc"] if part not in NOT_PATH)
        spot, message, rank = _explain(one["type"], path, root)
        within = path[:-1] if one["type"] in (*UNKNOWN, "missing") else path
        found.append((rank, spot.line, spot.column, str(error_at(spot, within, message))))
    return UserError(min(found)[-1])


def _explain(kind: str, path: tuple[str | int, ...], root: Mapping) -> tuple[Position, str, int]:
    """(place, message, rank) of one pydantic error."""
    node, _ = yaml_nodes.find_node(root, path)
    if kind in UNKNOWN:
        parent, _ = yaml_nodes.find_node(root, path[:-1])
        spot = parent.keys[str(path[-1])] if isinstance(parent, Mapping) else parent.spot
        return spot, f"{unknown_name('key', str(path[-1]), known_keys(path[:-1]))}{_aside(path)}", 0
    if kind == "missing":
        return node.spot, f"key {path[-1]!r} is required", 2
    if kind in ("model_type", "dict_type"):
        return node.spot, "must be a mapping (key: value)", 1
    if kind == "list_type":
        return node.spot, "must be a list ([a, b])", 1
    aside = "; lists and ranges go under axes" if path[0] in ("fixed", "include") else ""
    return node.spot, f"must be a single value{aside}", 1


def _aside(path: tuple[str | int, ...]) -> str:
    if path[-1] in ("policy", "policies") and len(path) > 1:
        return " (every point is judged by all policies; choose them with `policies:` at the top)"
    return ""


def known_keys(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """What may stand in the mapping at `path`."""
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
