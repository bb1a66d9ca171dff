"""The nodes of a YAML document, each with its position, and paths through them for error messages.

A path is a tuple of mapping keys and list indexes from 0, such as `("axes", "zap", 2)`, written `axes.zap[2]`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sweep.common.errors import UserError, one_line

NodePath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the input. Line and column count from 1; line 0 means that `source` names the place by itself."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value, as text: its field decides what it means."""

    text: str
    quoted: bool
    position: Position


@dataclass(frozen=True, slots=True)
class Sequence:
    items: list["Node"]
    position: Position


@dataclass(frozen=True, slots=True)
class Mapping:
    """`key_positions` has the keys of `entries`."""

    entries: dict[str, "Node"]
    key_positions: dict[str, Position]
    position: Position


Node = Scalar | Sequence | Mapping


def format_path(path: Iterable[str | int]) -> str:
    """`axes.zap[2]` for ("axes", "zap", 2)."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{one_line(part)}" if text else one_line(part)
    return text


class GridError(UserError):
    """Bad input at a node of a grid. `node`: its path, which may be longer than the one that the message names."""

    def __init__(self, message: str, node: NodePath, position: Position) -> None:
        super().__init__(message)
        self.node, self.position = node, position


def error_at(position: Position, path: NodePath, message: str, node: NodePath | None = None) -> GridError:
    """A UserError about a node: `grids/a.yaml:7:3: axes.zap[1]: message`, or `-S axes.zap: [1]: message`.

    `node`: the path of what is wrong, where the message names another one.
    """
    where = format_path(path)
    if not position.line:  # an override: its source already names the key
        key = position.source.removeprefix("-S ")
        where = "" if f"{key}.".startswith(f"{where}.") else where.removeprefix(key).removeprefix(".")
    return GridError(f"{position}: {where + ': ' if where else ''}{message}", path if node is None else node, position)


def find_node(root: Node, path: NodePath) -> tuple[Node, NodePath]:
    """(node, path to it): the node at `path`, or the deepest one that exists on the way there."""
    node = root
    for depth, part in enumerate(path):
        if isinstance(node, Mapping) and part in node.entries:
            node = node.entries[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return node, path[:depth]
    return node, path


def without(root: Mapping, path: NodePath) -> Mapping:
    """A copy of the tree without the key at `path`, which must exist; of a list item its whole list goes."""
    while isinstance(path[-1], int):
        path = path[:-1]
    first, rest = path[0], path[1:]
    entries = dict(root.entries)
    if not rest:
        del entries[str(first)]
    elif isinstance(child := entries[str(first)], Mapping):
        entries[str(first)] = without(child, rest)
    elif isinstance(child, Sequence) and isinstance(rest[0], int) and isinstance(item := child.items[rest[0]], Mapping):
        items = [*child.items[: rest[0]], without(item, rest[1:]), *child.items[rest[0] + 1 :]]
        entries[str(first)] = Sequence(items, child.position)
    return Mapping(entries, {key: root.key_positions[key] for key in entries}, root.position)
