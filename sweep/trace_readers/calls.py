"""What the rows of a recording become: calls that change an address space, events of threads, and skipped rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.traces.page_tables import PAGE
from engine.traces.vmas import READ, WRITE
from sweep.common.errors import printable

READ_WRITE = READ | WRITE
MAX_THREADS = 1 << 16
MAX_REASONS = 100
"""Most reasons for which rows are skipped: hostile files could name a new one in every row."""


class Call(NamedTuple):
    """A change of an address space. Addresses and lengths are in bytes. A tuple, as millions are made."""

    row: int
    op: str  #: mmap, munmap, mprotect, mremap, one of kernel_calls.ADVICE_OPS, flags, policy, or thp_disable
    start: int
    length: int
    rights: int = READ_WRITE  #: of mmap and mprotect
    anonymous: bool = True  #: mmap of private anonymous memory
    stack: bool = False  #: mmap with MAP_STACK
    has_tables: bool = True  #: false for mmap with MAP_HUGETLB, whose pages have no PTE tables
    moved_from: int = 0  #: of mremap: the old start; `start` and `length` are the new ones
    old_length: int = 0
    keeps_old: bool = False  #: mremap with MREMAP_DONTUNMAP, or of old length 0
    thp_disabled: str = ""  #: of thp_disable: see HugePages.disabled
    continues: bool = False  #: belongs to the same system call as the one before: nothing is touched in between
    flags: int = 0  #: of mmap and flags: bits of Vma.flags to set
    cleared: int = 0  #: of flags: bits to clear
    policy: str = ""  #: of policy: what mbind set
    populates: bool = False  #: mmap and flags: the pages are present at once (MAP_POPULATE, mlock)
    stops_at: str = ""  #: the call failed there, after it acted: `hole` or `lock`, a VMA under mlock
    has_holes: bool = False  #: the call failed with ENOMEM: it acted on what was mapped, and the rest was not

    @property
    def end(self) -> int:
        """The end of the range, rounded up to a page as the kernel does."""
        return self.start + -(-self.length // PAGE) * PAGE


class SystemCall(NamedTuple):
    """A system call that returned. `arguments` as texts in the kernel's order; `result`: None if it is unknown."""

    row: int
    thread: int
    name: str
    arguments: list[str]
    result: int | None
    error: str = ""  #: ENOMEM and the like; empty for a call that worked


class CallBegun(NamedTuple):
    """A call that starts a thread or process, when it has not returned yet: the child may run before it does."""

    row: int
    thread: int
    name: str
    arguments: list[str]


class ThreadEvent(NamedTuple):
    """What a tracer says of a thread, by `kind`.

    exited; attached: it ran before; named: its program has this name; numbered: its process has this number
    """

    row: int
    thread: int
    kind: str
    name: str = ""


END = ThreadEvent(0, -1, "end")
"""The end of the recording."""


class ThreadStarted(NamedTuple):
    """What the tracepoint task_newtask says: `thread` started `child` with these CLONE_ flags."""

    row: int
    thread: int
    child: int
    flags: int


Event = SystemCall | CallBegun | ThreadEvent | ThreadStarted


@dataclass(slots=True)
class SkippedRows:
    """The rows of a recording that count for nothing, by reason: (how many, the first of them).

    `doubts`: reasons of rows that may have changed what is mapped or resident, so that the figures may be wrong.
    """

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    doubts: dict[str, tuple[int, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  #: what else a reader should know
    file: str = ""  #: which of several files the rows are of

    def of_file(self, file: str) -> "SkippedRows":
        """Return the same counters for the rows of one of several files, which messages then name."""
        return SkippedRows(self.reasons, self.doubts, self.remarks, file)

    def remark(self, text: str) -> None:
        """Add a remark, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def add(self, reason: str, row: int) -> None:
        """Count a row under its reason, or under `other reasons` once there are MAX_REASONS."""
        self._count(self.reasons, reason, row)

    def add_doubt(self, reason: str, row: int) -> None:
        """As `add`, for a row that may have changed the figures."""
        self._count(self.doubts, reason, row)

    def _count(self, reasons: dict[str, tuple[int, str]], reason: str, row: int) -> None:
        if reason not in reasons:
            if len(reasons) >= MAX_REASONS:
                reason = "other reasons"
            first = f"{row} of {printable(self.file)}" if self.file else str(row)
            count, first = reasons.get(reason, (0, first))
        else:
            count, first = reasons[reason]
        reasons[reason] = (count + 1, first)

    def lines(self) -> Iterator[str]:
        """One line for the user per reason."""
        for reason, (count, row) in self.reasons.items():
            yield f"{_rows(count)} skipped, the first is row {row}: {reason}"
        for reason, (count, row) in self.doubts.items():
            yield f"the figures may be wrong: {_rows(count)}, the first is row {row}: {reason}"
        yield from self.remarks


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"
