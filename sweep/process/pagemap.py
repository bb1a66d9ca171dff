"""Reads which entries of a process's page tables are not none: by PAGEMAP_SCAN (Linux 6.7), else /proc/PID/pagemap.

Read-only. Both yield runs of pages [start, end) of one kind, by address. Holes cost almost nothing with PAGEMAP_SCAN,
and 8 bytes a page without it.
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

# include/uapi/linux/fs.h: PAGE_IS_*
FILE, PRESENT, SWAPPED, PFNZERO, HUGE, GUARD = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 8
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_PM_SCAN_ARG = struct.Struct("12Q")  # size flags start end walk_end vec vec_len max_pages inverted mask anyof return
_PAGE_REGION = np.dtype([("start", "<u8"), ("end", "<u8"), ("kind", "<u8")])
_MAX_REGIONS = 1 << 14
_NOT_SUPPORTED = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS)

# Documentation/admin-guide/mm/pagemap.rst
_PM_GUARD, _PM_FILE, _PM_SWAP, _PM_PRESENT = (np.uint64(1 << bit) for bit in (58, 61, 62, 63))
_CHUNK_PAGES = 1 << 17


@dataclass(frozen=True, slots=True)
class PageRuns:
    """n runs of pages by address: start and end in bytes, kind as PAGE_IS_* bits; int64[n] each."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.int64]


class PageMap:
    """/proc/PID/pagemap of one process, open.

    `has_scan`: the kernel has PAGEMAP_SCAN. `shows_guards`: it shows guard markers. Known after the first read.
    """

    def __init__(self, pid: int) -> None:
        """Raises OSError."""
        self._file: BinaryIO = open(f"/proc/{pid}/pagemap", "rb", buffering=0)  # noqa: SIM115, PTH123
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self.has_scan, self.shows_guards = True, True

    def close(self) -> None:
        self._file.close()

    def runs(self, start: int, end: int) -> Iterator[PageRuns]:
        """The pages in [start, end) whose entries are not none, in batches by address. Raises OSError."""
        if self.has_scan:
            try:
                yield from self._scan(start, end)
                return
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                if self.shows_guards:
                    self.shows_guards = False  # PAGE_IS_GUARD came with 6.15; the kernel refused it before any region
                    yield from self.runs(start, end)
                    return
                self.has_scan, self.shows_guards = False, True
        yield from self._read(start, end)

    def _scan(self, start: int, end: int) -> Iterator[PageRuns]:
        anyof_mask = PRESENT | SWAPPED | (GUARD if self.shows_guards else 0)
        return_mask = anyof_mask | FILE | PFNZERO | HUGE
        regions = np.empty(_MAX_REGIONS, _PAGE_REGION)
        while start < end:
            vec = regions.ctypes.data
            argument = _PM_SCAN_ARG.pack(
                _PM_SCAN_ARG.size, 0, start, end, 0, vec, _MAX_REGIONS, 0, 0, 0, anyof_mask, return_mask
            )
            count = fcntl.ioctl(self._file, _PAGEMAP_SCAN, bytearray(argument))
            if count:
                filled = regions[:count]
                yield PageRuns(*(filled[name].astype(np.int64) for name in ("start", "end", "kind")))
            if count < _MAX_REGIONS:
                return
            # Not walk_end: with vec_len above 512 the last call returns a stale one (6.18).
            start = int(regions[count - 1]["end"])

    def _read(self, start: int, end: int) -> Iterator[PageRuns]:
        for chunk in range(start, end, _CHUNK_PAGES * self._page_bytes):
            pages = min(end - chunk, _CHUNK_PAGES * self._page_bytes) // self._page_bytes
            entries = np.frombuffer(self._read_entries(chunk // self._page_bytes, pages), "<u8")
            yield page_runs(entries, chunk, self._page_bytes)

    def _read_entries(self, first: int, pages: int) -> bytes:
        """The 8-byte entries of pages [first, first + pages)."""
        data = b""
        while len(data) < pages * 8:
            more = os.pread(self._file.fileno(), pages * 8 - len(data), first * 8 + len(data))
            if not more:
                raise ProcessLookupError(errno.ESRCH, "it ended while it was read")
            data += more
        return data


def page_runs(entries: NDArray[np.uint64], start: int, page_bytes: int) -> PageRuns:
    """Runs of one kind in the pagemap entries of consecutive pages, the first at address `start`.

    Zero pages and huge pages cannot be told from others there.
    """
    kind = np.zeros(len(entries), np.int64)
    for bit, name in ((_PM_PRESENT, PRESENT), (_PM_SWAP, SWAPPED), (_PM_FILE, FILE), (_PM_GUARD, GUARD)):
        kind |= np.where(entries & bit != 0, name, 0)
    kind[kind & (PRESENT | SWAPPED | GUARD) == 0] = 0
    edges = np.flatnonzero(np.diff(kind)) + 1
    first = np.concatenate(([0], edges))
    last = np.concatenate((edges, [len(kind)]))
    not_none = kind[first] != 0
    return PageRuns(start + first[not_none] * page_bytes, start + last[not_none] * page_bytes, kind[first[not_none]])
