"""What system calls mean to the kernel: from the arguments that a tracer prints to calls on an address space."""

import re
from collections.abc import Sequence
from typing import Protocol

from engine.traces.page_tables import PAGE, TraceError
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
from sweep.trace_readers.call_arguments import advice_name, advice_number, flag_bits, number, without_comment
from sweep.trace_readers.call_names import MEMORY_CALLS, PROGRAM_32_BIT
from sweep.trace_readers.calls import Call, SkippedRows, SystemCall

MAX_ADDRESS = 1 << 48
"""End of what a process of x86-64 (2^47) or arm64 (2^48) can map with four levels of tables."""
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
_ACT_DESPITE_HOLES = ("madvise", "process_madvise", "mprotect", "mlock", "mlock2", "munlock")
"""Calls that fail with ENOMEM at a hole after they acted: advice on all that is mapped, the others up to the hole."""
_NOT_COUNTED = {
    9: "MADV_REMOVE frees pages of shared memory, which stay in RES here",
    21: "MADV_PAGEOUT may swap out pages, which stay in RES here",
}
_STOP_AT_HOLES = (22, 23)
"""MADV_POPULATE_READ and _WRITE act up to the first hole."""
_REFUSED_BY_LOCKS = (4, 102)
"""MADV_DONTNEED and MADV_GUARD_INSTALL act up to the first VMA under mlock, and fail there with EINVAL."""
_VECTOR = re.compile(r"iov_base=(0x[0-9a-f]{1,16}|NULL), iov_len=(0x[0-9a-f]{1,16}|\d{1,20})", re.ASCII)


class HasBreak(Protocol):
    """A process that knows its program break."""

    def set_break(self, row: int, requested: int, new_break: int) -> Call | None: ...


class MemoryCalls:
    """Turns system calls on memory into Calls. Counts those without use in `skipped`.

    `beyond_x86`: how many calls mapped memory at an address that arm64 has and x86-64 with four levels has not.
    """

    def __init__(self, skipped: SkippedRows, page: int = PAGE) -> None:
        self._skipped, self._page = skipped, page
        self.beyond_x86 = self._start_bits = 0
        self._readers = {
            "madvise": self._madvise,
            "munmap": _munmap,
            "mmap": _mmap,
            "mmap2": self._mmap2,
            "old_mmap": self._mmap2,
            "mprotect": _mprotect,
            "pkey_mprotect": _mprotect,
            "mremap": _mremap,
            "process_madvise": self._process_madvise,
            "prctl": self._prctl,
            "mlock": self._mlock,
            "mlock2": self._mlock,
            "munlock": self._mlock,
            "mlockall": _mlockall,
            "munlockall": _mlockall,
            "mbind": _mbind,
        }

    def decode(self, call: SystemCall, process: HasBreak) -> Sequence[Call]:
        """The Calls of a system call of MEMORY_CALLS by `process`; none for one that changed nothing."""
        if len(call.arguments) < MEMORY_CALLS[call.name]:
            self._skipped.add_doubt(f"{call.name} with {len(call.arguments)} arguments", call.row)
            return ()
        try:
            if (call.error or call.result is None) and not _acted(call):
                self._failed(call)
                return ()
            changes = _brk(call, process) if call.name == "brk" else self._readers[call.name](call)
        except ValueError:
            self._skipped.add_doubt(f"{call.name} with arguments that are no numbers", call.row)
            return ()
        for change in changes:
            if reason := self.reason_to_refuse(change):
                self._skipped.add(reason, call.row)
                changes = [change for change in changes if not self.reason_to_refuse(change)]
                break
        return changes if self._page == PAGE else [self.in_pages(change) for change in changes]

    def in_pages(self, change: Call) -> Call:
        """The call with its lengths in whole pages, as the kernel rounds them up."""
        length, old_length = (-(-size // self._page) * self._page for size in (change.length, change.old_length))
        return change._replace(length=length, old_length=old_length)

    @property
    def has_large_pages(self) -> bool:
        """Whether what was mapped beyond x86-64's addresses shows pages of 16 or 64 KiB: all of it begins on one."""
        return self.beyond_x86 >= 8 and not self._start_bits % (16 << 10)

    def reason_to_refuse(self, call: Call) -> str:
        """Why the kernel would have refused this call, or an empty string.

        Raises TraceError if it worked on an address that is on none of the larger pages of an arm64 kernel.
        """
        op, start, length = call.op, call.start, call.length
        end = start + length
        if call.old_length:
            end = max(end, call.moved_from + call.old_length)
        if end > MAX_ADDRESS and op != "munmap":
            return "beyond what a process can map"
        if start % self._page:
            if self._page != PAGE:
                size = f"{self._page >> 10} KiB"
                raise TraceError(f"{op} at {start:#x} worked, so its pages are smaller than {size}: another --arch")
            return f"start is not on a {self._page}-byte page"
        if not length and op != "thp_disable":
            return f"{op} of no bytes"
        if end > MAX_ADDRESS >> 1 and op in ("mmap", "mremap"):
            self.beyond_x86 += 1
            self._start_bits |= start
        return ""

    def _failed(self, call: SystemCall) -> None:
        if call.name == "mremap" and call.error == "EFAULT":
            self._skipped.add_doubt("mremap that failed midway may have moved a part (Linux 6.17)", call.row)
        self._skipped.add(f"{call.name} that failed", call.row)

    def _nothing(self, call: SystemCall, reason: str) -> Sequence[Call]:
        self._skipped.add(reason, call.row)
        return ()

    def _madvise(self, call: SystemCall) -> Sequence[Call]:
        start, length, advice = number(call.arguments[0]), number(call.arguments[1]), advice_number(call.arguments[2])
        op = ADVICE_OPS.get(advice)
        if op is not None:
            if not call.error:
                return (Call(call.row, op, start, length),)
            stops_at = "lock" if call.error == "EINVAL" else "hole" if advice in _STOP_AT_HOLES else ""
            return (Call(call.row, op, start, length, stops_at=stops_at, has_holes=True),)
        if advice in _FLAGS_OF_ADVICE:
            flags, cleared = _FLAGS_OF_ADVICE[advice]
            return (Call(call.row, "flags", start, length, flags=flags, cleared=cleared),) if length else ()
        if advice in _NOT_COUNTED:
            self._skipped.add_doubt(_NOT_COUNTED[advice], call.row)
            return ()
        return self._nothing(call, f"{advice_name(advice)} gives nothing back")

    def _mlock(self, call: SystemCall) -> Sequence[Call]:
        """mlock, mlock2 and munlock. One that failed with ENOMEM stopped at a hole, before it made pages present."""
        start, length = number(call.arguments[0]), number(call.arguments[1])
        offset = start % self._page
        lock = _lock(call.row, call.name != "munlock", start - offset, length + offset)
        return (lock._replace(stops_at="hole", populates=False) if call.error else lock,)

    def _mmap2(self, call: SystemCall) -> Sequence[Call]:
        self._skipped.remark(PROGRAM_32_BIT)
        return _mmap(call)

    def _prctl(self, call: SystemCall) -> Sequence[Call]:
        """PR_SET_THP_DISABLE; other settings of a process do not matter."""
        option = without_comment(call.arguments[0]).removeprefix("PR_")
        if option in ("SET_VMA", "0x53564d41"):
            self._skipped.add_doubt(
                "PR_SET_VMA_ANON_NAME keeps neighbouring mappings apart, which is not counted", call.row
            )
        if option not in ("SET_THP_DISABLE", "0x29", "41"):
            return ()
        flags = call.arguments[2] if len(call.arguments) > 2 else "0"
        excepts_advised = "EXCEPT_ADVISED" in flags or flags in ("0x2", "2")
        disabled = ("unadvised" if excepts_advised else "all") if number(call.arguments[1]) else ""
        return (Call(call.row, "thp_disable", 0, 0, thp_disabled=disabled),)

    def _process_madvise(self, call: SystemCall) -> Sequence[Call]:
        """A call for each range of the vector, as far as the advised bytes (the result) reach, and for one more.

        That one failed, most likely as it has a hole; what is mapped of it was acted on, as with madvise. Advice that
        gives memory back is allowed for the caller's own memory only (process_madvise_remote_valid), so which process
        the descriptor means does not matter.
        """
        row, advised, advice = call.row, max(call.result or 0, 0), advice_number(call.arguments[3])
        calls: list[Call] = []
        if advice not in ADVICE_OPS:
            return self._nothing(call, f"{advice_name(advice)} gives nothing back")
        op = ADVICE_OPS[advice]
        for base, size in _VECTOR.findall(call.arguments[1]):
            length = number(size)
            has_holes = length > advised
            calls.append(Call(row, op, number(base), length, continues=bool(calls), has_holes=has_holes))
            advised -= length
            if has_holes:
                return calls
        if advised > 0:
            self._skipped.add_doubt("process_madvise with ranges that are not shown (strace -v shows them)", row)
        return calls


def _acted(call: SystemCall) -> bool:
    """Whether a call that failed has acted on a part of its range, or on what is mapped of it."""
    if call.error == "ENOMEM":
        return call.name in _ACT_DESPITE_HOLES
    return call.error == "EINVAL" and call.name == "madvise" and advice_number(call.arguments[2]) in _REFUSED_BY_LOCKS


def _munmap(call: SystemCall) -> Sequence[Call]:
    return (Call(call.row, "munmap", number(call.arguments[0]), number(call.arguments[1])),)


def _mmap(call: SystemCall) -> Sequence[Call]:
    _, length, rights, flag_names, *_ = call.arguments
    flags = flag_bits("MAP_", flag_names)
    return (
        Call(
            call.row,
            "mmap",
            call.result or 0,
            number(length),
            rights=flag_bits("PROT_", rights) & (READ | WRITE | EXECUTE),
            anonymous=bool(flags & 0x20) and flags & 0x3 == 2,
            stack=bool(flags & 0x20000),
            has_tables=not flags & 0x40000,
            flags=(NORESERVE if flags & 0x4000 else 0) | (LOCKED if flags & 0x2000 else 0),
            populates=bool(flags & 0xA000),
        ),
    )


def _mprotect(call: SystemCall) -> Sequence[Call]:
    start, length, rights, *_ = call.arguments
    rights_bits = flag_bits("PROT_", rights) & (READ | WRITE | EXECUTE)
    return (Call(call.row, "mprotect", number(start), number(length), rights_bits),)


def _mremap(call: SystemCall) -> Sequence[Call]:
    start, old_length, length = (number(text) for text in call.arguments[:3])
    keeps_old = bool(flag_bits("MREMAP_", call.arguments[3]) & 4) or not old_length
    return (
        Call(
            call.row,
            "mremap",
            call.result or 0,
            length,
            moved_from=start,
            old_length=old_length,
            keeps_old=keeps_old,
        ),
    )


def _brk(call: SystemCall, process: HasBreak) -> Sequence[Call]:
    change = process.set_break(call.row, number(call.arguments[0]), call.result or 0)
    return () if change is None else (change,)


def _mlockall(call: SystemCall) -> Sequence[Call]:
    if call.name == "mlockall" and not flag_bits("MCL_", call.arguments[0]) & 1:
        return ()  # MCL_CURRENT: what is mapped now
    return (_lock(call.row, call.name == "mlockall", 0, MAX_ADDRESS >> 1),)


def _lock(row: int, is_locked: bool, start: int, length: int) -> Call:
    """A lock makes the pages present (mm_populate)."""
    flags, cleared = (LOCKED, 0) if is_locked else (0, LOCKED)
    return Call(row, "flags", start, length, flags=flags, cleared=cleared, populates=is_locked)


def _mbind(call: SystemCall) -> Sequence[Call]:
    start, length, mode, *nodes = call.arguments
    policy = "" if mode in ("MPOL_DEFAULT", "DEFAULT", "0", "0x0") else ", ".join((mode, *nodes)).partition("]")[0]
    return (Call(call.row, "policy", number(start), number(length), policy=policy),)
