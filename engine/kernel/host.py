"""Reads from /proc and /sys what kind of machine this is, and how much memory a point may take."""

import mmap
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.model.arch import MIB

HOST = "host"
"""The accelerator of the running kernel, beside those of guests (engine.guest.qemu_command)."""
PROC, SYS = Path("/proc"), Path("/sys")
RESERVE_BYTES, RESERVE_SHARE = 512 * MIB, 0.05
"""Memory that no point may take: the larger of the two. The share is that of all memory."""

ARCH_OF = {
    ("x86_64", 4096): "x86-64",
    ("aarch64", 4096): "arm64-4k",
    ("aarch64", 16384): "arm64-16k",
    ("aarch64", 65536): "arm64-64k",
}
"""Scenario.arch by machine (uname -m) and page size."""


class UnsupportedMachineError(Exception):
    """No point can run on this machine. The message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties of this machine that decide which points it can run.

    release: of the kernel; machine: as uname -m; thp: setting of transparent huge pages;
    max_map_count, overcommit: the sysctls of these names in vm; threads: most that a point may start; cpus: CPUs that
    this process may use
    """

    release: str
    machine: str
    page_bytes: int
    thp: str
    max_map_count: int
    overcommit: int
    threads: int
    cpus: int

    @property
    def version(self) -> tuple[int, ...]:
        """(6, 12) of release 6.12.3; empty if the release does not begin so."""
        found = re.match(r"(\d+)\.(\d+)", self.release)
        return tuple(map(int, found.groups())) if found else ()

    @property
    def arch(self) -> str | None:
        """Scenario.arch of this machine, None if there is none."""
        return ARCH_OF.get((self.machine, self.page_bytes))


def read_machine() -> Machine:
    """Read the properties of this machine. Raises UnsupportedMachineError unless it runs Linux."""
    if sys.platform != "linux":
        raise UnsupportedMachineError(f"the kernel engine needs Linux; this is {platform.system() or sys.platform}")
    thp = _read(SYS / "kernel/mm/transparent_hugepage/enabled")
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    unlimited = soft == resource.RLIM_INFINITY
    return Machine(
        release=platform.release(),
        machine=platform.machine(),
        page_bytes=mmap.PAGESIZE,
        thp=thp[thp.find("[") + 1 : thp.find("]")] if "[" in thp else "absent",
        max_map_count=int(_read(PROC / "sys/vm/max_map_count") or 65530),
        overcommit=int(_read(PROC / "sys/vm/overcommit_memory") or 0),
        threads=1024 if unlimited else min(1024, soft // 4),
        cpus=len(os.sched_getaffinity(0)),
    )


@dataclass(frozen=True, slots=True)
class AvailableMemory:
    """Bytes that a point may take; `source` names the figure that limits them."""

    free_bytes: int
    source: str


def available_memory() -> AvailableMemory:
    """The least of MemAvailable and the headroom of every memory cgroup of this process, less a reserve."""
    info = dict(line.split(":", 1) for line in _read(PROC / "meminfo").splitlines() if ":" in line)
    total, available = (int(info[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    reserve = max(RESERVE_BYTES, int(total * RESERVE_SHARE))
    least, source = min([(available, "MemAvailable"), *cgroup_headroom()])
    return AvailableMemory(max(least - reserve, 0), source)


def cgroup_headroom() -> Iterator[tuple[int, str]]:
    """(bytes left, name) of each memory cgroup with a limit, from this process's own up to the root; version 1 or 2."""
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, names = SYS / "fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            root, names = SYS / "fs/cgroup", ("memory.max", "memory.current")
        else:
            continue
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(root) and (left := _headroom(group, *names)) is not None:
                yield left, f"the limit of cgroup {'/' if group == root else '/' + str(group.relative_to(root))}"


def _headroom(group: Path, limit_name: str, usage_name: str) -> int | None:
    """Limit less usage in bytes, None without a limit. Inactive page cache does not count as used."""
    limit, usage = _read(group / limit_name), _read(group / usage_name)
    if not limit.isdigit() or not usage.isdigit() or int(limit) >= 1 << 62:
        return None
    stat = dict(line.split() for line in _read(group / "memory.stat").splitlines() if line.count(" ") == 1)
    return int(limit) - int(usage) + int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _read(path: Path) -> str:
    """Stripped text of a file, "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
