"""How rules are written: one field, the fields that identify a rule, a rule as YAML, a rule in a sentence."""

from typing import Any

from engine.model.policy import BUILT_IN, MEANINGS, RULE_FIELDS, SLOT, Policy
from sweep.common.units import format_size


def spell_field(field: str, value: int | str) -> str:
    """The value as a grid has it: `64KiB`, `slot`, `try`, `2`."""
    return format_size(value) if field == "least" and isinstance(value, int) else str(value)


def spelled_fields(policy: Policy) -> dict[str, str]:
    """The fields that have an effect, as a grid has them."""
    return {field: spell_field(field, value) for field, value in policy.effective.items()}


def policy_content(policy: Policy) -> str | dict[str, int | str]:
    """What identifies a policy in the content of a grid: the name of a built-in one, or name and effective fields."""
    return policy.name if policy.name in BUILT_IN else {"name": policy.name, **policy.effective}


def policy_sentence(policy: Policy, base: Policy | None) -> str:
    """What an own rule does, by the fields in which it differs from `base`: `as merged, with least: 64KiB`."""
    before = base.effective if base else {}
    changed = [
        f"{field}: {text}"
        for field, text in spelled_fields(policy).items()
        if before.get(field) != policy.effective[field]
    ]
    if base is None:
        return ", ".join(changed)
    return f"as {base.name}, with {', '.join(changed)}" if changed else f"as {base.name}"


def explain_field(field: str, value: int | str) -> str:
    """What a field's value means, in words."""
    kinds = {"least": SLOT if value == SLOT else "size", "every": "rounds"}
    return MEANINGS[field][str(kinds.get(field, value))]


def policy_yaml(policy: Policy) -> str:
    """A policy as an item of the list `policies:` of a grid, with each field that has an effect explained."""
    fields = spelled_fields(policy)
    width = max(len(f"{field}: {text}") for field, text in fields.items())
    lines = [f"- name: {policy.name}"]
    lines += [
        f"  {f'{field}: {text}':<{width}}  # {explain_field(field, policy.effective[field])}"
        for field, text in fields.items()
    ]
    return "\n".join(lines) + "\n"


def policy_row(policy: Policy) -> dict[str, Any]:
    """The policy as a row of the view `policies`, without the run. Fields without effect are None."""
    least = policy.effective.get("least")
    return {
        "policy": policy.name,
        "built_in": policy.name in BUILT_IN,
        "like": policy.like or None,
        **dict.fromkeys(RULE_FIELDS),
        **spelled_fields(policy),
        "every": policy.effective.get("every"),
        "least_bytes": least if isinstance(least, int) else None,
        "rule": policy.rule or None,
        "source": policy.source or None,
    }
