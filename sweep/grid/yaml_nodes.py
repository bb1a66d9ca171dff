"""YAML text -> a tree of nodes that know their line and column. The only room that knows PyYAML.

Scalars stay text, with a flag for quotes: what a scalar means is for the field to say, never for YAML 1.1. A plain
scalar that YAML 1.1 would have turned into something else than the text or a plain decimal (no, 1:30, 017, 1e3, ~) is
refused with what it would have become and what to write; in quotes it is text. Anchors, aliases, tags, merge keys,
directives, second documents, duplicate keys and control characters are refused too: a grid has no use for them.

Reading is one loop over PyYAML's events, so depth costs no stack.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from sweep.common.errors import UserError, one_line
from sweep.common.units import plain_number

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 200_000

# Controls, line separators that move line numbers, marks that reorder what is shown, and what UTF-8 cannot hold.
_BAD_CHARACTER = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_NEARLY_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+|[-+]?0[0-9]+|0o[0-7]+")
_RESOLVER = yaml.SafeLoader("")
_BOOLEANS_PYYAML_LEAVES_OUT = ("y", "Y", "n", "N")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the input. Line and column count from 1; line 0 means that `source` says it all."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Scalar:
    text: str
    quoted: bool
    spot: Position


@dataclass(frozen=True, slots=True)
class Sequence:
    items: list["Node"]
    spot: Position


@dataclass(frozen=True, slots=True)
class Mapping:
    entries: dict[str, "Node"]
    keys: dict[str, Position]
    spot: Position


Node = Scalar | Sequence | Mapping


class _Mark(Protocol):
    line: int
    column: int


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet; `key` is the mapping key that waits for its value."""

    node: Sequence | Mapping
    key: Scalar | None = None


def parse_yaml(text: str, source: str, inline: bool = False) -> Node:
    """The tree of one document. `inline` text is short and its spots say only `source`."""
    return _Reader(source, inline).read(text)


@dataclass(slots=True)
class _Reader:
    source: str
    inline: bool
    stack: list[_Open] = field(default_factory=list)
    root: Node | None = None
    nodes: int = 0

    def read(self, text: str) -> Node:
        self._check_text(text)
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                self._event(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._error(mark, one_line(error.problem or error.context or "not YAML", 120)) from None
        except (yaml.YAMLError, ValueError) as error:  # ValueError: \U00110000 in double quotes
            raise UserError(f"{self.source}: not YAML: {one_line(str(error), 120)}") from None
        if self.root is None:
            raise UserError(f"{self.source}: is empty")
        return self.root

    def _check_text(self, text: str) -> None:
        if len(text) > MAX_BYTES:
            raise UserError(f"{self.source}: longer than {MAX_BYTES} bytes")
        if bad := _BAD_CHARACTER.search(text):
            line = len(re.findall("\r\n|\r|\n", text[: bad.start()])) + 1
            column = bad.start() - max(text.rfind("\n", 0, bad.start()), text.rfind("\r", 0, bad.start()))
            spot = Position(self.source) if self.inline else Position(self.source, line, column)
            raise UserError(f"{spot}: {_character(bad.group())}")

    def _event(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                if event.version or event.tags:
                    raise self._error(event.start_mark, "a % directive is not allowed")
                if self.root is not None:
                    raise self._error(event.start_mark, "a second document; a file holds one")
            case yaml.AliasEvent():
                raise self._error(
                    event.start_mark, f"alias *{one_line(str(event.anchor))} is not allowed; write the value out"
                )
            case yaml.ScalarEvent():
                self._node(event)
                self._scalar(event)
            case yaml.SequenceStartEvent():
                self._node(event)
                self._push(Sequence([], self._spot(event.start_mark)), event.start_mark)
            case yaml.MappingStartEvent():
                self._node(event)
                self._push(Mapping({}, {}, self._spot(event.start_mark)), event.start_mark)
            case yaml.CollectionEndEvent():
                self._close()

    def _node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(event.start_mark, f"more than {MAX_NODES} values")
        if event.anchor is not None:
            raise self._error(event.start_mark, f"anchor &{one_line(event.anchor)} is not allowed; write the value out")
        if event.tag is not None:
            raise self._error(
                event.start_mark, f"tag {one_line(event.tag)} is not allowed; the field says what a value is"
            )

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        quoted = event.style is not None
        scalar = Scalar(event.value, quoted, self._spot(event.start_mark))
        if bad := _BAD_CHARACTER.search(event.value):
            raise self._error(event.start_mark, _character(bad.group()))
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.node, Mapping) and top.key is None:
            self._key(top, top.node, scalar, event)
            return
        if not quoted and (why := yaml_11_trap(event.value)):
            raise self._error(event.start_mark, f"{why}{self._missing_space(event.value)}")
        self._add(scalar)

    def _key(self, top: _Open, mapping: Mapping, key: Scalar, event: yaml.ScalarEvent) -> None:
        if key.text == "<<" and not key.quoted:
            raise self._error(event.start_mark, "merge key << is not allowed; write the values out")
        if not key.quoted and (why := yaml_11_trap(key.text)):
            raise self._error(event.start_mark, f"key {why}")
        if key.text in mapping.keys:
            first = mapping.keys[key.text]
            place = f", first at line {first.line}" if first.line else ""
            raise self._error(event.start_mark, f"key {one_line(key.text)!r} is given twice{place}")
        mapping.keys[key.text] = key.spot
        top.key = key

    def _push(self, node: Sequence | Mapping, mark: _Mark | None) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.node, Mapping) and top.key is None:
            raise self._error(mark, "a key must be one word, not a list or mapping")
        if len(self.stack) >= MAX_DEPTH:
            raise self._error(mark, f"nested deeper than {MAX_DEPTH}")
        self.stack.append(_Open(node))

    def _close(self) -> None:
        self._add(self.stack.pop().node)

    def _add(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        else:
            assert top.key is not None
            top.node.entries[top.key.text] = node
            top.key = None

    def _missing_space(self, value: str) -> str:
        """`{virt:64GiB}` is the key `virt:64GiB` with no value: a slip worth a word."""
        key = self.stack[-1].key if self.stack else None
        if value == "" and key is not None and ":" in key.text:
            return f" (a colon needs a space after it: {one_line(key.text.replace(':', ': ', 1))})"
        return ""

    def _spot(self, mark: _Mark | None) -> Position:
        if self.inline or mark is None:
            return Position(self.source)
        return Position(self.source, mark.line + 1, mark.column + 1)

    def _error(self, mark: _Mark | None, message: str) -> UserError:
        path = format_path(self._path())
        return UserError(f"{self._spot(mark)}: {path + ': ' if path else ''}{message}")

    def _path(self) -> Iterator[str | int]:
        for level in self.stack:
            if isinstance(level.node, Sequence):
                yield len(level.node.items)
            elif level.key is not None:
                yield level.key.text


def format_path(path: Iterator[str | int] | tuple[str | int, ...]) -> str:
    """`axes.zap[2]` from its parts; list places count from 0."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{one_line(part)}" if text else one_line(part)
    return text


def error_at(spot: Position, path: tuple[str | int, ...], message: str) -> UserError:
    """The error at a node: `grids/a.yaml:7:3: axes.zap[1]: message`, or `-S axes.zap: [1]: message`."""
    where = format_path(path)
    key = spot.source.removeprefix("-S ")
    if not spot.line:
        where = "" if f"{key}.".startswith(f"{where}.") else where.removeprefix(key).removeprefix(".")
    return UserError(f"{spot}: {where + ': ' if where else ''}{message}")


def find_node(root: Node, path: tuple[str | int, ...]) -> tuple[Node, tuple[str | int, ...]]:
    """The node at `path`, or the deepest one on the way, and the part of the path that leads to it."""
    node = root
    for depth, part in enumerate(path):
        if isinstance(node, Mapping) and part in node.entries:
            node = node.entries[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return node, path[:depth]
    return node, path


def yaml_11_trap(text: str) -> str:
    """Why a plain scalar may not stand without quotes: what YAML 1.1 makes of it and what to write. `` if it may."""
    if _PLAIN_NUMBER.fullmatch(text):
        return ""
    kind = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).rpartition(":")[2]  # type: ignore[no-untyped-call]
    shown = one_line(text)
    if kind == "null":
        return f"{shown}: YAML makes it null; write a value" if text else "no value (YAML makes it null); write one"
    if kind == "bool" or text in _BOOLEANS_PYYAML_LEAVES_OUT:
        truth = text.lower() in ("y", "yes", "true", "on")
        return f"{shown}: YAML makes it {str(truth).lower()}; write '{shown}' in quotes if the word is meant"
    if kind in ("int", "float"):
        return _number_trap(text, shown, kind)
    if _NEARLY_NUMBER.fullmatch(text):
        plain = plain_number(text.replace("o", ""))
        return f"{shown}: YAML 1.1 makes it text, not a number; write {plain or 'a plain number'}"
    if kind == "timestamp":
        return f"{shown}: YAML makes it a date; write '{shown}' in quotes"
    if kind in ("merge", "value"):
        return f"{shown}: has a meaning of its own in YAML; write '{shown}' in quotes"
    return ""


def _number_trap(text: str, shown: str, kind: str) -> str:
    node = yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text)
    try:
        value = str(_RESOLVER.construct_object(node)) if len(text) <= 40 else ""
    except (ValueError, OverflowError):  # 0x_ and the like
        value = ""
    if value in ("inf", "-inf", "nan"):
        return f"{shown}: YAML makes it {value}; no field takes it"
    meant = plain_number(value)
    written = plain_number(text)
    ways = [number for number in dict.fromkeys((meant, written)) if number] or ["a plain number"]
    if ":" in text:
        ways.append(f"'{shown}' in quotes if text is meant")
    return f"{shown}: YAML 1.1 makes it {value or 'a number'}; write {', or '.join(ways)}"


def _character(character: str) -> str:
    return f"character U+{ord(character):04X} is not allowed"
