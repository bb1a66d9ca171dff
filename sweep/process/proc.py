"""Reads sizes and mappings of a live process from /proc. Errors become UserErrors."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sweep.common.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessSizes:
    """Name and sizes, in KiB, from /proc/PID/status."""

    command: str
    vm_size_kib: int
    vm_rss_kib: int
    vm_pte_kib: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """One VMA, a line of /proc/PID/maps: addresses [start, end) in bytes, `rights` such as rw-p, file or [name]."""

    start: int
    end: int
    rights: str
    name: str

    @property
    def is_anonymous(self) -> bool:
        """Whether it is writable private memory without a file, as allocators map it."""
        is_private = self.rights.startswith("rw") and self.rights.endswith("p")
        return is_private and not self.name.startswith(("/", "[v", "[s"))

    @property
    def is_device(self) -> bool:
        """Whether it is device memory: pagemap leaves VM_PFNMAP mappings out, though they may have tables."""
        return self.name.startswith("[vvar") or (
            self.name.startswith("/dev/") and not self.name.startswith(("/dev/shm/", "/dev/zero", "/dev/hugepages"))
        )


@dataclass(frozen=True, slots=True)
class SmapsEntry:
    """One VMA of /proc/PID/smaps: addresses [start, end) in bytes, VmFlags, and THPeligible."""

    start: int
    end: int
    flags: frozenset[str]
    thp_eligible: bool  #: whether the kernel may put a huge page there; True before Linux 5.0, which does not say so


def read_guarded(pid: int, read: Callable[[], T]) -> T:
    """Return `read()`. Turns its OSErrors (no such process, permission denied) into UserErrors."""
    try:
        return read()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise UserError(f"no process {pid}: it does not exist, or it ended while it was read") from error
    except PermissionError as error:
        if os.geteuid() == 0:
            reason = "not even by root here: a container or a security module forbids it"
        else:
            reason = "run as its owner (if it is dumpable, see ptrace(2)) or as root"
        raise UserError(f"process {pid} may not be read: {reason}") from error
    except OSError as error:
        raise UserError(f"process {pid}: {error.strerror or error}") from error


def _read_lines(path: Path) -> list[str]:
    """The lines of a file in /proc. Names in it may have any bytes but \\n: bytes that are not UTF-8 become `\\xff`."""
    text = path.read_bytes().decode("utf-8", "backslashreplace")
    return [line for line in text.split("\n") if line]


def read_sizes(pid: int) -> ProcessSizes:
    """Return name and sizes of a process. Raises UserError if it does not exist or has no memory of its own."""
    lines = read_guarded(pid, partial(_read_lines, Path(f"/proc/{pid}/status")))
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    state = fields.get("State", "").strip()
    if "VmPTE" not in fields:
        reason = "has ended" if state[:1] in "ZX" else "is a kernel thread"
        raise UserError(f"process {pid} {reason}: it has no page tables of its own")
    kib = {name: int(fields[name].split()[0]) for name in ("VmSize", "VmRSS", "VmPTE")}
    return ProcessSizes(fields["Name"].strip(), kib["VmSize"], kib["VmRSS"], kib["VmPTE"])


def read_vm_pte_kib(pid: int) -> int:
    """Return VmPTE of a process in KiB, in a tenth of the time of `read_sizes`. Raises UserError as that does."""
    _, _, rest = read_guarded(pid, Path(f"/proc/{pid}/status").read_bytes).partition(b"\nVmPTE:")
    return int(rest.split(maxsplit=1)[0]) if rest else read_sizes(pid).vm_pte_kib


def read_anon_huge_kib(pid: int) -> int:
    """AnonHugePages of all mappings, in KiB, from /proc/PID/smaps_rollup (Linux 4.14). Raises UserError."""
    lines = read_guarded(pid, partial(_read_lines, Path(f"/proc/{pid}/smaps_rollup")))
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))


def read_thp_setting() -> str:
    """The word in brackets in /sys/kernel/mm/transparent_hugepage/enabled; `never` for a kernel without huge pages."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "never"
    return text.partition("[")[2].partition("]")[0]


def has_thp_disabled(pid: int) -> bool:
    """Whether PR_SET_THP_DISABLE is set: THP_enabled of /proc/PID/status (Linux 5.0) is 0. Raises UserError."""
    lines = read_guarded(pid, partial(_read_lines, Path(f"/proc/{pid}/status")))
    return any(line.split() == ["THP_enabled:", "0"] for line in lines)


def read_smaps(pid: int) -> list[SmapsEntry]:
    """The VMAs by address. Raises UserError."""
    return list(parse_smaps(read_guarded(pid, partial(_read_lines, Path(f"/proc/{pid}/smaps")))))


def parse_smaps(lines: list[str]) -> Iterator[SmapsEntry]:
    """The VMAs in the lines of a file /proc/PID/smaps. VmFlags is the last line of each."""
    start, end, eligible = 0, 0, True
    for line in lines:
        if line[0] in "0123456789abcdef":  # names of fields begin with a capital
            first, _, last = line.split(maxsplit=1)[0].partition("-")
            start, end, eligible = int(first, 16), int(last, 16), True
        elif line.startswith("THPeligible:"):
            eligible = line.split()[1] != "0"
        elif line.startswith("VmFlags:"):
            yield SmapsEntry(start, end, frozenset(line.split()[1:]), eligible)


def read_mappings(pid: int) -> list[Mapping]:
    """The VMAs by address, without [vsyscall], which is the kernel's. Raises UserError."""
    lines = read_guarded(pid, partial(_read_lines, Path(f"/proc/{pid}/maps")))
    return [mapping for mapping in parse_maps(lines) if mapping.name != "[vsyscall]"]


def parse_maps(lines: list[str]) -> Iterator[Mapping]:
    """The VMAs in the lines of a file /proc/PID/maps."""
    for line in lines:
        fields = line.split(maxsplit=5)
        start, _, end = fields[0].partition("-")
        yield Mapping(int(start, 16), int(end, 16), fields[1], fields[5] if len(fields) > 5 else "")


def hugetlb_prefixes() -> tuple[str, ...]:
    """Starts of the names of mappings in hugetlbfs, and of MAP_HUGETLB's: they have no PTE tables."""
    lines = _read_lines(Path("/proc/mounts"))
    return ("/anon_hugepage", *(f[1].rstrip("/") + "/" for line in lines if (f := line.split())[2] == "hugetlbfs"))


def process_exists(pid: int) -> bool:
    return os.path.isdir(f"/proc/{pid}")  # noqa: PTH112 - no Path for one question
