"""Messages on stderr: wrapped to a terminal's width, one line elsewhere, commands and URLs in one piece."""

import io
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from sweep.cli import program_name
from sweep.cli.main import COMMANDS
from sweep.cli.messages import message_lines
from tests.paths import ROOT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program was called as scripts/sweep, in a terminal of 40 columns."""
    monkeypatch.setenv(program_name.CALLED_AS, "scripts/sweep")
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("_program", "_suggestion", "_command"):
        monkeypatch.setattr(program_name, name, getattr(program_name, name))
    program_name.remember_program(COMMANDS)


@pytest.mark.usefixtures("called")
def test_wrapped_in_a_terminal() -> None:
    """No line is wider than the terminal, later ones are indented, and a command that fits a line is in one."""
    text = "sweep: no run in /srv/results yet; the next command: sweep launch GRID --results x; or another"
    assert message_lines(text, Terminal()) == [
        "sweep: no run in /srv/results yet; the",
        "  next command:",
        "  scripts/sweep launch GRID --results x;",
        "  or another",
    ]


@pytest.mark.usefixtures("called")
def test_one_line_elsewhere() -> None:
    """In a file or pipe a message is one line, whatever its length."""
    text = "sweep: " + "word " * 60 + "end\nforged"
    assert message_lines(text, io.StringIO()) == ["sweep: " + "word " * 60 + "end\\nforged"]


@pytest.mark.usefixtures("called")
def test_what_cannot_be_broken() -> None:
    """A URL stays whole though it is wider than the terminal; a command that is too wide breaks at its spaces."""
    url = "https://docs.kernel.org/mm/page_tables.html#a-long-anchor"
    assert url in [line.strip() for line in message_lines(f"see {url} for more about it", Terminal())]
    command = "sweep query failures --run first-0123abcd --results somewhere"
    lines = message_lines(f"1 failed: {command}", Terminal())
    assert max(map(len, lines)) <= 40
    assert " ".join(line.strip() for line in lines) == f"1 failed: scripts/{command}"


@pytest.mark.parametrize(
    "words", [("query", "nosuch"), ("lanch",), ("launch", "--fres"), ("rm", "--results", "nowhere")]
)
def test_errors_of_commands(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The lines in a real terminal of 50 columns are those of the one line in a pipe."""
    command = [sys.executable, "-m", "sweep", *words]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    in_pipe = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    leader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 50))
    # The output is smaller than the buffer of a pseudo terminal, so that it can be read after the end.
    code = subprocess.run(command, cwd=tmp_path, env=environment, stderr=terminal, check=False).returncode
    shown = os.read(leader, 4096).decode().replace("\r\n", "\n").splitlines()
    os.close(leader)
    os.close(terminal)
    assert code == in_pipe.returncode == 2
    assert len(in_pipe.stderr.splitlines()) == 1
    assert max(map(len, shown)) <= 50
    assert " ".join(line.strip() for line in shown) == in_pipe.stderr.strip()
