"""Text that somebody else wrote (rows, traces, mappings, file names) cannot act on the terminal or forge a line."""

import ast
import csv
import json
import mmap
import os
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.paths import ROOT
from tests.support.small_stores import commit, opened, point_id

FORGED = "verdict    no regression"
EVIL = f"a\x1b[31mb\x07c\x9bd\u202ee\rf\n{FORGED}"
NAME = EVIL.replace("\n", "").replace("/", "")
"""A file name; a line end in the name of a mapping would be escaped by the kernel."""


def run(capsys: pytest.CaptureFixture[str], *words: object, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command; its stdout. Neither stream may hold a control character or the forged line."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code in codes, err
    assert all(c.isprintable() or c in "\n\t" for c in out + err), out + err
    assert "csv" in words or FORGED not in (out + err).splitlines()
    return out


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in a hostile directory: a run that is ok, and one whose points failed with a hostile error."""
    root = tmp_path / NAME
    for name, status, error in (("first-00000001", "ok", None), ("second-00000002", "failed", EVIL)):
        with opened(root, name, host=EVIL, kernel=EVIL, cpu_model=EVIL) as writer:
            commit(writer, 0, 3, status, error=error)
            commit(writer, 3, 3)
            writer.finish(status, {})
    monkeypatch.chdir(tmp_path)
    return root


def test_rows_of_a_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a store holds is printed visibly by every command and in every format; JSON keeps the exact text."""
    at_store = ("--results", store)
    for words in (
        *(("ls", "--format", form) for form in ("table", "csv", "json", "md")),
        *(("show", "second"), ("show", "second", "--grid"), ("why", point_id(1))),
        *(("query", "failures", "--format", form) for form in ("table", "csv", "md")),
        ("rm", "first", "--yes"),
    ):
        run(capsys, *words, *at_store)
    shown = json.loads(run(capsys, "show", "second", "--json", *at_store))
    assert (shown["host"], shown["failures"][0]["error"]) == (EVIL, EVIL)
    assert json.loads(run(capsys, "query", "SELECT DISTINCT error FROM failures", "--json", *at_store)) == [
        {"error": EVIL}
    ]


def test_two_runs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compare shows the errors of points that failed in the second run, and where the runs' machines differ."""
    words = ("compare", "first", "second", "--results", store)
    assert "a\\u001b[31mb" in run(capsys, *words, codes=(5,))
    compared = json.loads(run(capsys, *words, "--json", codes=(5,)))
    assert {failure["error"] for failure in compared["failures"]} == {EVIL}


def test_results_and_names_of_columns(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values that SQL makes, and names that it gives, are visible on stdout; a file holds them exactly."""
    sql = "SELECT chr(27) || chr(7) || chr(13) AS \"x\x1b[2J\", [chr(27)] AS list, {'k': chr(155)} AS struct"
    for form in ("table", "csv", "json", "md"):
        out = run(capsys, "query", sql, "--format", form, "--results", store)
        assert "\\u001b" in out
    run(capsys, "query", sql, "-o", "rows.csv", "--results", store)
    with Path("rows.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][0] == "\x1b\x07\r"


def test_grid_files(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a grid file is visible in warnings, in locations and in what a run says of it."""
    grid = store.parent / f"{NAME}.yaml"
    text = "schema: sweep/1\nname: evil\nabout: Why?\nfixed: {virt: 4MiB, sparsity: 0.5}\nexclude: [{threads: 8}]\n"
    grid.write_text(text)
    run(capsys, "plan", grid)
    points = json.loads(run(capsys, "plan", grid, "--points", "--json"))
    run(capsys, "why", points[0]["point_id"], grid, "--results", store)
    run(capsys, "launch", grid, "--dry-run")
    run(capsys, "launch", grid, "--executor", "inline", "--results", store)
    run(capsys, "show", "--results", store)
    grid.write_text(text.replace("virt", NAME))
    for words in (("plan", grid), ("launch", grid), ("plan", f"no{NAME}.yaml"), (NAME,), ("ls", f"--{NAME}")):
        run(capsys, *words, codes=(2,))


@pytest.mark.parametrize(
    "text",
    [
        "step,op,start,length,stride\n0,mmap,0,4194304,\n2,dontneed,0,2097152,\n",
        f"step,op,start,length,stride\n0,{NAME},0,4194304,\n",
        f"tid,op,addr,len\n1,mmap,2097152,4194304\n1,MADV_{NAME},2097152,4096\n1,{NAME},2097152,4096\n",
        f"12 munmap(0x200000, 4096) = 0\n12 {NAME}\n12 munmap(0x200000, 4096) = -1 {NAME}\n",
        NAME,
    ],
)
def test_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Names and rows of traces are visible in tables, in notes on skipped rows, and in errors."""
    path = tmp_path / f"{NAME}.csv"
    path.write_text(text, encoding="utf-8")
    for words in (("replay", path), ("replay", path, "--format", "csv"), ("advise", "--trace", path)):
        run(capsys, *words, codes=(0, 2))


def test_mappings_of_a_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of mapped files are visible in every format, and are exact in JSON if they are UTF-8."""
    path = tmp_path / NAME
    path.write_bytes(bytes(mmap.PAGESIZE))
    latin1 = os.fsencode(tmp_path) + b"/caf\xe9"
    os.link(path, latin1)
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), mmap.PAGESIZE),
        open(latin1, "r+b") as other,  # noqa: PTH123 - a name that is not text
        mmap.mmap(other.fileno(), mmap.PAGESIZE),
    ):
        for form in ("csv", "md"):
            run(capsys, "inspect", os.getpid(), "--by", "vma", "--format", form)
        rows = json.loads(run(capsys, "inspect", os.getpid(), "--by", "vma", "--json"))
        run(capsys, "inspect", os.getpid(), "--grid", tmp_path / f"{NAME}.yaml")
    assert {str(path), f"{tmp_path}/caf\\xe9"} <= {row["name"] for row in rows}


def names_used(node: ast.AST) -> set[str]:
    """Names by which a module could print: print, input, and attributes of sys and typer that write."""
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


def test_commands_print_through_output_formats() -> None:
    """No command and no report prints by itself, so that output_formats is the one place to look at."""
    cli = ROOT / "sweep" / "cli"
    for path in (*(cli / "commands").glob("*.py"), *(cli / "command_output").glob("*.py")):
        printing = {"print", "input", "stdout", "stderr", "echo", "secho", "Console"}
        assert not names_used(ast.parse(path.read_text())) & printing, path.name
