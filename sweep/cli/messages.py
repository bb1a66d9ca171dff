"""What a command says on stderr beside its data: notes, warnings and errors.

In a terminal a message is wrapped to its width, without breaking commands and URLs. Elsewhere, as in a log, it is one
line, which tools can search and count.
"""

import sys
from contextlib import suppress
from typing import TextIO

from sweep.cli.page import page_width
from sweep.cli.program_name import as_called, command_pattern
from sweep.cli.tables.text_wrapping import wrapped
from sweep.common.errors import printable

INDENT = "  "
"""Before the second and later lines of a message."""


def message_lines(text: str, out: TextIO) -> list[str]:
    """A message as the lines that are written to `out`. Line ends in `text` are made visible: it forges no line."""
    width = page_width(out) if out.isatty() else None
    return wrapped(printable(as_called(text)), width, INDENT, command_pattern())


def print_note(text: str = "") -> None:
    """Print a message to stderr: what a reader should know beside the data."""
    for line in message_lines(text, sys.stderr):
        print(line, file=sys.stderr)


def print_error(message: str) -> None:
    """Print the message of an error to stderr. A stream that cannot be written to is no further error."""
    with suppress(OSError):
        print_note(f"sweep: {message}")
