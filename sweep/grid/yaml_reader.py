"""Parse YAML text into nodes with positions. The only module that imports PyYAML.

Scalars stay text, because the field decides what a value means. A plain scalar that YAML 1.1 turns into something else
than its text or a plain decimal (no, 1:30, 017, 1e3, ~) is refused: the message says what YAML would make of it and
what to write. In quotes it is text. Also refused, as no grid needs them: anchors, aliases, tags, merge keys,
directives, a second document, duplicate keys, control characters.

The parser is one loop over PyYAML's events, so deep nesting needs no deep stack and an alias is never expanded.

ruamel.yaml 0.19 was tried in place of PyYAML and brings nothing here. Positions come from the same events. Its loaders
build trees recursively before a depth limit can apply, and resolve scalars, which loses the text. Reading events only,
this module stays the same, and 1 MiB takes 1.2 to 2 times as long.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from sweep.common.errors import UserError, one_line
from sweep.common.units import MAX_NUMBER_CHARACTERS, plain_number
from sweep.grid.yaml_nodes import Mapping, Node, Position, Scalar, Sequence, format_path

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 200_000

_FORBIDDEN_CHARACTER = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""Control characters, line separators that would shift line numbers, direction marks, and what UTF-8 cannot hold."""
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_NUMBER_OF_OTHER_PARSERS = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+|[-+]?0[0-9]+|0o[0-7]+")
"""What YAML 1.2 or a reader takes for a number and YAML 1.1 does not. Linear: no two quantifiers can share a digit."""
_RESOLVER = yaml.SafeLoader("")
_BOOLEANS_MISSING_IN_PYYAML = ("y", "Y", "n", "N")


class _Mark(Protocol):
    line: int
    column: int


@dataclass(slots=True)
class _OpenCollection:
    """A collection whose end has not been read. `key`: the mapping key that waits for its value."""

    node: Sequence | Mapping
    key: Scalar | None = None


def parse_yaml(text: str, source: str, inline: bool = False) -> Node:
    """The root node of one document. Raises UserError with the position.

    `source` names the text in positions. `inline`: the text is one value of the command line, and positions have no
    line and column.
    """
    return _Parser(source, inline).parse(text)


@dataclass(slots=True)
class _Parser:
    source: str
    inline: bool
    stack: list[_OpenCollection] = field(default_factory=list)
    root: Node | None = None
    nodes: int = 0

    def parse(self, text: str) -> Node:
        self._check_text(text)
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                self._handle(event)
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
        if bad := _FORBIDDEN_CHARACTER.search(text):
            line = len(re.findall("\r\n|\r|\n", text[: bad.start()])) + 1
            column = bad.start() - max(text.rfind("\n", 0, bad.start()), text.rfind("\r", 0, bad.start()))
            position = Position(self.source) if self.inline else Position(self.source, line, column)
            raise UserError(f"{position}: {_forbidden(bad.group())}")

    def _handle(self, event: yaml.Event) -> None:
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
                self._check_node(event)
                self._handle_scalar(event)
            case yaml.SequenceStartEvent():
                self._check_node(event)
                self._open(Sequence([], self._position(event.start_mark)), event.start_mark)
            case yaml.MappingStartEvent():
                self._check_node(event)
                self._open(Mapping({}, {}, self._position(event.start_mark)), event.start_mark)
            case yaml.CollectionEndEvent():
                self._add(self.stack.pop().node)

    def _check_node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(event.start_mark, f"more than {MAX_NODES} values")
        if event.anchor is not None:
            raise self._error(event.start_mark, f"anchor &{one_line(event.anchor)} is not allowed; write the value out")
        if event.tag is not None:
            raise self._error(
                event.start_mark, f"tag {one_line(event.tag)} is not allowed; the field says what a value is"
            )

    def _handle_scalar(self, event: yaml.ScalarEvent) -> None:
        scalar = Scalar(event.value, event.style is not None, self._position(event.start_mark))
        if bad := _FORBIDDEN_CHARACTER.search(event.value):  # by an escape such as \e in double quotes
            raise self._error(event.start_mark, _forbidden(bad.group()))
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.node, Mapping) and top.key is None:
            self._handle_key(top, top.node, scalar, event)
            return
        if not scalar.quoted and (why := yaml_11_trap(event.value)):
            raise self._error(event.start_mark, f"{why}{self._missing_space_hint(event.value)}")
        self._add(scalar)

    def _handle_key(self, top: _OpenCollection, mapping: Mapping, key: Scalar, event: yaml.ScalarEvent) -> None:
        if key.text == "<<" and not key.quoted:
            raise self._error(event.start_mark, "merge key << is not allowed; write the values out")
        if not key.quoted and (why := yaml_11_trap(key.text)):
            raise self._error(event.start_mark, f"key {why}")
        if key.text in mapping.key_positions:
            first = mapping.key_positions[key.text]
            place = f", first at line {first.line}" if first.line else ""
            raise self._error(event.start_mark, f"key {one_line(key.text)!r} is given twice{place}")
        mapping.key_positions[key.text] = key.position
        top.key = key

    def _open(self, node: Sequence | Mapping, mark: _Mark | None) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.node, Mapping) and top.key is None:
            raise self._error(mark, "a key must be one word, not a list or mapping")
        if len(self.stack) >= MAX_DEPTH:
            raise self._error(mark, f"nested deeper than {MAX_DEPTH}")
        self.stack.append(_OpenCollection(node))

    def _add(self, node: Node) -> None:
        """Put a finished node into the innermost open collection."""
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

    def _missing_space_hint(self, value: str) -> str:
        """`{virt:64GiB}` is the key `virt:64GiB` without a value: say which space is missing."""
        key = self.stack[-1].key if self.stack else None
        if value == "" and key is not None and ":" in key.text:
            return f" (a colon needs a space after it: {one_line(key.text.replace(':', ': ', 1))})"
        return ""

    def _position(self, mark: _Mark | None) -> Position:
        if self.inline or mark is None:
            return Position(self.source)
        return Position(self.source, mark.line + 1, mark.column + 1)

    def _error(self, mark: _Mark | None, message: str) -> UserError:
        path = format_path(self._current_path())
        return UserError(f"{self._position(mark)}: {path + ': ' if path else ''}{message}")

    def _current_path(self) -> Iterator[str | int]:
        for level in self.stack:
            if isinstance(level.node, Sequence):
                yield len(level.node.items)
            elif level.key is not None:
                yield level.key.text


def yaml_11_trap(text: str) -> str:
    """The reason to refuse a plain scalar: what YAML 1.1 makes of it, and what to write. Empty if it may stand."""
    if _PLAIN_NUMBER.fullmatch(text):
        return ""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    kind = tag.rpartition(":")[2]
    shown = one_line(text)
    if kind == "null":
        return f"{shown}: YAML makes it null; write a value" if text else "no value (YAML makes it null); write one"
    if kind == "bool" or text in _BOOLEANS_MISSING_IN_PYYAML:
        truth = text.lower() in ("y", "yes", "true", "on")
        return f"{shown}: YAML makes it {str(truth).lower()}; write '{shown}' in quotes if the word is meant"
    if kind in ("int", "float"):
        return _number_trap(text, shown, kind)
    if _NUMBER_OF_OTHER_PARSERS.fullmatch(text):
        plain = plain_number(text.replace("o", ""))
        return f"{shown}: YAML 1.1 makes it text, not a number; write {plain or 'a plain number'}"
    if kind == "timestamp":
        return f"{shown}: YAML makes it a date; write '{shown}' in quotes"
    if kind in ("merge", "value"):
        return f"{shown}: has a meaning of its own in YAML; write '{shown}' in quotes"
    return ""


def _number_trap(text: str, shown: str, kind: str) -> str:
    """Return the reason to refuse a plain scalar that YAML 1.1 takes for a number, and what to write.

    kind: int or float, as YAML 1.1 resolves the text
    """
    node = yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text)
    try:
        value = str(_RESOLVER.construct_object(node)) if len(text) <= MAX_NUMBER_CHARACTERS else ""
    except (ValueError, OverflowError):  # 0x_ and the like
        value = ""
    if value in ("inf", "-inf", "nan"):
        return f"{shown}: YAML makes it {value}; no field takes it"
    numbers = dict.fromkeys((plain_number(value), plain_number(text)))
    choices = [number for number in numbers if number] or ["a plain number"]
    if ":" in text:
        choices.append(f"'{shown}' in quotes if text is meant")
    return f"{shown}: YAML 1.1 makes it {value or 'a number'}; write {', or '.join(choices)}"


def _forbidden(character: str) -> str:
    return f"character U+{ord(character):04X} is not allowed"
