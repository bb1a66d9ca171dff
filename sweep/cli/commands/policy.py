"""sweep policy: the rules of the built-in policies and of a grid's own, as a list or as YAML for a grid."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.cli import output_formats
from sweep.cli.options import AsJson, Override
from sweep.common.errors import UserError, unknown_name

if TYPE_CHECKING:
    from engine.model.policy import Policy

WIDTH = 80


def policy(
    action: Annotated[
        Literal["ls", "show"],
        typer.Argument(metavar="ls|show", help="ls: list the policies. show: print one as YAML, for a grid."),
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The policy to show.", show_default=False)] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", metavar="GRID", help="The policies of this grid, with its own rules.")
    ] = None,
    override: Override = None,
    as_json: AsJson = False,
) -> int:
    """List the policies, or show the rule of one as YAML that can be pasted under `policies:` in a grid.

    Example: sweep policy show merged
    """
    from engine.model.policy import ALL
    from sweep.grid.loader import load_grid
    from sweep.grid.rule_text import policy_row

    if override and grid is None:
        raise UserError("policy: -S changes a grid; name it with --grid")
    policies = load_grid(grid, tuple(override or ())).policies if grid else ALL
    if action == "show":
        policies = (_find(name, policies, grid),)
    elif name is not None:
        raise UserError(f"policy ls: takes no name; sweep policy show {name}")
    if as_json:
        rows = [policy_row(one) for one in policies]
        output_formats.print_json(rows if action == "ls" else rows[0])
    elif action == "show":
        output_formats.print_text(_described_yaml(policies[0]))
    else:
        _print_list(policies)
    return 0


def _find(name: str | None, policies: "Sequence[Policy]", grid: Path | None) -> "Policy":
    if name is None:
        raise UserError("policy show: missing argument 'NAME'; sweep policy ls lists the policies")
    for one in policies:
        if one.name == name:
            return one
    advice = "" if grid else "; --grid GRID adds those of a grid"
    raise UserError(f"{unknown_name('policy', name, [one.name for one in policies])}{advice}")


def _described_yaml(policy: "Policy") -> str:
    from sweep.grid.rule_text import policy_yaml

    comments = [line for text in (policy.rule, policy.source) for line in textwrap.wrap(text, WIDTH - 2)]
    return "".join(f"# {line}\n" for line in comments) + policy_yaml(policy)


def _print_list(policies: "Sequence[Policy]") -> None:
    """Print each policy's name, its rule in a sentence and its source, in WIDTH columns."""
    width = max(len(policy.name) for policy in policies) + 2
    for policy in policies:
        source = policy.source or "a rule of the grid's own"
        lines = [line for text in (policy.rule, source) for line in textwrap.wrap(text, WIDTH - width)]
        for label, line in zip([policy.name, *[""] * len(lines)], lines, strict=False):
            output_formats.print_line(f"{label:<{width}}{line}")
