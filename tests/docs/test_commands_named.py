"""Every `sweep` command and option that README, CONTRIBUTING and docs/ name exists."""

import re
from pathlib import Path

import pytest

from sweep.cli.main import COMMANDS
from sweep.grid.loader import parse_grid
from tests.docs.pages import DOCS, PAGES, blocks
from tests.paths import ROOT

CODE = re.compile(r"```\w*\n(.*?)```|(?<!`)`([^`\n]+)`(?!`)", re.DOTALL)
COMMAND = re.compile(r"(?:\bscripts/sweep|\bsweep\.cli|(?<![\w/.-])sweep)(?: |$)([^\s`]*)([^\n|;#>]*)")
NOT_COMMANDS = ("--version", "--debug", "--install-completion", "...", "COMMAND")


def commands_on(page: Path) -> list[tuple[str, list[str]]]:
    """Each command that a page's code names, with its long options."""
    text = page.read_text().replace("\\\n", " ")
    code = ["".join(match) for match in CODE.findall(text)]
    found = [match for snippet in code for match in COMMAND.findall(snippet)]
    return [(name, re.findall(r"(?<!\S)(--[a-z][a-z-]+)", rest)) for name, rest in found if name]


def known_options(command: str) -> set[str]:
    """The long options in a command's section of commands.md, which a test compares with `--help`."""
    section = (DOCS / "commands.md").read_text().partition(f"\n## sweep {command}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"--[a-z][a-z-]+", section))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options(page: Path) -> None:
    """Each command has a section in commands.md, and each option after it is listed there."""
    if page == DOCS / "commands.md":
        return
    for name, options in commands_on(page):
        if name not in NOT_COMMANDS:
            assert name in COMMANDS, name
            assert set(options) <= known_options(name), (name, options)


def test_commands_are_found() -> None:
    """The README's code names the commands that a new user needs."""
    named = dict(commands_on(ROOT / "README.md"))
    assert set(named) >= {"launch", "plan", "query", "compare", "validate", "inspect", "advise"}
    assert ("launch", ["--fresh", "--where"]) in commands_on(ROOT / "README.md")


def test_overrides() -> None:
    """The `-S` examples of grid.md change the example grid of that page."""
    text = (DOCS / "grid.md").read_text()
    (example,) = [block for block in blocks(text, "yaml") if "schema:" in block]
    overrides = [word for word in re.findall(r"`-S ([\w.]+=[^`]+)`", text) if word != "key=value"]
    assert len(overrides) == 3
    for override in overrides:
        assert parse_grid(example, "grid.md", [override]).content() != parse_grid(example, "grid.md").content()
