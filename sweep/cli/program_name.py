"""How this program was called, so that the commands that it suggests run as they are printed."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = "sweep"
CALLED_AS = "PTSWEEP_CALLED_AS"
"""Set by scripts/sweep to its own name as it was called."""

_program, _suggestion, _command = NAME, re.compile("(?!)"), re.compile("(?!)")  # match nothing, not even ""


def remember_program(commands: Iterable[str]) -> None:
    """Take the name from the environment or from sys.argv; `commands`: the words that may follow it."""
    global _program, _suggestion, _command
    _program = os.environ.get(CALLED_AS) or _name_of(Path(sys.argv[0]))
    names = "|".join(commands)
    _suggestion = re.compile(rf"(?<![\w/.-])sweep (?=(?:{names})\b)")
    _command = re.compile(rf"(?<![\w/.-]){re.escape(_program)} (?:{names})\b[^;,()]*")


def _name_of(path: Path) -> str:
    """`sweep` if a shell finds this program under that name, else its path; `python -m sweep` for the module."""
    if path.name == "__main__.py":
        python = Path(sys.executable)
        is_found = shutil.which(python.name) == str(python)
        return f"{shlex.quote(python.name if is_found else str(python))} -m sweep"
    found = shutil.which(path.name)
    return path.name if found and Path(found).samefile(path) else shlex.quote(str(path))


def as_called(text: str) -> str:
    """`text` with every command `sweep NAME` in it spelled as the program was called: `scripts/sweep NAME`."""
    return _suggestion.sub(lambda _: f"{_program} ", text)


def command_pattern() -> re.Pattern[str]:
    """Matches a command that `as_called` has spelled, with its arguments up to a comma, semicolon or parenthesis."""
    return _command
