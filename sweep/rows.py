"""Lines of a text file or a .gz, one at a time: bounded memory, every failure a UserError with the row."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from sweep.errors import UserError

LONGEST_LINE = 1 << 16
STDIN = "-"


class Rows:
    """Numbered lines, without their ends. `row` is the last one read, `cut` whether it had no line end."""

    def __init__(self, path: str) -> None:
        self.path = "stdin" if path == STDIN else path
        self.row, self.cut = 0, False
        self._file = _open(path)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while True:
            line = self._next()
            if not line:
                return
            self.row += 1
            self.cut = not line.endswith(b"\n")
            if len(line) > LONGEST_LINE:
                raise self.error(f"longer than {LONGEST_LINE} bytes")
            yield self.row, line.rstrip(b"\r\n").decode("utf-8", "replace")

    def error(self, message: str, row: int = 0) -> UserError:
        return UserError(f"{self.path}: row {row or self.row}: {message}")

    def _next(self) -> bytes:
        try:
            return self._file.readline(LONGEST_LINE + 2)
        except (EOFError, zlib.error, OSError) as error:
            reason = "the compressed data ends early" if isinstance(error, EOFError) else str(error)
            raise UserError(f"{self.path}: after row {self.row}: {reason}") from error


def _open(path: str) -> IO[bytes]:
    try:
        # Rows closes it. Both are buffered readers, which can look ahead without reading.
        raw = cast(io.BufferedReader, sys.stdin.buffer if path == STDIN else Path(path).open("rb"))  # noqa: SIM115
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return cast(IO[bytes], gzip.open(raw)) if packed else raw
