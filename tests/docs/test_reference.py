"""The reference pages list every field, column, command and exit code, as the code has them."""

import re
import subprocess
import sys

import numpy as np
import pytest

from engine.model.arch import ARCHES, KIB, MIB, TIB
from engine.model.policy import MAX_EVERY, MEANINGS
from engine.model.scenario import ABSENT, FIELDS, ScenarioError, check, complete
from sweep.cli import main as cli
from sweep.cli import signals
from sweep.cli.commands import compare
from sweep.common import schema
from sweep.common.units import format_size
from sweep.grid.field_values import MAX_ROWS
from sweep.grid.grid_file import TOP_KEYS, VALUE_RULES
from sweep.grid.loader import load_grid, parse_grid
from sweep.grid.rules import MAX_POLICIES
from tests.docs.pages import DOCS, blocks, check_generated, table
from tests.paths import ROOT

PAGES = "one page to 128TiB, whole pages"
ALLOWED = {
    "virt": PAGES,
    "sparsity": "0 to 1",
    "res": "0 to virt",
    "cluster": PAGES,
    "zap": PAGES,
    "zap_shift": "0 to 128TiB, whole pages",
    "coverage": "0 to 1",
    "rounds": "1 to 1,000,000",
    "pinned": "0 to 1",
    "refault": "0 to 1",
    "folio": "a power of two, one page to 2MiB",
    "threads": "1 to 65,536; above 1, rounds x threads at most 16,777,216",
    "seed": "0 to 2^63 - 1",
}
"""The allowed values as the page states them; choices are listed by name. LIMITS tests these sentences."""
LIMITS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "virt": ((4 * KIB, 128 * TIB), (0, 6 * KIB, 128 * TIB + 4 * KIB)),
    "sparsity": ((0, 1), (-0.1, 1.1)),
    "res": ((0, 1, 64 * MIB), (-2, 64 * MIB + 1)),
    "cluster": ((4 * KIB, 128 * TIB), (0, 6 * KIB, 128 * TIB + 4 * KIB)),
    "zap": ((4 * KIB, 128 * TIB), (0, 6 * KIB, 128 * TIB + 4 * KIB)),
    "zap_shift": ((0, 128 * TIB), (-4 * KIB, 6 * KIB, 128 * TIB + 4 * KIB)),
    "coverage": ((0, 1), (-0.1, 1.1)),
    "rounds": ((1, 1_000_000), (0, 1_000_001)),
    "pinned": ((0, 1), (-0.1, 1.1)),
    "refault": ((0, 1), (-0.1, 1.1)),
    "folio": ((4 * KIB, 2 * MIB), (0, 12 * KIB, 4 * MIB)),
    "threads": ((1, 65_536), (0, 65_537)),
    "seed": ((0, 2**63 - 1), (-1,)),
}
"""Values that each field accepts, and values that it refuses, in a VMA of 64 MiB on x86-64."""
UNITS = {"bytes": "size", "share": "share", "count": "count", "choice": "name"}
DEFAULTS = {"virt": "required", "sparsity": "required, or `res`", "res": "-", "cluster": "one page", "zap": "S"}
DEFAULTS |= {"folio": "one page"}


def test_fields() -> None:
    """grid.md's table has every scenario field with its unit, default and allowed values."""
    rows = []
    for field in FIELDS:
        default = DEFAULTS.get(field.name) or str(field.default).removesuffix(".0")
        allowed = ALLOWED.get(field.name) or ", ".join(field.choices)
        rows.append((f"`{field.name}`", UNITS[field.kind], default, allowed, field.meaning.partition(" (default")[0]))
    check_generated(DOCS / "grid.md", "fields", table(("field", "value", "default", "allowed", "meaning"), rows))


def test_rules() -> None:
    """grid.md's table has every value of every field of a rule with its meaning."""
    rows = []
    for field, meanings in MEANINGS.items():
        for value, meaning in meanings.items():
            shown = {"size": "a size", "rounds": f"1 to {MAX_EVERY:,}"}.get(value, value)
            rows.append((f"`{field}`" if value == next(iter(meanings)) else "", shown, meaning))
    check_generated(DOCS / "grid.md", "rules", table(("field", "value", "meaning"), rows))
    text = (DOCS / "grid.md").read_text()
    assert f"at most {MAX_POLICIES:,} policies, and at most {MAX_ROWS:,} rows" in text


def test_rules_example() -> None:
    """The rules in grid.md can be read."""
    (example,) = [block for block in blocks((DOCS / "grid.md").read_text(), "yaml") if "like: merged" in block]
    grid = parse_grid(f"schema: sweep/1\nname: rules\nfixed: {{virt: 1GiB, sparsity: 0.9}}\n{example}", "grid.md")
    own = ["small", "r_rest_4KiB", "r_rest_slot", "r_keep_4KiB", "r_keep_slot"]
    assert [policy.name for policy in grid.policies] == ["none", "merged", *own]


def test_stated_defaults() -> None:
    """The defaults that depend on the architecture are one page, one page and the span S of a PTE table."""
    columns = complete({"virt": np.full(4, 64 * MIB), "arch": np.arange(len(ARCHES))}, len(ARCHES))
    assert columns["cluster"].tolist() == columns["folio"].tolist() == [arch.page_bytes for arch in ARCHES]
    assert columns["zap"].tolist() == [arch.span_bytes for arch in ARCHES]
    text = (DOCS / "grid.md").read_text()
    for arch in ARCHES:
        span = format_size(arch.span_bytes)
        assert re.search(rf"{span} on [^,.]*{arch.name}", text), arch.name


def is_allowed(name: str, value: float) -> bool:
    """Whether a VMA of 64 MiB may have this value in one field."""
    given = {"virt": np.array([64 * MIB]), "sparsity": np.array([np.nan if name == "res" else 0.5])}
    try:
        check(complete(given | {name: np.array([value])}, 1))
    except ScenarioError as error:
        return error.field != name
    return True


@pytest.mark.parametrize("name", LIMITS)
def test_stated_limits(name: str) -> None:
    """The allowed values that grid.md states are accepted, and their neighbours are refused."""
    accepted, refused = LIMITS[name]
    assert all(is_allowed(name, value) for value in accepted)
    assert not any(is_allowed(name, value) for value in refused)


def test_every_field_has_limits() -> None:
    """Each field has either names to choose from or tested limits."""
    assert {field.name for field in FIELDS if not field.choices} == set(LIMITS) == set(ALLOWED)
    assert ABSENT == -1  # so that -2, not -1, is the refused value of res


def test_grid_keys() -> None:
    """grid.md's table of keys has exactly the keys of a grid file, and its table of rules every rule."""
    text = (DOCS / "grid.md").read_text()
    section = text.partition("## Keys\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| (\w+) \|", section, re.MULTILINE)) - {"key"} == set(TOP_KEYS)
    assert re.findall(r"^\| `\{(\w+):", text, re.MULTILINE) == list(VALUE_RULES)


def test_grid_example() -> None:
    """grid.md's example parses, uses every key but workload, and has as many points as its axes say."""
    (example,) = [block for block in blocks((DOCS / "grid.md").read_text(), "yaml") if "schema:" in block]
    grid = parse_grid(example, "grid.md")
    assert set(grid.root.entries) == set(TOP_KEYS) - {"workload"}
    assert grid.raw_points == (2 * 7 * 2 + 1) * 2


def test_grid_rules() -> None:
    """The rules in grid.md make the values that stand beside them."""
    rules = re.findall(r"^\| `(\{.*?\})` \|", (DOCS / "grid.md").read_text(), re.MULTILINE)
    text = "schema: sweep/1\nname: rules\nfixed: {virt: 1GiB}\naxes:\n"
    fields = zip(("zap", "threads", "sparsity"), rules, strict=True)
    grid = parse_grid(text + "".join(f"  {field}: {rule}\n" for field, rule in fields), "grid.md")
    zap, threads, sparsity = (next(iter(axis.values.values())).tolist() for axis in grid.axes)
    assert zap == [64 * KIB << i for i in range(11)]
    assert threads == [1, 3, 5, 7, 9]
    assert (len(sparsity), sparsity[0], sparsity[-1]) == (5, 0.5, 0.9)


def test_grids() -> None:
    """grid.md lists each grid that ships with its question."""
    paths = sorted((ROOT / "grids").glob("*.yaml"))
    rows = [(f"[{path.name}](../grids/{path.name})", " ".join(load_grid(path).about.split())) for path in paths]
    check_generated(DOCS / "grid.md", "grids", table(("grid", "question"), rows))


def test_columns() -> None:
    """columns.md lists every column of every view with its type, unit and meaning; equal views share a table."""
    views: dict[tuple[schema.Column, ...], list[str]] = {}
    for name, columns in schema.VIEWS.items():
        views.setdefault(tuple(columns), []).append(name)
    sections = []
    for columns, names in views.items():
        rows = [(f"`{c.name}`", c.type, c.unit, c.meaning) for c in columns]
        sections.append(f"## {', '.join(names)}\n" + table(("column", "type", "unit", "meaning"), rows))
    check_generated(DOCS / "columns.md", "columns", "\n".join(sections))


@pytest.mark.slow
def test_commands() -> None:
    """commands.md holds the help text of every command."""
    sections = []
    for name in ("", *cli.COMMANDS):
        words = [name, "--help"] if name else ["--help"]
        done = subprocess.run(
            [sys.executable, "-m", "sweep.cli", *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        sections.append(f"## {f'sweep {name}'.strip()}\n```\n{done.stdout.rstrip()}\n```\n")
    check_generated(DOCS / "commands.md", "commands", "\n".join(sections))


def test_exit_codes() -> None:
    """commands.md lists the exit codes that the command line uses."""
    text = (DOCS / "commands.md").read_text().partition("## Exit codes\n")[2]
    codes = [int(code) for code in re.findall(r"^\| (\d) \|", text, re.MULTILINE)]
    assert codes == list(range(6))
    assert (cli.BAD_USAGE, signals.INTERRUPTED, cli.INTERNAL_ERROR, compare.REGRESSION) == (2, 3, 4, 5)


def test_glossary() -> None:
    """The glossary has at most 25 words, each once, with one sentence."""
    words = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)[2:]
    assert 20 <= len(words) <= 25
    assert len({word for word, _ in words}) == len(words)
