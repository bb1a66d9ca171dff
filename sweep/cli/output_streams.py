"""The streams that commands print to: they make control characters visible, so that no text acts on the terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from sweep.common.errors import printable_lines


class VisibleStream:
    """A text stream that writes to `raw` with all control characters but line ends and tabs spelled out: `\\u001b`."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        self.raw.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.raw.writelines(map(printable_lines, lines))

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def visible_control_characters() -> Iterator[None]:
    """Context in which sys.stdout and sys.stderr are VisibleStreams."""
    before: Any = sys.stdout, sys.stderr
    visible: Any = VisibleStream(sys.stdout), VisibleStream(sys.stderr)
    sys.stdout, sys.stderr = visible
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
