"""What a command prints passes here: control characters become visible, so that no text drives the terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from sweep.common.errors import printable_lines


class VisibleStream:
    """A text stream that spells control characters out, but for line ends and tabs. `raw`: the stream below."""

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
    """sys.stdout and sys.stderr are VisibleStreams inside."""
    before: Any = sys.stdout, sys.stderr
    visible: Any = VisibleStream(sys.stdout), VisibleStream(sys.stderr)
    sys.stdout, sys.stderr = visible
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
