"""The command plot."""

import sys
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.support.launched_store import ZAPS, launched


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    launched(root, ZAPS)
    return root


def test_bars_in_the_terminal(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without options: the last run, in at most 24 lines of 80 columns."""
    assert main(["plot", "--results", str(results)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (len(lines) <= 24, max(map(len, lines)) <= 80, err) == (True, True, "")
    assert any(line.startswith("zap 2 MiB") for line in lines)


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "html", "SVG"])
def test_files(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    """The format follows the ending; the line that says so goes to stderr."""
    path = tmp_path / f"a.{ending}"
    words = ["--x", "zap", "--y", "saved_percent", "--by", "policy", "--facet", "cluster"]
    assert main(["plot", "last", *words, "-o", str(path), "--results", str(results)]) == 0
    assert capsys.readouterr() == ("", f"wrote {path}\n")
    begin = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!DOCTYPE html>"}[ending.lower()]
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.jpg"], "-o a.jpg: unknown ending '.jpg'; did you mean '.png'? known: .svg, .png, .pdf, .html"),
        (["-o", "picture"], "-o picture: no ending; known: .svg, .png, .pdf, .html"),
        (["-o", "no/such/a.svg"], "-o no/such/a.svg: no folder no/such"),
        (["-o", "a.svg", "--x", "zapp"], "--x: unknown column 'zapp'; did you mean 'zap'?"),
        (["-o", "a.svg", "--y", "zap_ns"], "no row has a value of zap_ns; nothing to draw"),
        (["-o", "a.svg", "--query", "failures"], "nothing to draw: no row for zaps-"),
        (["-o", "a.svg", "--query", "savigns"], "unknown query 'savigns'; did you mean 'savings'?"),
        (["-o", "a.svg", "--query", "DROP TABLE latest"], "SQL: "),
        (["-o", "a.svg", "--cost", "nothing"], "nothing"),
    ],
)
def test_bad_input(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    """One line, exit code 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *words, "--results", str(results)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), list(tmp_path.iterdir())) == ("", 1, [])
    assert message in err


def test_a_device_is_written_to(results: Path, tmp_path: Path) -> None:
    """A link to a device, such as /dev/stdout, is written to, not replaced by a file; one to a file stays a link."""
    for target, name in ((Path("/dev/null"), "device.svg"), (tmp_path / "real.svg", "link.svg")):
        link = tmp_path / name
        link.symlink_to(target)
        for _ in range(2):
            assert main(["plot", "-o", str(link), "--results", str(results)]) == 0
        assert (link.is_symlink(), link.readlink()) == (True, target)
    assert (tmp_path / "real.svg").read_bytes().startswith(b"<svg")


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty store says what to do."""
    assert main(["plot", "--results", str(tmp_path)]) == 2
    assert "sweep launch GRID" in capsys.readouterr().err


def test_sql_and_columns(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--sql prints a query that `sweep query` takes; --columns lists what can be drawn."""
    assert main(["plot", "--sql", "--results", str(results)]) == 0
    sql = capsys.readouterr().out.partition("\nSELECT")
    assert main(["query", sql[1].strip() + sql[2], "--results", str(results)]) == 0
    assert "saved_percent" in capsys.readouterr().out
    assert main(["plot", "--columns", "--results", str(results)]) == 0
    assert "added_ns_a_call" in capsys.readouterr().out


def test_other_commands_do_not_load_it() -> None:
    """The libraries of pictures and pages are imported by the commands that draw, when they draw."""
    import subprocess

    code = "import sys; from sweep.cli.main import main; main(['--help']); main(['grids'])\n"
    code += "print({'vl_convert', 'jinja2', 'sweep.plot'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "set()"
