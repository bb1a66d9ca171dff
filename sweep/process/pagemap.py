"""Which entries of a process's page tables are not none: PAGEMAP_SCAN (Linux 6.7), else /proc/PID/pagemap.

Read-only. Both give runs of pages [start, end) of one kind, by address, as arrays; holes cost next to nothing with
PAGEMAP_SCAN, and eight bytes a page without it.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

# include/uapi/linux/fs.h
FILE, PRESENT, SWAPPED, PFNZERO, HUGE, GUARD = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 8
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_ARGUMENT = struct.Struct("12Q")  # size flags start end walk_end vec vec_len max_pages inverted mask anyof return
_REGION = np.dtype([("start", "<u8"), ("end", "<u8"), ("kind", "<u8")])
_REGIONS = 1 << 14
_UNKNOWN_TO_THE_KERNEL = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS)

# Documentation/admin-guide/mm/pagemap.rst
_PM_FILE, _PM_SWAP, _PM_PRESENT, _PM_GUARD = (
    np.uint64(1 << 61),
    np.uint64(1 << 62),
    np.uint64(1 << 63),
    np.uint64(1 << 58),
)
_CHUNK_PAGES = 1 << 17


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of pages by address: start, end in bytes (int64[n]), kind (int64[n], the bits above)."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.int64]


class PageMap:
    """/proc/PID/pagemap, opened once. `sees_guards`, `scans`: what this kernel can tell, after the first read."""

    def __init__(self, pid: int) -> None:
        """Raises OSError."""
        self._file: BinaryIO = open(f"/proc/{pid}/pagemap", "rb", buffering=0)  # noqa: SIM115, PTH123
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.scans, self.sees_guards = True, True

    def close(self) -> None:
        self._file.close()

    def runs(self, start: int, end: int) -> Iterator[Runs]:
        """What is not none in [start, end), in batches. Raises OSError."""
        if self.scans:
            try:
                yield from self._scan(start, end)
                return
            except OSError as error:
                if error.errno not in _UNKNOWN_TO_THE_KERNEL:
                    raise
                if self.sees_guards:
                    self.sees_guards = False  # PAGE_IS_GUARD came with 6.15; nothing was read yet
                    yield from self.runs(start, end)
                    return
                self.scans, self.sees_guards = False, True
        yield from self._read(start, end)

    def _scan(self, start: int, end: int) -> Iterator[Runs]:
        wanted = PRESENT | SWAPPED | (GUARD if self.sees_guards else 0)
        shown = wanted | FILE | PFNZERO | HUGE
        regions = np.empty(_REGIONS, _REGION)
        while start < end:
            vector = regions.ctypes.data
            argument = _ARGUMENT.pack(_ARGUMENT.size, 0, start, end, 0, vector, _REGIONS, 0, 0, 0, wanted, shown)
            found = fcntl.ioctl(self._file, _PAGEMAP_SCAN, bytearray(argument))
            if found:
                part = regions[:found]
                yield Runs(*(part[name].astype(np.int64) for name in ("start", "end", "kind")))
            if found < _REGIONS:
                return
            # Not from walk_end: with vec_len above 512 the last call returns a stale one (6.18).
            start = int(regions[found - 1]["end"])

    def _read(self, start: int, end: int) -> Iterator[Runs]:
        for chunk in range(start, end, _CHUNK_PAGES * self._page):
            pages = min(end - chunk, _CHUNK_PAGES * self._page) // self._page
            yield runs_of(np.frombuffer(self._words(chunk // self._page, pages), "<u8"), chunk, self._page)

    def _words(self, first: int, pages: int) -> bytes:
        data = b""
        while len(data) < pages * 8:
            more = os.pread(self._file.fileno(), pages * 8 - len(data), first * 8 + len(data))
            if not more:
                raise ProcessLookupError(errno.ESRCH, "it ended while it was read")
            data += more
        return data


def runs_of(entries: NDArray[np.uint64], start: int, page: int) -> Runs:
    """Runs of one kind in consecutive words of /proc/PID/pagemap. Zero pages and huge ones do not show there."""
    kind = np.zeros(len(entries), np.int64)
    for bit, name in ((_PM_PRESENT, PRESENT), (_PM_SWAP, SWAPPED), (_PM_FILE, FILE), (_PM_GUARD, GUARD)):
        kind |= np.where(entries & bit != 0, name, 0)
    kind[kind & (PRESENT | SWAPPED | GUARD) == 0] = 0
    edges = np.flatnonzero(np.diff(kind)) + 1
    first = np.concatenate(([0], edges))
    last = np.concatenate((edges, [len(kind)]))
    held = kind[first] != 0
    return Runs(start + first[held] * page, start + last[held] * page, kind[first[held]])
