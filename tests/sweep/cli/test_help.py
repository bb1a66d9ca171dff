"""The help of every command fits a terminal, says what the command does, and has an example that is right."""

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command

from sweep import __version__
from sweep.cli.main import COMMANDS, LazyGroup, main
from tests.paths import ROOT

WIDTH = 80


def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out.splitlines()


def command_of(name: str) -> Any:
    """The command as typer calls it."""
    import typer

    app = typer.Typer(cls=LazyGroup)
    app.callback()(lambda: None)
    return get_command(app).get_command(None, name)  # type: ignore[attr-defined]


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of any help is longer than 80 columns, and at most two summaries of commands need a second line."""
    for words in ([], *([name] for name in COMMANDS)):
        assert max(map(len, help_of(capsys, monkeypatch, *words))) <= WIDTH, words
    summaries = "\n".join(help_of(capsys, monkeypatch)).partition("Commands:\n")[2]
    assert len(summaries.splitlines()) <= len(COMMANDS) + 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first paragraph is one or two sentences, and the last line an example that the command accepts."""
    lines = help_of(capsys, monkeypatch, name)
    paragraph = " ".join(line.strip() for line in lines[2 : lines.index("", 2)])
    assert paragraph.endswith(".")
    assert 1 <= len(re.findall(r"\.(?: [A-Z]|$)", paragraph)) <= 2, paragraph
    example = shlex.split(lines[-1].strip().removeprefix("Example: "))
    assert example[:2] == ["sweep", name]
    with command_of(name).make_context(name, example[2:]) as context:
        assert context.command.name == name


@pytest.mark.parametrize("module", ["sweep", "sweep.cli"])
def test_python_m(module: str) -> None:
    """The command line also runs as a module, with the exit codes of the script."""
    for words, code, out in ((["--version"], 0, f"sweep {__version__}\n"), (["lanch"], 2, "")):
        command = [sys.executable, "-m", module, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, out)
