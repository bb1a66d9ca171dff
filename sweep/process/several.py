"""Count the page tables of several processes: by pid, all of the machine, or those of a cgroup."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sweep.common.errors import UserError, one_line
from sweep.common.text_lines import open_regular_file
from sweep.process.proc import process_exists
from sweep.process.table_census import take_census

CGROUPS = Path("/sys/fs/cgroup")
_HIERARCHIES = ("", "unified", "memory", "systemd")
"""Where processes are listed below CGROUPS: version 2 alone, or beside the hierarchies of version 1."""


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """What a census says of one process. `empty_kib`: least and most memory of PTE tables without an entry, in KiB."""

    pid: int
    command: str
    vm_size_kib: int
    vm_rss_kib: int
    vm_pte_kib: int
    tables_with_entry: int
    empty_kib: tuple[int, int]


def all_pids() -> list[int]:
    """The processes of /proc, ascending."""
    return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def cgroup_pids(name: str) -> list[int]:
    """The processes of a cgroup and of those below it, ascending. `name`: a path, or what follows CGROUPS.

    Raises UserError if there is no such cgroup, or if it has no process.
    """
    below = name.removeprefix(str(CGROUPS)).strip("/")
    roots = [CGROUPS / hierarchy / below for hierarchy in _HIERARCHIES]
    root = next((root for root in roots if (root / "cgroup.procs").is_file()), None)
    if root is None or ".." in root.parts:
        raise UserError(f"--cgroup {one_line(name)}: no cgroup {one_line(str(roots[0]))}; systemd-cgls lists them")
    pids: set[int] = set()
    for path in [root, *(folder for folder in root.rglob("*") if folder.is_dir())]:
        try:
            with open_regular_file(str(path / "cgroup.procs")) as file:
                pids.update(int(line) for line in file.read().split())
        except OSError:  # it was removed meanwhile, or is of the threaded kind, whose processes its parent lists
            continue
    pids.discard(0)  # processes of another PID namespace
    if not pids:
        raise UserError(f"--cgroup {one_line(name)}: has no process")
    return sorted(pids)


def take_lines(pids: Iterable[int], *, skip: bool) -> tuple[list[ProcessLine], dict[str, int]]:
    """The lines of processes, most empty tables first, and how many processes were left out, by reason.

    Those that end meanwhile are left out. skip: also those that cannot be read or have no memory of their own, instead
    of raising UserError.
    """
    lines, left_out = [], dict[str, int]()
    pids = list(pids)
    ran_before = set(filter(process_exists, pids))
    for pid in pids:
        try:
            lines.append(_line(pid))
        except UserError as error:
            if not skip and (pid not in ran_before or process_exists(pid)):
                raise
            reason = re.sub(r"\s*\b(?:no )?process \d+:?\s*", "", str(error), count=1)
            left_out[reason] = left_out.get(reason, 0) + 1
    return sorted(lines, key=lambda line: (-line.empty_kib[1], -line.vm_pte_kib, line.pid)), left_out


def left_out_notes(left_out: dict[str, int]) -> Iterator[str]:
    """A line for each reason for which processes were left out."""
    for reason, count in left_out.items():
        which = f"{count:,} processes left out: each" if count > 1 else "1 process left out: it"
        yield f"{which} {reason.removeprefix('it ')}"


def _line(pid: int) -> ProcessLine:
    census = take_census(pid)
    least, most = census.empty
    return ProcessLine(
        pid,
        census.sizes.command,
        census.sizes.vm_size_kib,
        census.sizes.vm_rss_kib,
        census.sizes.vm_pte_kib,
        census.needed,
        (least * census.table_kib, most * census.table_kib),
    )
