"""Records an observed program: its address spaces, the calls that change them, and the pages that it touched.

Before a call gives memory back, its range is looked at, so every touch is known before it can be undone. From time to
time all pages are looked at, and VmPTE beside them: a moment, at which a replay can be compared with what was seen.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from engine.traces.page_tables import PAGE
from sweep.common.errors import UserError, one_line
from sweep.process.proc import (
    Mapping,
    hugetlb_prefixes,
    read_guarded,
    read_mappings,
    read_sizes,
    read_smaps,
    read_vm_pte_kib,
)
from sweep.record.mapped_before import calls_of
from sweep.record.present_pages import END, PresentPages
from sweep.record.recording_writer import RecordingWriter
from sweep.record.traced_memory import advised_ranges, clone_flags, memory_policy
from sweep.record.tracer import TracedCall
from sweep.trace_readers.call_arguments import CLONE_THREAD, CLONE_VFORK, CLONE_VM
from sweep.trace_readers.call_names import MEMORY_CALLS
from sweep.trace_readers.calls import Call, SkippedRows, SystemCall
from sweep.trace_readers.kernel_calls import MemoryCalls
from sweep.trace_readers.program_break import break_change

_MAP_FIXED, _MREMAP_FIXED = 0x10, 0x2
_RANGE_FIRST = ("munmap", "madvise", "mprotect", "pkey_mprotect", "mremap", "mlock", "mlock2", "munlock", "mbind")
"""Calls whose first two arguments are the range that they act on."""
_GIVE_BACK = ("munmap", "mmap", "dontneed", "guard_install", "collapse")
_FLUSH_S = 1.0
_SIZED_S = 0.002
"""How long VmPTE is not read again before a call; reading it takes about 30 us."""
_LEFT_OUT = ("read", "write")
"""Calls that only touch (MADV_POPULATE_READ, _WRITE): the pages are seen when they are looked at next."""


@dataclass(slots=True, eq=False)
class Space:
    """An address space that is recorded. Threads of several processes share it after a vfork."""

    number: int
    pages: PresentPages
    pid: int
    program_break: int = 0
    threads: set[int] = field(default_factory=set)
    has_end: bool = False  #: its last moment is recorded
    highest_kib: int = 0  #: the highest VmPTE of its moments
    sized_s: float = 0.0  #: when VmPTE was read last, by time.monotonic()

    def set_break(self, row: int, requested: int, new_break: int) -> Call | None:
        """Return what brk maps or unmaps, None if nothing (ProcessReplay.set_break)."""
        old_break = self.program_break
        if requested or not old_break:
            self.program_break = new_break
        return break_change(row, requested, old_break, new_break, PAGE)


class Recorder:
    """The observer of a tracer.

    exits: how each process ended, by pid, as wait4 says it
    finish_calls: lets threads return from the calls that they make (Tracer.finish_calls)
    """

    def __init__(self, writer: RecordingWriter) -> None:
        self.exits: dict[int, int] = {}
        self.processes = 0
        self.finish_calls: Callable[[list[int]], None] = lambda threads: None
        self._writer = writer
        self._start_s = self._flushed_s = time.monotonic()
        self._spaces: dict[int, Space] = {}  # by thread
        self._process_of: dict[int, int] = {}  # by thread
        self._numbers = 0
        self._unborn: set[int] = (
            set()
        )  # processes that were forked and have not stopped yet; they have their parent's pages
        self._detaching: dict[int, tuple[int, int]] = {}  # by thread: the range that its shmdt unmaps
        self._under_way: dict[int, Space] = {}  # by thread: where a call of it is giving back memory
        self._unmapping: dict[int, tuple[Space, int, int]] = {}  # by thread: the range of its munmap or mremap
        self._skipped = SkippedRows()
        self._calls = MemoryCalls(self._skipped)
        self._hugetlb = hugetlb_prefixes()

    def attach(self, pid: int, threads: list[int]) -> None:
        """Record what a process has mapped and touched. Its threads are stopped. Raises UserError."""
        space = self._new_space("attached", pid)
        for thread in threads:
            self._join(thread, pid, space)

    def alive(self) -> set[int]:
        """The processes that have not ended."""
        return set(self._process_of.values())

    def look_at_all(self) -> None:
        """Record a moment of each address space."""
        for space in {id(space): space for space in self._spaces.values()}.values():
            self._moment(space)
        now_s = time.monotonic()
        if now_s - self._flushed_s > _FLUSH_S:
            self._flushed_s = now_s
            self._writer.flush()

    def first_stop(self, thread: int) -> None:
        if thread in self._unborn:
            self._unborn.discard(thread)
            space = self._spaces[thread]
            with suppress(OSError, UserError):
                parent = space.pages
                space.pages = PresentPages(thread)
                space.pages.inherit(parent)  # the replay copies these pages, too
                self._moment(space)

    def enters(self, thread: int, call: TracedCall) -> bool:
        space = self._spaces.get(thread)
        if space is None:
            return False
        with suppress(OSError, UserError):
            if call.name == "exit_group":
                self._end(space)
            elif call.name in ("execve", "execveat"):
                self._moment(space)
            elif call.name == "shmdt":
                self._detaching[thread] = _attached_range(self._thread_of(space), call.arguments[0])
                self._look(space, *self._detaching[thread])
            elif call.name in ("clone", "clone3", "fork"):
                if not clone_flags(thread, call) & (CLONE_VM | CLONE_VFORK):
                    self._finish_calls_of(space)
                    self._look(space, 0, END)
                    return True
            else:
                self._look_at_peak(space)
                for start, length in self._acts_on(space, thread, call):
                    self._look(space, start, start + length)
                    self._under_way[thread] = space
                if call.name in ("munmap", "mremap"):
                    start, length = call.arguments[:2]
                    self._unmapping[thread] = space, start, start + length
        return False

    def returns(self, thread: int, call: TracedCall, result: int) -> None:
        self._under_way.pop(thread, None)
        space = self._spaces.get(thread)
        if space is None:
            return
        if call.name in ("shmat", "shmdt"):
            with suppress(UserError):
                self._shared_memory(space, thread, call, result)
        elif call.name in MEMORY_CALLS:
            self._unmapping.pop(thread, None)
            for change in self._calls.decode(self._as_system_call(thread, call, result), space):
                if change.op in ("mmap", "mremap"):
                    self._finish_unmapping(space, change)
                self._record(space, change)
            for reason in self._skipped.doubts:
                self._writer.doubt(reason)

    def started(self, thread: int, child: int, call: TracedCall | None) -> None:
        space = self._spaces.get(thread)
        if space is None:
            return
        flags = 0
        if call is not None:
            with suppress(OSError):
                flags = clone_flags(thread, call)
        process = self._process_of[thread] if flags & CLONE_THREAD else child
        if flags & CLONE_VM:
            self._join(child, process, space)
            return
        self._numbers += 1
        self.processes += 1
        self._writer.fork(self._numbers, space.number, child)
        self._unborn.add(child)
        self._join(child, process, Space(self._numbers, space.pages, child, space.program_break))

    def executed(self, thread: int) -> None:
        for other in [other for other, process in self._process_of.items() if process == thread]:
            self._leave(other)
        with suppress(UserError):  # it was killed meanwhile
            self._join(thread, thread, self._new_space("executed", thread))

    def exiting(self, thread: int) -> None:
        space = self._spaces.get(thread)
        if space is not None and space.threads == {thread}:
            self._end(space)

    def ended(self, thread: int, status: int) -> None:
        if self._process_of.get(thread, thread) == thread:
            self.exits[thread] = status
        self._leave(thread)

    def _join(self, thread: int, process: int, space: Space) -> None:
        self._spaces[thread], self._process_of[thread] = space, process
        space.threads.add(thread)

    def _leave(self, thread: int) -> None:
        space = self._spaces.pop(thread, None)
        self._unmapping.pop(thread, None)
        self._under_way.pop(thread, None)
        self._process_of.pop(thread, None)
        if space is None:
            return
        space.threads.discard(thread)
        if not space.threads:
            if thread not in self._unborn:
                space.pages.close()
            self._writer.end(space.number)

    def _new_space(self, how: str, pid: int) -> Space:
        """An address space whose mappings and pages are recorded first. Raises UserError."""
        mappings = read_mappings(pid)
        self._numbers += 1
        self.processes += 1
        space = Space(self._numbers, read_guarded(pid, partial(PresentPages, pid)), pid)
        self._writer.begin(how, space.number, pid, one_line(read_sizes(pid).command))
        vm_flags = {vma.start: vma.flags for vma in read_smaps(pid)} if how == "attached" else {}
        for mapping in mappings:
            self._record_mapping(space, mapping, vm_flags.get(mapping.start, frozenset()))
            if mapping.name == "[heap]":
                space.program_break = mapping.end
        self._moment(space, is_first=how == "attached")
        return space

    def _record_mapping(self, space: Space, mapping: Mapping, vm_flags: frozenset[str] = frozenset()) -> None:
        """Record a line of /proc/PID/maps. vm_flags: the VmFlags of smaps, of a process that ran before."""
        for call in calls_of(mapping, vm_flags, has_tables=not mapping.name.startswith(self._hugetlb)):
            self._record(space, call)

    def _record(self, space: Space, change: Call) -> None:
        """Write a call, and forget the pages that it gave back."""
        if change.op in _LEFT_OUT:
            return
        self._writer.call(space.number, change)
        if change.op in _GIVE_BACK:
            space.pages.forget(change.start, change.end)
            if change.op == "mmap" and not change.has_tables:
                space.pages.without_tables.add(change.start, change.end)
            elif change.op in ("mmap", "munmap"):
                space.pages.without_tables.subtract(change.start, change.end)
        elif change.op == "mremap":
            space.pages.forget(change.moved_from, change.moved_from + change.old_length)
            space.pages.forget(change.start, change.end)

    def _finish_unmapping(self, space: Space, mapped: Call) -> None:
        """Let calls return, and record them first, that unmapped what this call then mapped."""
        ranges = [(thread, *unmapping) for thread, unmapping in self._unmapping.items()]
        self.finish_calls(
            [
                thread
                for thread, other, start, end in ranges
                if other is space and start < mapped.end and mapped.start < end
            ]
        )

    def _look(self, space: Space, start: int, end: int) -> None:
        """Write which pages of the slots of [start, end) were touched since they were looked at. Raises OSError."""
        for code, runs in space.pages.new_in(start, end).items():
            self._writer.seen(space.number, code, runs)

    def _moment(self, space: Space, *, is_first: bool = False) -> None:
        """Look at all pages and at VmPTE. An address space that has ended meanwhile is passed over.

        is_first: of a process that ran before, whose guard markers no call shows
        """
        if space.threads and space.threads <= self._unborn:
            return
        self._finish_calls_of(space)
        with suppress(OSError, UserError):
            pid = self._thread_of(space)
            before = read_vm_pte_kib(pid)
            self._look(space, 0, END)
            for low, high in space.pages.guarded if is_first else ():
                self._writer.call(space.number, Call(0, "guard_install", low, high - low))
            after = read_vm_pte_kib(pid)
            if after != before:
                before = after
                self._look(space, 0, END)
                after = read_vm_pte_kib(pid)
            space.highest_kib = max(space.highest_kib, after)
            self._writer.moment(space.number, int((time.monotonic() - self._start_s) * 1000), (before, after))

    def _look_at_peak(self, space: Space) -> None:
        """A moment if VmPTE is a sixteenth, and 64 KiB, above that of all moments so far. Raises OSError, UserError.

        Otherwise a program that touches memory and gives it back in less than a tenth of a second has a peak that no
        moment shows.
        """
        now_s = time.monotonic()
        if now_s - space.sized_s >= _SIZED_S:
            space.sized_s = now_s
            vm_pte_kib = read_vm_pte_kib(self._thread_of(space))
            if vm_pte_kib > space.highest_kib + max(64, space.highest_kib // 16):
                self._moment(space)

    def _finish_calls_of(self, space: Space) -> None:
        """Let the space's threads return from their calls, which are then recorded.

        So no memory is given back while its pages are looked at.
        """
        self.finish_calls([thread for thread, other in self._under_way.items() if other is space])

    def _thread_of(self, space: Space) -> int:
        """Return a thread of the space's own process, whose first thread may have ended.

        A child of vfork shares the space, but may already have executed another program.
        """
        return next((thread for thread in space.threads if self._process_of[thread] == space.pid), space.pid)

    def _end(self, space: Space) -> None:
        if not space.has_end:
            space.has_end = True
            self._moment(space)

    def _acts_on(self, space: Space, thread: int, call: TracedCall) -> Iterator[tuple[int, int]]:
        """(start, length) of the memory that a call is about to give back or to change. Raises OSError."""
        arguments = call.arguments
        if call.name in _RANGE_FIRST:
            yield arguments[0], arguments[1]
            if call.name == "mremap" and arguments[3] & _MREMAP_FIXED:
                yield arguments[4], arguments[2]
        elif call.name in ("mmap", "mmap2") and arguments[3] & _MAP_FIXED:
            yield arguments[0], arguments[1]
        elif call.name == "brk" and 0 < arguments[0] < space.program_break:
            yield arguments[0], space.program_break - arguments[0]
        elif call.name in ("mlockall", "munlockall"):
            yield 0, END
        elif call.name == "process_madvise":
            yield from advised_ranges(thread, call)

    def _as_system_call(self, thread: int, call: TracedCall, result: int) -> SystemCall:
        """The call as a tracer's output would have it."""
        arguments = [hex(argument) for argument in call.arguments]
        if call.name == "mbind":
            with suppress(OSError):
                arguments[2:] = memory_policy(thread, call)
        error = errno.errorcode.get(-result, "failed") if result < 0 else ""
        if call.name == "process_madvise" and not error:
            with suppress(OSError):
                ranges = advised_ranges(thread, call)
                arguments[1] = ", ".join(f"iov_base={start:#x}, iov_len={length}" for start, length in ranges)
        return SystemCall(0, thread, call.name, arguments, result, error)

    def _shared_memory(self, space: Space, thread: int, call: TracedCall, result: int) -> None:
        """Record shmat and shmdt (System V shared memory). /proc/PID/maps has the length, which the calls lack."""
        if call.name == "shmdt":
            start, end = self._detaching.pop(thread, (0, 0))
            if not result and start < end:
                self._record(space, Call(0, "munmap", start, end - start))
        elif result > 0:
            start, end = _attached_range(thread, result)
            for mapping in read_mappings(thread):
                if start <= mapping.start < end:
                    self._record_mapping(space, mapping)


def _attached_range(pid: int, address: int) -> tuple[int, int]:
    """Where the segment of System V memory that was attached at this address begins and ends."""
    end = address
    for mapping in read_mappings(pid):
        if mapping.start == end and mapping.name.startswith("/SYSV"):
            end = mapping.end
    return address, end
