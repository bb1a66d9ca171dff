"""The README is short, shows what the commands print, and describes each policy as the code does."""

import re
import textwrap
from pathlib import Path

import pytest

from engine.model.policy import ALL
from sweep.grid.loader import parse_grid
from tests.docs.pages import WRITE, blocks, check_generated, run_commands
from tests.paths import ROOT

README = ROOT / "README.md"
TIMES = re.compile(r"; [\d.]+ s \(\w+, \d+ workers?\)$", re.MULTILINE)  # all that differs from run to run
PROMPT = re.compile(r"^(?:\$|>) ", re.MULTILINE)
MAX_LINES, MAX_COLUMNS = 120, 100


def test_size() -> None:
    """The README has at most 120 lines of at most 100 columns."""
    lines = README.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert [line for line in lines if len(line) > MAX_COLUMNS] == []


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_console_blocks(tmp_path: Path) -> None:
    """Every console block of the README, run in order, prints what the README shows.

    A block begins with command lines: `$ ` starts a command, `> ` continues it.
    """
    text = README.read_text()
    shown_blocks = re.findall(r"```console\n((?:[$>] [^\n]*\n)+)(.*?)```", text, re.DOTALL)
    assert len(shown_blocks) == text.count("```console")
    assert sum(commands.count("$ ") for commands, _ in shown_blocks) >= 4
    for commands, shown in shown_blocks:
        done = run_commands(PROMPT.sub("", commands), tmp_path)
        assert done.returncode == 0, (commands, done.stderr[-2000:])
        printed = done.stdout.rstrip() + "\n"
        if WRITE:
            text = text.replace(f"```console\n{commands}{shown}```", f"```console\n{commands}{printed}```")
            README.write_text(text)
        else:
            assert TIMES.sub("", printed) == TIMES.sub("", shown), commands


def test_policies() -> None:
    """The README describes each policy with the rule and source that the code states."""
    items = [f"- **{policy.name}**: {policy.rule} ({policy.source})." for policy in ALL]
    wrapped = [textwrap.fill(item, MAX_COLUMNS, subsequent_indent="  ", break_on_hyphens=False) for item in items]
    check_generated(README, "policies", "\n".join(wrapped) + "\n")


def test_grid_example() -> None:
    """The grid that is explained parses, and every part of it has an effect."""
    (example,) = blocks(README.read_text(), "yaml")
    grid = parse_grid(example, "README.md")
    assert grid.raw_points == 2 * 3 * 8 * 2 * 2
    assert len(grid.excludes) == 1
    assert grid.policy_names == ("none", "refcount", "merged")
