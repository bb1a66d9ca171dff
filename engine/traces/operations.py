"""The operations of a trace: one row each, checked as the system call would check them."""

from typing import NamedTuple

from engine.traces.page_tables import PAGE, TraceError

TOUCHES = ("write", "read")
ZAPS = ("dontneed", "dontneed_locked", "free")
HUGE_ADVICE = ("hugepage", "nohugepage")
GUARDS = ("guard_install", "guard_remove")
OPS = ("mmap", "munmap", "mprotect_ro", "mprotect_rw", *TOUCHES, *ZAPS, *GUARDS, *HUGE_ADVICE, "collapse")
MIN_ADDRESS, MAX_ADDRESS = 64 << 10, (1 << 47) - PAGE
"""A process can map [MIN_ADDRESS, MAX_ADDRESS): the default vm.mmap_min_addr, and TASK_SIZE with 4 levels."""


class Operation(NamedTuple):
    """One row of a trace. start, length and stride in bytes; stride is used by touches only.

    A tuple, because traces have millions of rows and tuples are faster to create than dataclasses.
    """

    op: str
    start: int
    length: int
    stride: int = 0

    @property
    def end(self) -> int:
        """The end address, with the length rounded up to whole pages as the system calls do."""
        return self.start + -(-self.length // PAGE) * PAGE


def check_operation(operation: Operation) -> None:
    """Raise TraceError if the operation is malformed, or if the system call would refuse it."""
    op, start, length = operation.op, operation.start, operation.length
    if op not in OPS:
        raise TraceError(f"unknown op {op!r}; known: {', '.join(OPS)}")
    if start < 0 or length < 0:
        raise TraceError(f"{op}: start {start} and length {length} must not be negative")
    if operation.end > MAX_ADDRESS:
        raise TraceError(f"{op}: [{start:#x}, +{length:#x}) is beyond what a process can map (below {MAX_ADDRESS:#x})")
    if op in TOUCHES:
        if operation.stride <= 0:
            raise TraceError(f"{op}: stride {operation.stride} must be 1 or more")
        return
    if start % PAGE:
        raise TraceError(f"{op}: start {start:#x} is not on a {PAGE}-byte page")
    if op in ("mmap", "munmap") and not length:
        raise TraceError(f"{op}: length must not be 0")
    if op == "mmap" and start < MIN_ADDRESS:
        raise TraceError(f"mmap: start {start:#x} is below what a process can map ({MIN_ADDRESS:#x})")
