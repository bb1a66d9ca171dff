"""Reads VmPTE and VmRSS of a waiting process from /proc/PID/status, and its page table entries from its pagemap."""

import fcntl
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.kernel.host import UnsupportedMachineError

PAGEMAP_SCAN = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg), Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst)."""
PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_PFNZERO, PAGE_IS_GUARD = 1 << 3, 1 << 4, 1 << 5, 1 << 8
MAX_REGIONS = 1 << 16
"""Regions that one ioctl may return."""


@dataclass(frozen=True, slots=True)
class Status:
    """Sizes in /proc/PID/status. vm_pte_kib: all page tables; vm_rss_kib: the kernel's counter, which is not exact."""

    vm_pte_kib: int
    vm_rss_kib: int


def read_status(pid: int) -> Status:
    """Read the sizes of a process. Raises UnsupportedMachineError where /proc is not that of Linux."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "VmPTE" not in fields or "VmRSS" not in fields:
        raise UnsupportedMachineError(
            "/proc/PID/status shows no VmPTE and VmRSS: this is a sandbox and not Linux itself"
        )
    return Status(int(fields["VmPTE"].split()[0]), int(fields["VmRSS"].split()[0]))


def read_anon_huge_kib(pid: int) -> int:
    """AnonHugePages of all its mappings, from /proc/PID/smaps_rollup (Linux 4.14)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("AnonHugePages:")[2].split()[0])


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of an address range that are not none.

    present: number of pages that are present, without zero pages, which hold no memory
    ranges: int64[n, 2], first and end page of each run of entries of one category, in order
    """

    present: int
    ranges: NDArray[np.int64]


class Scanner:
    """Reads entries by PAGEMAP_SCAN on /proc/PID/pagemap. `markers`: guard markers too (Linux 6.15)."""

    def __init__(self, pid: int, markers: bool) -> None:
        self._file = Path(f"/proc/{pid}/pagemap").open("rb", buffering=0)  # noqa: SIM115 - closed in __exit__
        self._categories = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | (PAGE_IS_GUARD if markers else 0)
        self._regions: NDArray[np.uint64] = np.zeros((MAX_REGIONS, 3), np.uint64)

    def scan(self, base: int, length: int, page: int) -> Entries:
        """The entries of [base, base + length), in bytes. Raises OSError where the kernel lacks the call."""
        parts, at, end = [np.zeros((0, 3), np.int64)], base, base + length
        while at < end:
            regions, walk_end = self._scan_once(at, end)
            parts.append(regions)
            # If more than 512 regions are asked for, walk_end can be behind the last region that is returned.
            at = max(walk_end, int(regions[-1, 1]) if len(regions) else 0)
        found = np.concatenate(parts)
        ranges = (found[:, :2] - base) // page
        present = (found[:, 2] & (PAGE_IS_PRESENT | PAGE_IS_PFNZERO)) == PAGE_IS_PRESENT
        return Entries(int((ranges[present, 1] - ranges[present, 0]).sum()), ranges)

    def _scan_once(self, start: int, end: int) -> tuple[NDArray[np.int64], int]:
        """Regions, int64[*, 3] (start, end, categories), and the address up to which the kernel has looked."""
        regions, categories = self._regions, self._categories
        # struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, and four category masks.
        words = (96, 0, start, end, 0, regions.ctypes.data, len(regions), 0, 0, 0, categories, categories)
        argument = bytearray(struct.pack("=12Q", *words))
        count = fcntl.ioctl(self._file, PAGEMAP_SCAN, argument, True)
        walk_end = struct.unpack("=12Q", argument)[4]
        return regions[:count].astype(np.int64), walk_end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def count_spans(ranges: NDArray[np.int64], span: int) -> int:
    """Number of aligned spans of `span` pages that hold a page of the ranges, which are in order and do not overlap."""
    first, last = ranges[:, 0] // span, (ranges[:, 1] - 1) // span
    return int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())
