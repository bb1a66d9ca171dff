"""What code may import and print, beyond the import contracts in pyproject.toml (scripts/check runs those)."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

SOURCES = sorted(path for package in ("engine", "sweep") for path in (ROOT / package).rglob("*.py"))
DISTRIBUTION = {
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",
    "vl_convert": "vl-convert-python",
    "backports": "backports-zstd",  # whose module is `compression.zstd` from Python 3.14 on
    "compression": "backports-zstd",
}


def imported_packages(path: Path) -> set[str]:
    """Return the top-level names of everything that the file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: a relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def third_party_packages(path: Path) -> set[str]:
    return imported_packages(path) - sys.stdlib_module_names - {"engine", "sweep"}


def printing_lines(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that use print, input, the standard streams, rich's Console, or typer's and click's echo."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id="print" | "input")
                | ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr" | "__stdout__" | "__stderr__")
                | ast.Attribute(attr="echo" | "secho")
                | ast.Name(id="Console" | "echo" | "secho")
                | ast.Attribute(attr="Console")
            ):
                yield node.lineno
            case ast.ImportFrom(module="sys", names=names) if {"stdout", "stderr"} & {alias.name for alias in names}:
                yield node.lineno


def test_engine_needs_only_numpy_and_numba() -> None:
    """The engine imports nothing else from outside the standard library, and nothing of sweep."""
    allowed = sys.stdlib_module_names | {"numpy", "numba", "engine"}
    engine = [path for path in SOURCES if path.is_relative_to(ROOT / "engine")]
    others = {path.relative_to(ROOT).as_posix(): imported_packages(path) - allowed for path in engine}
    assert {path: names for path, names in others.items() if names} == {}


def test_only_the_command_line_prints() -> None:
    """Outside of sweep/cli code returns values, raises errors, or calls Progress."""
    lines = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if not path.is_relative_to(ROOT / "sweep" / "cli")
        for line in printing_lines(ast.parse(path.read_text()))
    ]
    assert lines == []


def test_every_way_of_printing_is_recognised() -> None:
    """printing_lines finds each of these, and not a function whose name only contains "print"."""
    source = "print(1)\nsys.stderr.write('')\nfrom sys import stdout\nConsole().print(1)\ntyper.echo(1)\nblueprint(1)\n"
    assert sorted(printing_lines(ast.parse(source))) == [1, 2, 3, 4, 5]


def test_dependencies_are_those_that_are_imported() -> None:
    """pyproject.toml lists every outside package that the code imports, and no other; optional ones may be extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared, extras = (
        {dependency.partition(">")[0].lower() for dependency in dependencies}
        for dependencies in (project["dependencies"], project["optional-dependencies"]["notebook"])
    )
    imported = {DISTRIBUTION.get(name, name) for path in SOURCES for name in third_party_packages(path)}
    assert imported - (extras - declared) == declared
