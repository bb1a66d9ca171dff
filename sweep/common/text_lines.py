"""Read a text file or a .gz line by line, in bounded memory. Every failure is a UserError with the file and the row."""

import errno
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import Protocol, cast

from sweep.common.errors import UserError, printable

MAX_LINE_CHARACTERS = 1 << 16
STDIN = "-"
_BLOCK_BYTES = 1 << 18


class ByteStream(Protocol):
    """An open file, standard input, or bytes in memory."""

    def read1(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class TextLines:
    """Iterator over (row number from 1, line without its line end) of a file, of standard input (`-`), or of `data`.

    `row` is the number of the last line read. `last_line_unterminated` is true once a last line without a line end was
    read. Bytes that are not UTF-8 become U+FFFD. Opening and reading raise UserError: a path that is no readable
    regular file, damaged compressed data, a line above MAX_LINE_CHARACTERS.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        """`data`, plain or gzip, is read in place of the file; messages then still name `path`."""
        self.path = "stdin" if path == STDIN else printable(path)
        self.row, self.last_line_unterminated = 0, False
        self._stream = _open(path) if data is None else _decompressed(io.BufferedReader(io.BytesIO(data)))
        self._lines = self._read_lines()

    def __enter__(self) -> "TextLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """A second iteration goes on where the first one stopped."""
        return self._lines

    def read_blocks(self) -> Iterator[bytes]:
        """The decompressed bytes, block by block, for callers that want no lines."""
        while block := self._read_block():
            yield block

    def error(self, message: str) -> UserError:
        """A UserError about the last row read."""
        return UserError(f"{self.path}: row {self.row}: {message}")

    def _read_lines(self) -> Iterator[tuple[int, str]]:
        """Decoding and splitting whole blocks is several times as fast as reading single lines."""
        rest = b""
        while block := self._read_block():
            complete, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield from self._numbered(complete)
            if len(rest) > MAX_LINE_CHARACTERS:
                break
        if rest:
            self.last_line_unterminated = True
            yield from self._numbered(rest)

    def _numbered(self, lines: bytes) -> Iterator[tuple[int, str]]:
        for line in lines.decode("utf-8", "replace").split("\n"):
            self.row += 1
            if len(line) > MAX_LINE_CHARACTERS:
                raise self.error(f"longer than {MAX_LINE_CHARACTERS} bytes")
            yield self.row, line.rstrip("\r")

    def _read_block(self) -> bytes:
        try:
            return self._stream.read1(_BLOCK_BYTES)
        except (EOFError, zlib.error, OSError) as error:
            reason = "the compressed data ends early" if isinstance(error, EOFError) else str(error)
            raise UserError(f"{self.path}: after row {self.row}: {reason}") from error


def open_regular_file(path: str) -> io.BufferedReader:
    """Open a file for reading in binary mode. Raises OSError, also for what is no regular file.

    A named pipe without a writer would block for ever, and a device may never end. O_NONBLOCK makes the open itself
    return at once; it has no effect on a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _open(path: str) -> ByteStream:
    try:
        file = cast(io.BufferedReader, sys.stdin.buffer) if path == STDIN else open_regular_file(path)
        return _decompressed(file)
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror}") from error


def _decompressed(raw: io.BufferedReader) -> ByteStream:
    """`raw` itself, or a reader of its content if it starts with the magic number of gzip. Consumes no bytes of it."""
    return cast(ByteStream, gzip.open(raw)) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
