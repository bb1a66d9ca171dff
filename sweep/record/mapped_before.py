"""Calls that give a process the mappings that it has, as /proc/PID/maps and smaps show them."""

from engine.traces.vmas import (
    DONTDUMP,
    DONTFORK,
    EXECUTE,
    LOCKED,
    MERGEABLE,
    NORESERVE,
    RANDOM,
    READ,
    SEQUENTIAL,
    WIPEONFORK,
    WRITE,
)
from sweep.process.proc import Mapping
from sweep.trace_readers.calls import Call

_RIGHTS = (("r", READ), ("w", WRITE), ("x", EXECUTE))
_MAPPED_FLAGS = {"lo": LOCKED, "nr": NORESERVE}
_ADVISED_FLAGS = {
    "dc": DONTFORK,
    "wf": WIPEONFORK,
    "dd": DONTDUMP,
    "mg": MERGEABLE,
    "sr": SEQUENTIAL,
    "rr": RANDOM,
}
_HUGE_ADVICE = {"hg": "hugepage", "nh": "nohugepage"}
"""What VmFlags of smaps mean (show_smap_vma_flags in fs/proc/task_mmu.c)."""


def calls_of(mapping: Mapping, vm_flags: frozenset[str], *, has_tables: bool) -> list[Call]:
    """The mmap of a mapping, and the advice that its VmFlags show. has_tables: false for hugetlb."""
    start, length = mapping.start, mapping.end - mapping.start
    rights = sum(bit for letter, bit in _RIGHTS if letter in mapping.rights)
    is_anonymous = mapping.rights.endswith("p") and not mapping.name.startswith(("/", "[v"))
    kept = sum(bit for name, bit in _MAPPED_FLAGS.items() if name in vm_flags)
    advised = sum(bit for name, bit in _ADVISED_FLAGS.items() if name in vm_flags)
    calls = [Call(0, "mmap", start, length, rights, is_anonymous, has_tables=has_tables, flags=kept)]
    if advised:
        calls.append(Call(0, "flags", start, length, flags=advised))
    calls += [Call(0, advice, start, length) for name, advice in _HUGE_ADVICE.items() if name in vm_flags]
    return calls
