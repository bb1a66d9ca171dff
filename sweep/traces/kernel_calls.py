"""What system calls mean to the kernel: from the arguments that a tracer prints to calls on an address space.

Numbers count where a tracer has no name: `0x8 /* MADV_??? */` is MADV_FREE. They are those of x86-64 and arm64
(include/uapi/asm-generic/mman-common.h, mman.h, include/uapi/linux/mman.h, sched.h).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

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
from sweep.common.errors import one_line
from sweep.traces.calls import Call, CallBegun, SkippedRows, SystemCall

MAX_ADDRESS = 1 << 48
"""End of what a process of x86-64 (2^47) or arm64 (2^48) can map with four levels of tables."""
MEMORY_CALLS = {
    "mmap": 6,
    "mmap2": 6,
    "old_mmap": 6,
    "munmap": 2,
    "madvise": 3,
    "mprotect": 3,
    "pkey_mprotect": 3,
    "mremap": 4,
    "brk": 1,
    "process_madvise": 4,
    "prctl": 2,
    "mlock": 2,
    "mlock2": 3,
    "munlock": 2,
    "mlockall": 1,
    "munlockall": 0,
    "mbind": 3,
}
"""The calls that count, and how many of their arguments are read."""
PROCESS_CALLS = ("clone", "clone3", "fork", "vfork", "execve", "execveat", "exit", "exit_group")
STARTS = ("clone", "clone3", "fork", "vfork")
UNKNOWN_EFFECT = {
    "shmat": "maps System V memory of unknown size",
    "shmdt": "unmaps System V memory of unknown size",
    "remap_file_pages": "changes a file mapping",
    "map_shadow_stack": "maps a shadow stack",
}
"""Calls that change what is mapped and are not counted."""
PROGRAM_32_BIT = "a 32-bit program: counted with the tables of a 64-bit kernel, which are those of x86-64"

_PROT = {"PROT_NONE": 0, "PROT_READ": READ, "PROT_WRITE": WRITE, "PROT_EXEC": 4}
_MAP = {
    "MAP_SHARED": 0x1,
    "MAP_PRIVATE": 0x2,
    "MAP_SHARED_VALIDATE": 0x3,
    "MAP_ANONYMOUS": 0x20,
    "MAP_ANON": 0x20,
    "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000,
    "MAP_POPULATE": 0x8000,
    "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000,
}
_MREMAP = {"MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4}
_CLONE = {"CLONE_VM": 0x100, "CLONE_VFORK": 0x4000, "CLONE_THREAD": 0x10000}
CLONE_VM, CLONE_VFORK, CLONE_THREAD = _CLONE.values()
_ADVICE = {
    "MADV_NORMAL": 0,
    "MADV_RANDOM": 1,
    "MADV_SEQUENTIAL": 2,
    "MADV_WILLNEED": 3,
    "MADV_DONTNEED": 4,
    "MADV_FREE": 8,
    "MADV_REMOVE": 9,
    "MADV_DONTFORK": 10,
    "MADV_DOFORK": 11,
    "MADV_MERGEABLE": 12,
    "MADV_UNMERGEABLE": 13,
    "MADV_HUGEPAGE": 14,
    "MADV_NOHUGEPAGE": 15,
    "MADV_DONTDUMP": 16,
    "MADV_DODUMP": 17,
    "MADV_WIPEONFORK": 18,
    "MADV_KEEPONFORK": 19,
    "MADV_COLD": 20,
    "MADV_PAGEOUT": 21,
    "MADV_POPULATE_READ": 22,
    "MADV_POPULATE_WRITE": 23,
    "MADV_DONTNEED_LOCKED": 24,
    "MADV_COLLAPSE": 25,
    "MADV_HWPOISON": 100,
    "MADV_SOFT_OFFLINE": 101,
    "MADV_GUARD_INSTALL": 102,
    "MADV_GUARD_REMOVE": 103,
}
_ADVICE_NAMES = {number: name for name, number in _ADVICE.items()}
ADVICE_OPS = {
    14: "hugepage",
    15: "nohugepage",
    25: "collapse",
    4: "dontneed",
    24: "dontneed",
    8: "free",
    102: "guard_install",
    103: "guard_remove",
    22: "read",
    23: "write",
}
_FLAGS_OF_ADVICE = {
    0: (0, SEQUENTIAL | RANDOM),
    1: (RANDOM, SEQUENTIAL),
    2: (SEQUENTIAL, RANDOM),
    10: (DONTFORK, 0),
    11: (0, DONTFORK),
    12: (MERGEABLE, 0),
    13: (0, MERGEABLE),
    16: (DONTDUMP, 0),
    17: (0, DONTDUMP),
    18: (WIPEONFORK, 0),
    19: (0, WIPEONFORK),
}
"""(flags that the advice sets, flags that it clears): madvise_vma_behavior"""
_ACT_DESPITE_HOLES = ("madvise", "process_madvise", "mprotect")
"""Calls that fail with ENOMEM at a hole after they acted: advice on all that is mapped, mprotect up to the hole."""
_NOT_COUNTED = {
    9: "MADV_REMOVE frees pages of shared memory, which stay in RES here",
    21: "MADV_PAGEOUT may swap out pages, which stay in RES here",
}
_STOP_AT_HOLES = (22, 23)
"""MADV_POPULATE_READ and _WRITE act up to the first hole."""
_REFUSED_BY_LOCKS = (4, 102)
"""MADV_DONTNEED and MADV_GUARD_INSTALL act up to the first VMA under mlock, and fail there with EINVAL."""
_COMMENT = re.compile(r"/\*[^*]*\*/", re.ASCII)
_VECTOR = re.compile(r"iov_base=(0x[0-9a-f]{1,16}|NULL), iov_len=(0x[0-9a-f]{1,16}|\d{1,20})", re.ASCII)


class HasBreak(Protocol):
    """A process that knows its program break."""

    def set_break(self, row: int, requested: int, new_break: int) -> Call | None: ...


class MemoryCalls:
    """Turns system calls on memory into Calls. Counts those without use in `skipped`.

    `beyond_x86`: how many calls mapped memory at an address that arm64 has and x86-64 with four levels has not.
    """

    def __init__(self, skipped: SkippedRows) -> None:
        self._skipped = skipped
        self.beyond_x86 = self._start_bits = 0

    def decode(self, call: SystemCall, process: HasBreak) -> Sequence[Call]:
        """The Calls of a system call of MEMORY_CALLS by `process`; none for one that changed nothing."""
        try:
            changes = self._decode(call, process)
        except ValueError:
            self._skipped.add_doubt(f"{call.name} with arguments that are no numbers", call.row)
            return ()
        if isinstance(changes, str):
            if changes:
                self._skipped.add(changes, call.row)
            return ()
        for change in changes:
            if reason := self.reason_to_refuse(change):
                self._skipped.add(reason, call.row)
                return [change for change in changes if not self.reason_to_refuse(change)]
        return changes

    @property
    def has_large_pages(self) -> bool:
        """Whether what was mapped beyond x86-64's addresses shows pages of 16 or 64 KiB: all of it begins on one."""
        return self.beyond_x86 >= 8 and not self._start_bits % (16 << 10)

    def reason_to_refuse(self, call: Call) -> str:
        """Why the kernel would have refused this call, or an empty string."""
        if call.op == "thp_disable":
            return ""
        end = call.start + call.length
        if call.old_length:
            end = max(end, call.moved_from + call.old_length)
        if end > MAX_ADDRESS and call.op != "munmap":
            return "beyond what a process can map"
        if call.start % 4096:
            return "start is not on a 4096-byte page"
        if not call.length:
            return f"{call.op} of no bytes"
        if end > MAX_ADDRESS >> 1 and call.op in ("mmap", "mremap"):
            self.beyond_x86 += 1
            self._start_bits |= call.start
        return ""

    def _decode(self, call: SystemCall, process: HasBreak) -> Sequence[Call] | str:
        """The Calls, or the reason to skip the row. Raises ValueError for an argument that should be a number."""
        row, _, name, arguments, result, error = call
        if len(arguments) < MEMORY_CALLS[name]:
            self._skipped.add_doubt(f"{name} with {len(arguments)} arguments", row)
            return ""
        stops_at = ""
        if error == "EINVAL" and name == "madvise" and advice_number(arguments[2]) in _REFUSED_BY_LOCKS:
            stops_at = "lock"
        elif error == "ENOMEM" and name in ("mlock", "mlock2", "munlock"):
            stops_at = "hole"
        elif result is None or (error and not (error == "ENOMEM" and name in _ACT_DESPITE_HOLES)):
            if name == "mremap" and error == "EFAULT":
                self._skipped.add_doubt("mremap that failed midway may have moved a part (Linux 6.17)", row)
            return f"{name} that failed"
        result = result or 0
        if name == "process_madvise":
            return self._vector(row, arguments, max(result, 0))
        if name == "prctl":
            if _COMMENT.sub("", arguments[0]) in ("PR_SET_VMA", "0x53564d41"):
                self._skipped.add_doubt(
                    "PR_SET_VMA_ANON_NAME keeps neighbouring mappings apart, which is not counted", row
                )
                return ""
            return _thp_disable(row, arguments)
        if name in ("mlockall", "munlockall"):
            is_current = name == "munlockall" or "MCL_CURRENT" in arguments[0]
            return (_lock(row, name == "mlockall", 0, MAX_ADDRESS >> 1),) if is_current else ""
        start = number(arguments[0])
        if name == "brk":
            change = process.set_break(row, start, result)
            return () if change is None else (change,)
        length = number(arguments[1])
        if name == "madvise":
            advice = advice_number(arguments[2])
            if advice in _FLAGS_OF_ADVICE:
                flags, cleared = _FLAGS_OF_ADVICE[advice]
                return (Call(row, "flags", start, length, flags=flags, cleared=cleared),) if length else ""
            if advice in _NOT_COUNTED:
                self._skipped.add_doubt(_NOT_COUNTED[advice], row)
                return ""
            if advice not in ADVICE_OPS:
                return f"{advice_name(advice)} gives nothing back"
            if error and advice in _STOP_AT_HOLES:
                stops_at = "hole"
            return (Call(row, ADVICE_OPS[advice], start, length, stops_at=stops_at, has_holes=bool(error)),)
        if name == "munmap":
            return (Call(row, "munmap", start, length),)
        if name in ("mlock", "mlock2", "munlock"):
            offset = start % 4096
            lock = _lock(row, name != "munlock", start - offset, length + offset)
            return (lock._replace(stops_at=stops_at, populates=lock.populates and not stops_at),)
        if name == "mbind":
            policy = "" if arguments[2] in ("MPOL_DEFAULT", "0") else ", ".join(arguments[2:])
            return (Call(row, "policy", start, length, policy=policy),)
        if name in ("mmap", "mmap2", "old_mmap"):
            if name != "mmap":
                self._skipped.remark(PROGRAM_32_BIT)
            flags = flag_bits("MAP_", arguments[3])
            anonymous = bool(flags & 0x20) and flags & 0x3 == 2
            rights = flag_bits("PROT_", arguments[2]) & (READ | WRITE | EXECUTE)
            kept = (NORESERVE if flags & 0x4000 else 0) | (LOCKED if flags & 0x2000 else 0)
            is_stack, has_tables, populates = bool(flags & 0x20000), not flags & 0x40000, bool(flags & 0xA000)
            return (
                Call(
                    row,
                    "mmap",
                    result,
                    length,
                    rights,
                    anonymous,
                    is_stack,
                    has_tables,
                    flags=kept,
                    populates=populates,
                ),
            )
        if name == "mremap":
            kept = bool(flag_bits("MREMAP_", arguments[3]) & 4) or not length
            new_length = number(arguments[2])
            return (Call(row, "mremap", result, new_length, moved_from=start, old_length=length, keeps_old=kept),)
        return (Call(row, "mprotect", start, length, flag_bits("PROT_", arguments[2]) & (READ | WRITE | EXECUTE)),)

    def _vector(self, row: int, arguments: list[str], advised: int) -> Sequence[Call] | str:
        """process_madvise: a call for each range of the vector, as far as `advised` bytes reach, and for one more.

        That one failed, most likely as it has a hole; what is mapped of it was acted on, as with madvise. Advice that
        gives memory back is allowed for the caller's own memory only (process_madvise_remote_valid), so which process
        the descriptor means does not matter.
        """
        advice = advice_number(arguments[3])
        calls: list[Call] = []
        if advice not in ADVICE_OPS:
            return f"{advice_name(advice)} gives nothing back"
        for base, size in _VECTOR.findall(arguments[1]):
            length = number(size)
            has_holes = length > advised
            op = ADVICE_OPS[advice]
            calls.append(Call(row, op, number(base), length, continues=bool(calls), has_holes=has_holes))
            advised -= length
            if has_holes:
                return calls
        if advised > 0:
            self._skipped.add_doubt("process_madvise with ranges that are not shown (strace -v shows them)", row)
        return calls


def _lock(row: int, is_locked: bool, start: int, length: int) -> Call:
    """mlock or munlock; a lock makes the pages present (mm_populate)."""
    flags, cleared = (LOCKED, 0) if is_locked else (0, LOCKED)
    return Call(row, "flags", start, length, flags=flags, cleared=cleared, populates=is_locked)


def _thp_disable(row: int, arguments: list[str]) -> Sequence[Call]:
    """PR_SET_THP_DISABLE; other settings of a process do not matter. Raises ValueError as number does."""
    if _without_comment(arguments[0]).removeprefix("PR_") not in ("SET_THP_DISABLE", "0x29", "41"):
        return ()
    flags = arguments[2] if len(arguments) > 2 else "0"
    excepts_advised = "EXCEPT_ADVISED" in flags or flags in ("0x2", "2")
    disabled = ("unadvised" if excepts_advised else "all") if number(arguments[1]) else ""
    return (Call(row, "thp_disable", 0, 0, thp_disabled=disabled),)


def _without_comment(text: str) -> str:
    """Return the text without strace's comment, as in `0x4 /* MADV_DONTNEED */`, and without blanks at its ends."""
    return _COMMENT.sub("", text).strip()


def number(text: str) -> int:
    """NULL, a hexadecimal or a decimal number, perhaps with a comment. Raises ValueError for anything else."""
    try:
        value = int(text, 0)
    except ValueError:
        if text == "NULL":
            return 0
        value = int(_without_comment(text), 0)
    if value < 0:
        raise ValueError
    return value


@lru_cache(4096)
def advice_number(text: str) -> int:
    """MADV_DONTNEED, DONTNEED, 0x4 or `0x4 /* MADV_DONTNEED */`. Raises ValueError for a name that is unknown."""
    text = _without_comment(text)
    name = text if text.startswith("MADV_") else f"MADV_{text}"
    value = _ADVICE.get(name)
    return number(text) if value is None else value


def advice_name(advice: int) -> str:
    return _ADVICE_NAMES.get(advice, f"advice {advice:#x}")


_FLAGS = {"PROT_": _PROT, "MAP_": _MAP, "MREMAP_": _MREMAP, "CLONE_": _CLONE}


@lru_cache(4096)
def flag_bits(prefix: str, text: str) -> int:
    """The bits of names and numbers joined by |, such as PROT_READ|0x8.

    Names may lack their prefix, as perf prints them. Those that say nothing here are 0.
    """
    bits, names = 0, _FLAGS[prefix]
    for word in _without_comment(text).split("|"):
        word = word.strip()
        if word[:1].isdigit():
            bits |= number(word)
        else:
            bits |= names.get(word if word.startswith(prefix) else prefix + word, 0)
    return bits


def clone_flags(call: SystemCall | CallBegun) -> int | None:
    """CLONE_ bits of a call that starts a thread or process; None where the tracer does not show them.

    CLONE_VM: shares the address space; CLONE_THREAD: is of the same process; CLONE_VFORK: until it executes a program.
    """
    if call.name == "fork":
        return 0
    if call.name == "vfork":
        return CLONE_VM | CLONE_VFORK
    text = ", ".join(call.arguments)
    if match := _CLONE_FLAGS.search(text):
        return flag_bits("CLONE_", match[1])
    if call.name == "clone" and call.arguments and call.arguments[0].startswith("0x"):
        return number(call.arguments[0])  # -e raw=clone: flags are the first argument of x86-64 and arm64
    return None


_CLONE_FLAGS = re.compile(r"\bflags=([\w|]+)", re.ASCII)


def program_name(call: SystemCall) -> str:
    """The file name of the program of an execve, as strace prints it; empty if it is not shown."""
    for argument in call.arguments[:2]:
        if argument.startswith('"'):
            return one_line(argument.strip('".').rpartition("/")[2])[:32]
    return ""
