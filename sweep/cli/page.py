"""The width of the page that is printed on: the terminal's, that of a file or pipe, or none with --wide."""

import os
from contextlib import suppress
from typing import TextIO

PLAIN_WIDTH = 80
"""Columns of a page that is no terminal."""
_is_wide = False


def set_wide(is_wide: bool) -> None:
    """`--wide`: from now on tables and sentences are as wide as they must be, whatever the terminal."""
    global _is_wide
    _is_wide = is_wide


def page_width(out: TextIO) -> int | None:
    """Columns of a line: COLUMNS, or those of the terminal; PLAIN_WIDTH for a file or pipe; None with --wide."""
    if _is_wide:
        return None
    return terminal_width(out) if out.isatty() else PLAIN_WIDTH


def terminal_width(out: TextIO) -> int:
    """The variable COLUMNS, else the columns of the terminal that `out` writes to, else PLAIN_WIDTH."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError):
        return os.get_terminal_size(out.fileno()).columns or PLAIN_WIDTH
    return PLAIN_WIDTH
