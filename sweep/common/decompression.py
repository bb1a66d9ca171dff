"""Read gzip, xz, bzip2 and Zstandard as a stream in bounded memory. The first bytes tell which it is, not the name."""

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # the standard library's module of Python 3.14, for older versions

MAX_XZ_BYTES = 256 << 20
"""Most memory that an xz file may ask for; `xz -9` asks for 65 MiB."""
_BLOCK_BYTES = 1 << 16


class Decompressor(Protocol):
    """The methods that the decompressors of bz2, lzma and zstd have in common."""

    eof: bool
    unused_data: bytes
    needs_input: bool

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor, which keeps its input in `unconsumed_tail`, with the methods of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max(max_length, 0))

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail


_FORMATS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", _Gzip),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\x28\xb5\x2f\xfd", zstd.ZstdDecompressor),  # refuses windows above 128 MiB by itself
)
ENDINGS = (".gz", ".xz", ".bz2", ".zst")
ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""What a damaged file raises. EOFError: it ends early."""


class DecompressedStream:
    """The content of a compressed file: one stream after the other, as `cat a.gz b.gz` makes them."""

    def __init__(self, file: io.BufferedReader, new: Callable[[], Decompressor]) -> None:
        self._file, self._new = file, new
        self._decompressor = new()
        self._input = b""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. Raises one of ERRORS."""
        while True:
            if self._decompressor.eof:
                self._input = self._decompressor.unused_data or self._file.read1(_BLOCK_BYTES)
                if not self._input.strip(b"\0"):  # padding between and after streams, as tapes and xz have it
                    if not self._input:
                        return b""
                    self._input = b""
                    continue
                self._decompressor = self._new()
            elif self._decompressor.needs_input and not self._input:
                self._input = self._file.read1(_BLOCK_BYTES)
                if not self._input:
                    raise EOFError
            data, self._input = self._decompressor.decompress(self._input, size), b""
            if data:
                return data

    def close(self) -> None:
        self._file.close()


def decompressed(file: io.BufferedReader) -> io.BufferedReader | DecompressedStream:
    """A reader of the content of `file`; `file` itself if it is not compressed. Consumes no bytes. Raises OSError."""
    start = file.peek(6)[:6]
    for magic, new in _FORMATS:
        if start.startswith(magic):
            return DecompressedStream(file, cast(Callable[[], Decompressor], new))
    return file
