"""What this machine is, and how much memory a point may take on it. Reads /proc and /sys, changes nothing."""

import mmap
import os
import platform
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.model.arch import MIB

PROC, SYS = Path("/proc"), Path("/sys")
RESERVE_BYTES, RESERVE_SHARE = 512 * MIB, 0.05
"""What is always left to others: the larger of the two, the share being one of all memory."""

ARCH_OF = {
    ("x86_64", 4096): "x86-64",
    ("aarch64", 4096): "arm64-4k",
    ("aarch64", 16384): "arm64-16k",
    ("aarch64", 65536): "arm64-64k",
}


class UnfitError(Exception):
    """No point at all can run on this machine; one line says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides which points the live kernel can show. `arch` is the scenario's word, None if it has none."""

    release: str
    machine: str
    page_bytes: int
    thp: str
    map_count: int
    overcommit: int
    threads: int
    cpus: int

    @property
    def arch(self) -> str | None:
        return ARCH_OF.get((self.machine, self.page_bytes))


def look() -> Machine:
    """This machine. Raises UnfitError where it does not run Linux."""
    if sys.platform != "linux":
        raise UnfitError(f"the kernel engine needs Linux; this is {platform.system() or sys.platform}")
    thp = _text(SYS / "kernel/mm/transparent_hugepage/enabled")
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    unlimited = soft == resource.RLIM_INFINITY
    return Machine(
        release=platform.release(),
        machine=platform.machine(),
        page_bytes=mmap.PAGESIZE,
        thp=thp[thp.find("[") + 1 : thp.find("]")] if "[" in thp else "absent",
        map_count=int(_text(PROC / "sys/vm/max_map_count") or 65530),
        overcommit=int(_text(PROC / "sys/vm/overcommit_memory") or 0),
        threads=1024 if unlimited else min(1024, soft // 4),
        cpus=len(os.sched_getaffinity(0)),
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a point may take, and whose word that is."""

    free_bytes: int
    says: str


def memory() -> Memory:
    """The least of MemAvailable and what each cgroup above us has left, less a reserve."""
    info = dict(line.split(":", 1) for line in _text(PROC / "meminfo").splitlines() if ":" in line)
    total, available = (int(info[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    reserve = max(RESERVE_BYTES, int(total * RESERVE_SHARE))
    found = [(available, "MemAvailable"), *cgroup_rooms()]
    least, says = min(found)
    return Memory(max(least - reserve, 0), says)


def cgroup_rooms() -> Iterator[tuple[int, str]]:
    """(bytes left, name) of this process's memory cgroups up to the root, version 1 or 2, that have a limit."""
    for line in _text(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, names = SYS / "fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            root, names = SYS / "fs/cgroup", ("memory.max", "memory.current")
        else:
            continue
        here = root / path.lstrip("/")
        for group in (here, *here.parents):
            if group.is_relative_to(root) and (room := _room(group, *names)) is not None:
                yield room, f"the limit of cgroup {'/' if group == root else '/' + str(group.relative_to(root))}"


def _room(group: Path, limit_name: str, usage_name: str) -> int | None:
    """Limit less usage; page cache that nobody uses does not count as used."""
    limit, usage = _text(group / limit_name), _text(group / usage_name)
    if not limit.isdigit() or not usage.isdigit() or int(limit) >= 1 << 62:
        return None
    stat = dict(line.split() for line in _text(group / "memory.stat").splitlines() if line.count(" ") == 1)
    return int(limit) - int(usage) + int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
