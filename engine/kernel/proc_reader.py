"""A waiting process seen from outside: VmPTE and VmRSS of /proc/PID/status, and every entry that is not none."""

import fcntl
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.kernel.host import UnfitError

PAGEMAP_SCAN = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg), Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst)."""
PRESENT, SWAPPED, GUARD = 1 << 3, 1 << 4, 1 << 8
REGIONS = 1 << 16


@dataclass(frozen=True, slots=True)
class Status:
    """KiB of all page tables, and of resident memory by the kernel's own counter."""

    vm_pte_kib: int
    vm_rss_kib: int


def status(pid: int) -> Status:
    """Raises UnfitError where /proc is not Linux's own."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "VmPTE" not in fields or "VmRSS" not in fields:
        raise UnfitError("/proc/PID/status shows no VmPTE and VmRSS: this is a sandbox and not Linux itself")
    return Status(int(fields["VmPTE"].split()[0]), int(fields["VmRSS"].split()[0]))


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of a range that are not none. ranges: int64[n, 2], first and end page, in order."""

    present: int
    ranges: NDArray[np.int64]


class Scanner:
    """Reads entries through /proc/PID/pagemap. `guards`: guard markers are asked for too (Linux 6.15)."""

    def __init__(self, pid: int, guards: bool) -> None:
        self._file = Path(f"/proc/{pid}/pagemap").open("rb", buffering=0)  # noqa: SIM115 - closed in __exit__
        self._wanted = PRESENT | SWAPPED | (GUARD if guards else 0)
        self._regions: NDArray[np.uint64] = np.zeros((REGIONS, 3), np.uint64)

    def entries(self, base: int, length: int, page: int) -> Entries:
        """All entries of [base, base + length). Raises OSError where the kernel lacks the call."""
        found, at, end = [np.zeros((0, 3), np.int64)], base, base + length
        while at < end:
            regions, walk_end = self._scan(at, end)
            found.append(regions)
            # With more than 512 regions asked for, walk_end may be an older one; the last region is further then.
            at = max(walk_end, int(regions[-1, 1]) if len(regions) else 0)
        all_ = np.concatenate(found)
        ranges = (all_[:, :2] - base) // page
        present = (all_[:, 2] & PRESENT) != 0
        return Entries(int((ranges[present, 1] - ranges[present, 0]).sum()), ranges)

    def _scan(self, start: int, end: int) -> tuple[NDArray[np.int64], int]:
        vector = self._regions
        wanted = self._wanted
        words = (96, 0, start, end, 0, vector.ctypes.data, len(vector), 0, 0, 0, wanted, wanted)
        argument = bytearray(struct.pack("=12Q", *words))
        count = fcntl.ioctl(self._file, PAGEMAP_SCAN, argument, True)
        walk_end = struct.unpack("=12Q", argument)[4]
        return vector[:count].astype(np.int64), walk_end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def spanned(ranges: NDArray[np.int64], span: int) -> int:
    """How many aligned spans (in pages) hold a page of these ranges, which lie in order and apart."""
    first, last = ranges[:, 0] // span, (ranges[:, 1] - 1) // span
    return int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())
