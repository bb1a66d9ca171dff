"""The README shows what the commands print: each console block is run and compared, each table and path is checked.

PTSWEEP_README=write brings the README up to date instead.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.model.policy import ALL
from sweep.grid.loader import load_grid, parse_grid
from tests.paths import ROOT

README = ROOT / "README.md"
WRITE = os.environ.get("PTSWEEP_README") == "write"
TIMES = re.compile(r"^seconds .*$", re.MULTILINE)  # the one line that differs from run to run


def policies_table() -> str:
    return "".join(f"| {p.name} | {p.rule} | {p.source} |\n" for p in ALL)


def grids_table() -> str:
    rows = [(path, load_grid(path)) for path in sorted((ROOT / "grids").glob("*.yaml"))]
    return "".join(f"| [{path.name}](grids/{path.name}) | {' '.join(grid.about.split())} |\n" for path, grid in rows)


def with_table(text: str, heading: str, rows: str) -> str:
    """The text with the rows of the table under a heading replaced."""
    pattern = re.compile(rf"(## {heading}\n\|[^\n]*\n\|[-|]+\n)((?:\|[^\n]*\n)*)")
    assert pattern.search(text), heading
    return pattern.sub(lambda m: m[1] + rows, text)


def run(command: str, folder: Path) -> str:
    """What a line of `sweep` commands prints to stdout, in a folder with the grids."""
    assert command.startswith("sweep "), command
    sweep = f'sweep() {{ {shlex.quote(sys.executable)} -m sweep.cli "$@"; }}'
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        ["sh", "-c", f"{sweep}\n{command}"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, (command, done.stderr[-2000:])
    return done.stdout.rstrip() + "\n"


def test_console_blocks(tmp_path: Path) -> None:
    """Every console block of the README, run in order, prints what stands there."""
    (tmp_path / "grids").symlink_to(ROOT / "grids")
    text = README.read_text()
    blocks = re.findall(r"```console\n\$ ([^\n]*)\n(.*?)```", text, re.DOTALL)
    assert blocks
    for command, shown in blocks:
        printed = run(command, tmp_path)
        if WRITE:
            text = text.replace(f"```console\n$ {command}\n{shown}```", f"```console\n$ {command}\n{printed}```")
            README.write_text(text)
        else:
            assert TIMES.sub("", printed) == TIMES.sub("", shown), command


TABLES = [("The seven policies", policies_table), ("Grids that ship", grids_table)]


@pytest.mark.parametrize(("heading", "rows"), TABLES)
def test_tables(heading: str, rows: Callable[[], str]) -> None:
    """The tables of policies and grids say what the code and the grids say."""
    text = README.read_text()
    wanted = with_table(text, heading, rows())
    if WRITE:
        README.write_text(wanted)
    assert wanted == README.read_text()


def test_grid_example() -> None:
    """The grid that is explained parses, and every part of it has an effect."""
    found = re.search(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    grid = parse_grid(found[1], "README.md")
    assert grid.raw_points == 2 * 3 * 8 * 2 * 2
    assert len(grid.excludes) == 1
    assert grid.policies == ("none", "refcount", "merged")


def test_paths() -> None:
    """Every path that the README names is there."""
    text = README.read_text()
    house = re.search(r"## The house\n```\n(.*?)```", text, re.DOTALL)
    assert house
    paths = [line.split()[0] for line in house[1].splitlines()]
    paths += re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`((?:grids|tests|scripts|docs)/[\w./-]+)`", text)
    paths += [line.split()[0] for line in text.splitlines() if line.startswith("scripts/")]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
