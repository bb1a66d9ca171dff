"""Read policies: names of built-in ones, and rules of one's own, as they stand in a grid and in files of `--rule`.

A rule is a mapping: {name: small, like: merged, least: 64KiB}. `like` names a built-in policy or an earlier rule, whose
fields hold where the mapping gives none. Without `like` the mapping must give each field that has an effect.
A list in one or more fields makes one policy for each combination of values, the last field varying fastest; `{field}`
in the name stands for the value: {name: "least_{least}", like: merged, least: [4KiB, 64KiB]}.
A rule may have the name of a built-in policy if it is that policy.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from engine.model.arch import ARCHES
from engine.model.policy import (
    BUILT_IN,
    CHOICES,
    MAX_EVERY,
    POLICIES,
    RULE_FIELDS,
    SLOT,
    Policy,
    RuleError,
    derive_policy,
)
from sweep.common import schema, units
from sweep.common.errors import UserError, did_you_mean, one_line, unknown_name
from sweep.grid import yaml_reader
from sweep.grid.rule_text import policy_sentence, spell_field
from sweep.grid.yaml_nodes import Mapping, Node, NodePath, Scalar, Sequence, error_at

MAX_POLICIES = 1_000
POLICY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
NAME_RULE = "a letter, then up to 39 letters, digits and _"
RESERVED = frozenset(
    {
        *(column.name for column in (*schema.OUTCOMES, schema.COST_NS, *schema.ROUNDS)),
        *("cluster_kib", "moment", "nobody", "none_kib", "points", "points_with_empty_tables", "possible"),
        *("shift_kib", "zap_kib"),
    }
)
"""Columns that stand beside a column for each policy in views and named queries: no policy may have such a name."""
KEYS = ("name", "like", *RULE_FIELDS)
_MAX_LEAST = max(arch.span_bytes for arch in ARCHES)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def read_rules(text: str, source: str) -> tuple[Policy, ...]:
    """The policies of a YAML text: a rule, or a list of rules and names. `source` names the text in errors.

    Built-in policies come first, then the others as listed. Raises UserError with the place.
    """
    return read_policies(yaml_reader.parse_yaml(text, source), ())


def read_policies(node: Node, path: NodePath) -> tuple[Policy, ...]:
    """The policies of a YAML node, which is a policy's name, a rule, or a list of both. Raises UserError.

    Built-in policies come first, in their fixed order, then the others as listed.
    """
    entries = _items(node, path)
    if not entries:
        advice = "leave the key out for all policies" if path else "give a name or a rule"
        raise error_at(node.position, path, f"an empty list; {advice}")
    read: dict[str, Policy] = {}
    for entry_path, entry in entries:
        for policy in _read_entry(entry, entry_path, read):
            _check_is_new(policy.name, read, _name_of(entry), entry_path)
            read[policy.name] = policy
            if len(read) > MAX_POLICIES:
                raise error_at(entry.position, entry_path, f"more than {MAX_POLICIES:,} policies")
    own = [policy for name, policy in read.items() if name not in BUILT_IN]
    return (*(policy for name, policy in BUILT_IN.items() if name in read), *own)


def _items(node: Node, path: NodePath) -> list[tuple[NodePath, Node]]:
    """(path, node) of the items of a list, or of the node itself if it is none."""
    return [((*path, i), item) for i, item in enumerate(node.items)] if isinstance(node, Sequence) else [(path, node)]


def _read_entry(node: Node, path: NodePath, earlier: dict[str, Policy]) -> Iterator[Policy]:
    """The policy of a name, or those of a rule."""
    if isinstance(node, Scalar):
        if node.text not in BUILT_IN and node.text not in earlier:
            raise error_at(node.position, path, unknown_name("policy", node.text, POLICIES))
        return iter([BUILT_IN.get(node.text) or earlier[node.text]])
    if isinstance(node, Sequence):
        raise error_at(node.position, path, "must be a policy's name, or a rule {name: ..., like: ...}")
    return _RuleReader(node, path, earlier).policies()


def _name_of(node: Node) -> Node:
    return node.entries.get("name", node) if isinstance(node, Mapping) else node


def _check_is_new(name: str, earlier: dict[str, Policy], node: Node, path: NodePath) -> None:
    """Raise UserError if a policy of this name, in whatever case, was read before: SQL knows no case in names."""
    same = [other for other in (*earlier, *BUILT_IN) if other.lower() == name.lower()]
    if name in earlier:
        raise error_at(node.position, path, f"{name} is listed twice")
    if same and same != [name]:
        raise error_at(node.position, path, f"{name} differs from {same[0]} in its case only; SQL takes both for one")


@dataclass(frozen=True, slots=True)
class _RuleReader:
    """A rule's mapping, its path, and the policies before it. The methods raise UserError with the place."""

    node: Mapping
    path: NodePath
    earlier: dict[str, Policy]

    def policies(self) -> Iterator[Policy]:
        """One policy for each combination of the values of lists."""
        for key in self.node.entries:
            if key not in KEYS:
                raise error_at(self.node.key_positions[key], self.path, unknown_name("key", key, KEYS))
        template = self._single("name")
        if template is None:
            raise error_at(self.node.position, self.path, "key 'name' is required")
        base = self._base()
        values = {key: self._values(key) for key in self.node.entries if key in RULE_FIELDS}
        if prod(map(len, values.values())) > MAX_POLICIES:
            raise error_at(self.node.position, self.path, f"more than {MAX_POLICIES:,} policies")
        self._check_placeholders(template, values)
        for chosen in product(*(range(len(of_field)) for of_field in values.values())):
            changes = {field: values[field][i] for field, i in zip(values, chosen, strict=True)}
            yield self._policy(template, base, changes, dict(zip(values, chosen, strict=True)))

    def _single(self, key: str) -> Scalar | None:
        node = self.node.entries.get(key)
        if node is not None and not isinstance(node, Scalar):
            raise error_at(node.position, (*self.path, key), "must be a single value")
        return node

    def _base(self) -> Policy | None:
        like = self._single("like")
        if like is None:
            return None
        known = BUILT_IN | self.earlier
        if like.text not in known:
            raise error_at(like.position, (*self.path, "like"), unknown_name("policy", like.text, known))
        return known[like.text]

    def _values(self, field: str) -> list[int | str]:
        """The values of a field that is given."""
        node, path = self.node.entries[field], (*self.path, field)
        items = _items(node, path)
        if not items:
            raise error_at(node.position, path, "an empty list; give one value or more, or leave the key out")
        values: list[int | str] = []
        for item_path, item in items:
            if not isinstance(item, Scalar):
                raise error_at(item.position, item_path, "must be a single value")
            try:
                value = parse_field(field, item.text)
            except UserError as error:
                raise error_at(item.position, item_path, str(error)) from None
            if value in values:
                raise error_at(item.position, item_path, f"{spell_field(field, value)} is listed twice")
            values.append(value)
        return values

    def _check_placeholders(self, template: Scalar, values: dict[str, list[int | str]]) -> None:
        """Raise UserError for a `{word}` that is no field, and for a list of which the name has no trace."""
        path, words = (*self.path, "name"), _PLACEHOLDER.findall(template.text)
        for word in words:
            if word not in RULE_FIELDS:
                raise error_at(template.position, path, unknown_name("field", word, RULE_FIELDS))
        for field, of_field in values.items():
            if len(of_field) > 1 and field not in words:
                advice = f"put {{{field}}} into the name"
                message = f"the {len(of_field)} values of `{field}` make policies of one name; {advice}"
                raise error_at(template.position, path, message)

    def _policy(
        self, template: Scalar, base: Policy | None, changes: dict[str, int | str], chosen: dict[str, int]
    ) -> Policy:
        """The policy of one combination of values. `chosen`: their indexes in the lists."""
        fields = {field: getattr(base or Policy(""), field) for field in RULE_FIELDS} | changes
        name = _PLACEHOLDER.sub(lambda match: spell_field(match[1], fields[match[1]]), template.text)
        self._check_name(name, template)
        try:
            policy = derive_policy(base or Policy(""), name, changes)
        except RuleError as error:
            raise self._rule_error(error, name, chosen) from None
        if base is None:
            self._check_is_complete(policy, changes)
        for word in _PLACEHOLDER.findall(template.text):
            if word not in policy.effective:
                message = f"{{{word}}}: `{word}` has no effect in {name}"
                raise error_at(template.position, (*self.path, "name"), message)
        if name not in BUILT_IN:
            return replace(policy, rule=policy_sentence(policy, base))
        if policy.effective != BUILT_IN[name].effective:
            message = f"{name} is built in and has other fields; choose another name"
            raise error_at(template.position, (*self.path, "name"), message)
        return BUILT_IN[name]

    def _check_name(self, name: str, template: Scalar) -> None:
        path = (*self.path, "name")
        if not POLICY_NAME.fullmatch(name):
            raise error_at(template.position, path, f"{one_line(name)!r} is not a name: {NAME_RULE}")
        if name.lower() in RESERVED:
            raise error_at(template.position, path, f"{name!r} is a column of the results; choose another name")

    def _rule_error(self, error: RuleError, name: str, chosen: dict[str, int]) -> UserError:
        """The error of a rule that cannot be, at the value that is at fault if the mapping gives it."""
        if error.field not in chosen:
            return error_at(self.node.position, self.path, f"{name}: {error}")
        node, path = self.node.entries[error.field], (*self.path, error.field)
        if isinstance(node, Sequence):
            i = chosen[error.field]
            node, path = node.items[i], (*path, i)
            return error_at(node.position, path, f"{error.message} (in the policy {name})")
        return error_at(node.position, path, error.message)

    def _check_is_complete(self, policy: Policy, changes: dict[str, int | str]) -> None:
        missing = [field for field in policy.effective if field not in changes]
        if missing:
            needs = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            message = f"a rule without `like` gives each field that has an effect; {needs}"
            raise error_at(self.node.position, self.path, message)


def parse_field(field: str, text: str) -> int | str:
    """The value of a rule field: bytes, a count, or a choice. Raises UserError without a place."""
    if field in CHOICES:
        if text not in CHOICES[field]:
            raise UserError(unknown_name(field, text, CHOICES[field]))
        return text
    if field == "least":
        return SLOT if text == SLOT else _parse_least(text)
    rounds = units.parse_count(text)
    if not 1 <= rounds <= MAX_EVERY:
        raise UserError(f"{rounds}: must be from 1 to {MAX_EVERY}")
    return rounds


def _parse_least(text: str) -> int:
    if did_you_mean(text, [SLOT]):
        raise UserError(f"{one_line(text)!r} is neither a size nor `{SLOT}`{did_you_mean(text, [SLOT])}")
    size = units.parse_size(text)
    if not 1 <= size <= _MAX_LEAST:
        largest = f"the largest slot, {units.format_size(_MAX_LEAST)} (arm64-64k)"
        raise UserError(f"{one_line(text)!r}: must be a size from 1B to {largest}, or `{SLOT}`")
    return size
