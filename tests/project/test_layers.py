"""The house keeps its layers: pyproject.toml says who imports whom, this file who reaches the outside."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

SOURCES = sorted(path for package in ("engine", "sweep") for path in (ROOT / package).rglob("*.py"))
DISTRIBUTION = {"yaml": "pyyaml", "pydantic_core": "pydantic"}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that the file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: a relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def third_party(path: Path) -> set[str]:
    return imported(path) - sys.stdlib_module_names - {"engine", "sweep"}


def printing(tree: ast.AST) -> Iterator[int]:
    """Lines that reach a terminal: print, the standard streams, rich's Console, typer's and click's echo."""
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


def test_contracts_in_pyproject_hold() -> None:
    """Each room imports only what is below it, and each outside package has its room."""
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", lint, "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "engine")], ids=lambda p: p.name)
def test_engine_knows_numpy_numba_llvmlite_and_the_standard_library(path: Path) -> None:
    """The engine could be lifted out of this repository as it is."""
    assert imported(path) <= sys.stdlib_module_names | {"numpy", "numba", "llvmlite", "engine"}


def test_only_the_commands_print() -> None:
    """A room that computes stays silent: what it has to say is a value, an error, or a call of Progress."""
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("sweep/cli/"):
            found += [f"{name}:{line}" for line in printing(ast.parse(path.read_text()))]
    assert found == []


def test_printing_is_seen() -> None:
    """The test above looks for what it says it looks for."""
    source = "print(1)\nsys.stderr.write('')\nfrom sys import stdout\nConsole().print(1)\ntyper.echo(1)\nblueprint(1)\n"
    assert sorted(printing(ast.parse(source))) == [1, 2, 3, 4, 5]


def test_dependencies_are_those_that_are_imported() -> None:
    """pyproject.toml asks for every outside package that the code imports, and for no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {dependency.partition(">")[0].lower() for dependency in project["dependencies"]}
    used = {DISTRIBUTION.get(name, name) for path in SOURCES for name in third_party(path)}
    assert used == declared
