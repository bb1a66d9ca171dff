"""Read a text file, also a compressed one, line by line in bounded memory. Failures are UserErrors with their place."""

import codecs
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import Protocol, cast

from sweep.common.decompression import ERRORS, decompressed
from sweep.common.errors import UserError, printable

MAX_LINE_CHARACTERS = 1 << 16
STDIN = "-"
_BLOCK_BYTES = 1 << 18
_HEAD_BYTES, _TAIL_BYTES = 1 << 15, 1 << 12
"""What is kept of a line above MAX_LINE_CHARACTERS: its beginning and its end."""


class ByteStream(Protocol):
    """An open file, standard input, or bytes in memory."""

    def read1(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class TextLines:
    """Iterator over (row number from 1, line without its line end) of a file, of standard input (`-`), or of `data`.

    - `row`: the number of the last line read
    - `last_line_unterminated`: true once a last line without a line end was read
    - `strict`: set it to make a line above MAX_LINE_CHARACTERS an error; otherwise its middle is left out

    Bytes that are not UTF-8 become U+FFFD. A byte order mark is left out; UTF-16 is read where one announces it.
    Opening and reading raise UserError: a path that is no readable regular file, damaged compressed data.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        """`data`, plain or compressed, is read in place of the file; messages then still name `path`."""
        self.path = "stdin" if path == STDIN else printable(path)
        self.row, self.last_line_unterminated, self.strict = 0, False, False
        self._stream = _open(path) if data is None else cast(ByteStream, decompressed(_buffered(data)))
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
        rest, is_long = b"", False  # the beginning of the next line, and whether its middle was left out
        for block in self._utf8_blocks():
            first, newline, others = block.partition(b"\n")
            rest += first
            if len(rest) > MAX_LINE_CHARACTERS:
                rest, is_long = self._shortened(rest), True
            if not newline:
                continue
            yield self._next_line(rest.decode("utf-8", "replace"), is_long)
            complete, newline, rest = others.rpartition(b"\n")
            is_long = False
            if newline:
                for line in complete.decode("utf-8", "replace").split("\n"):
                    yield self._next_line(line, False)
        if rest:
            self.last_line_unterminated = True
            yield self._next_line(rest.decode("utf-8", "replace"), is_long)

    def _next_line(self, line: str, is_long: bool) -> tuple[int, str]:
        self.row += 1
        if is_long or len(line) > MAX_LINE_CHARACTERS:
            if self.strict:
                raise self.error(f"longer than {MAX_LINE_CHARACTERS} bytes")
            line = line[:_HEAD_BYTES] + line[-_TAIL_BYTES:] if len(line) > MAX_LINE_CHARACTERS else line
        return self.row, line.rstrip("\r")

    def _shortened(self, line: bytes) -> bytes:
        if self.strict:
            self.row += 1
            raise self.error(f"longer than {MAX_LINE_CHARACTERS} bytes")
        return line[:_HEAD_BYTES] + line[-_TAIL_BYTES:]

    def _utf8_blocks(self) -> Iterator[bytes]:
        """The blocks without a byte order mark, as UTF-8 where the mark is that of UTF-16."""
        first = self._read_block()
        while len(first) < len(codecs.BOM_UTF8) and (more := self._read_block()):
            first += more
        if not first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            if first:
                yield first.removeprefix(codecs.BOM_UTF8)
            yield from self.read_blocks()
            return
        decode = codecs.getincrementaldecoder("utf-16")("replace").decode
        yield decode(first).encode("utf-8", "replace")
        for block in self.read_blocks():
            yield decode(block).encode("utf-8", "replace")

    def _read_block(self) -> bytes:
        try:
            return self._stream.read1(_BLOCK_BYTES)
        except ERRORS as error:
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
        return cast(ByteStream, decompressed(file))
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror}") from error


def _buffered(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))
