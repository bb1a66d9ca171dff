"""Lines of a text file or a .gz, one at a time: bounded memory, every failure a UserError with the row."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from sweep.common.errors import UserError, printable

LONGEST_LINE = 1 << 16
STDIN = "-"
_BLOCK = 1 << 18


class Source(Protocol):
    """What bytes come from: a file, standard input, or what is in memory."""

    def read1(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class TextLines:
    """Numbered lines, without their ends. `row` is the last one read, `cut` whether it had no line end."""

    def __init__(self, path: str, data: bytes | None = None) -> None:
        """`data`: what is read instead of the file, which then only gives its name."""
        self.path = "stdin" if path == STDIN else printable(path)
        self.row, self.cut = 0, False
        self._file = _open(path) if data is None else _unpacked(io.BufferedReader(io.BytesIO(data)))
        self._lines = self._read()

    def __enter__(self) -> "TextLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """From where the last iteration stopped."""
        return self._lines

    def blocks(self) -> Iterator[bytes]:
        """The text as it is, unpacked, instead of lines."""
        while block := self._next():
            yield block

    def error(self, message: str, row: int = 0) -> UserError:
        return UserError(f"{self.path}: row {row or self.row}: {message}")

    def _read(self) -> Iterator[tuple[int, str]]:
        """Block by block, which is several times as fast as line by line."""
        rest = b""
        while block := self._next():
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield from self._numbered(whole)
            if len(rest) > LONGEST_LINE:
                break
        if rest:
            self.cut = True
            yield from self._numbered(rest)

    def _numbered(self, lines: bytes) -> Iterator[tuple[int, str]]:
        for line in lines.decode("utf-8", "replace").split("\n"):
            self.row += 1
            if len(line) > LONGEST_LINE:
                raise self.error(f"longer than {LONGEST_LINE} bytes")
            yield self.row, line.rstrip("\r")

    def _next(self) -> bytes:
        try:
            return self._file.read1(_BLOCK)
        except (EOFError, zlib.error, OSError) as error:
            reason = "the compressed data ends early" if isinstance(error, EOFError) else str(error)
            raise UserError(f"{self.path}: after row {self.row}: {reason}") from error


def _open(path: str) -> Source:
    try:
        # Rows closes it. Both are buffered readers, which can look ahead without reading.
        return _unpacked(cast(io.BufferedReader, sys.stdin.buffer if path == STDIN else Path(path).open("rb")))
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror}") from error


def _unpacked(raw: io.BufferedReader) -> Source:
    """The same, or what a .gz holds."""
    return cast(Source, gzip.open(raw)) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
