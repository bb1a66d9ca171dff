"""A live process as /proc shows it: sizes, VMAs. Read-only; what is missing or forbidden is a UserError."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sweep.common.errors import UserError

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Sizes:
    """KiB, from /proc/PID/status."""

    command: str
    vm_size_kib: int
    vm_rss_kib: int
    vm_pte_kib: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """A line of /proc/PID/maps: one VMA."""

    start: int
    end: int
    rights: str
    name: str

    @property
    def anonymous(self) -> bool:
        """Private memory of no file, writable: what an allocator maps."""
        return (
            self.rights.startswith("rw") and self.rights.endswith("p") and not self.name.startswith(("/", "[v", "[s"))
        )

    @property
    def unseen(self) -> bool:
        """Device memory: the page map leaves VM_PFNMAP mappings out, though they may have tables."""
        return self.name.startswith("[vvar") or (
            self.name.startswith("/dev/") and not self.name.startswith(("/dev/shm/", "/dev/zero", "/dev/hugepages"))
        )


def guarded(pid: int, read: Callable[[], Read]) -> Read:
    """What `read` returns; the ways in which a process cannot be read as a UserError."""
    try:
        return read()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise UserError(f"no process {pid}: it never was, or it ended while it was read") from error
    except PermissionError as error:
        raise UserError(
            f"process {pid} may not be read: run as its owner (if it is dumpable, see ptrace(2)) or as root"
        ) from error
    except OSError as error:
        raise UserError(f"process {pid}: {error.strerror or error}") from error


def sizes(pid: int) -> Sizes:
    """Raises UserError: no such process, or one without memory of its own."""
    text = guarded(pid, Path(f"/proc/{pid}/status").read_text)
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    state = fields.get("State", "").strip()
    if "VmPTE" not in fields:
        what = "has ended" if state[:1] in "ZX" else "is a kernel thread"
        raise UserError(f"process {pid} {what}: it has no page tables of its own")
    kib = {name: int(fields[name].split()[0]) for name in ("VmSize", "VmRSS", "VmPTE")}
    return Sizes(fields["Name"].strip(), kib["VmSize"], kib["VmRSS"], kib["VmPTE"])


def mappings(pid: int) -> list[Mapping]:
    """VMAs by address, without [vsyscall], which is the kernel's. Raises UserError."""
    lines = guarded(pid, Path(f"/proc/{pid}/maps").read_text).splitlines()
    return [mapping for mapping in _parsed(lines) if mapping.name != "[vsyscall]"]


def _parsed(lines: list[str]) -> Iterator[Mapping]:
    for line in lines:
        fields = line.split(maxsplit=5)
        start, _, end = fields[0].partition("-")
        yield Mapping(int(start, 16), int(end, 16), fields[1], fields[5] if len(fields) > 5 else "")


def hugetlb_folders() -> tuple[str, ...]:
    """Where hugetlbfs is mounted; its VMAs, and MAP_HUGETLB's, have no PTE tables."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return ("/anon_hugepage", *(f[1].rstrip("/") + "/" for line in lines if (f := line.split())[2] == "hugetlbfs"))


def exists(pid: int) -> bool:
    return os.path.isdir(f"/proc/{pid}")  # noqa: PTH112 - no Path for one question
