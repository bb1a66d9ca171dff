"""The address spaces of a recording by `sweep record`, and VmPTE as it was seen beside what the replay computes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from engine.traces.page_tables import TraceError
from sweep.trace_readers.recording_reader import (
    MomentSeen,
    PagesSeen,
    RecordingReader,
    Row,
    SpaceBegun,
    SpaceCall,
    SpaceEnded,
)
from sweep.traces.process_replay import ProcessReplay
from sweep.traces.process_tree import MAX_PROCESSES


class Moment(NamedTuple):
    """VmPTE of a process at one moment, in KiB: seen by /proc, least and most, and computed for the kernel's policy.

    unknown_kib: of tables that were empty when the recording began, so that nothing shows where they are
    """

    process: ProcessReplay
    seconds: float
    least_kib: int
    most_kib: int
    computed_kib: int
    unknown_kib: int

    @property
    def agrees(self) -> bool:
        return self.computed_kib <= self.most_kib and self.least_kib <= self.computed_kib + self.unknown_kib


class RecordedSpaces:
    """Address spaces by their numbers. Iterate over it once: it applies row by row.

    processes: those that made calls, in the order of their first one; moments: all that were recorded
    """

    def __init__(self, reader: RecordingReader, new: Callable[[int, str], ProcessReplay]) -> None:
        """`new`: makes an empty address space for a pid and a program's name; called after `reader` has its facts."""
        self.processes: list[ProcessReplay] = []
        self.moments: list[Moment] = []
        self._reader, self._new = reader, new
        self._spaces: dict[int, ProcessReplay] = {}
        self._unknown_kib: dict[int, int | None] = {}  # by space; None before the first moment of an attached one
        self._programs: dict[int, int] = {}  # by pid: how many programs made calls

    def label(self, space: ProcessReplay) -> str:
        """The pid; with the number of the program if the process executed several that made calls."""
        is_one_of_several = self._programs.get(space.pid, 0) > 1 and space.program_number
        return f"{space.pid}.{space.program_number}" if is_one_of_several else str(space.pid)

    def __iter__(self) -> Iterator[tuple[int, ProcessReplay]]:
        """(row, process) after each row that changed an address space. Raises UserError and TraceError."""
        for item in self._reader:
            if isinstance(item, SpaceBegun):
                self._begin(item)
                continue
            space = self._spaces.get(item.space)
            if space is None:
                raise TraceError(f"process {item.space} has not begun")
            yield from self._apply(item, space)

    def _apply(self, item: Row, space: ProcessReplay) -> Iterator[tuple[int, ProcessReplay]]:
        if isinstance(item, SpaceCall):
            if not space.program_number:
                self._count(space)
            space.apply(item.call)
            yield item.call.row, space
        elif isinstance(item, PagesSeen):
            space.see(item.runs, written=item.written)
            yield item.row, space
        elif isinstance(item, MomentSeen):
            self._compare(item, space)
        elif isinstance(item, SpaceEnded):
            space.finish()
            del self._spaces[item.space]

    def _begin(self, item: SpaceBegun) -> None:
        if len(self._spaces) >= MAX_PROCESSES or item.space in self._spaces:
            raise TraceError(f"process {item.space} begins twice, or more than {MAX_PROCESSES:,} at a time")
        if not item.parent:
            self._spaces[item.space] = self._new(item.pid, item.program)
            self._unknown_kib[item.space] = None if item.is_attached else 0
            return
        parent = self._spaces.get(item.parent)
        if parent is None:
            raise TraceError(f"process {item.parent} has not begun")
        self._spaces[item.space] = parent.fork(item.pid)
        self._unknown_kib[item.space] = self._unknown_kib[item.parent]

    def _count(self, space: ProcessReplay) -> None:
        if len(self.processes) >= MAX_PROCESSES:
            raise TraceError(f"more than {MAX_PROCESSES:,} processes: too many to keep apart")
        self._programs[space.pid] = space.program_number = self._programs.get(space.pid, 0) + 1
        self.processes.append(space)

    def _compare(self, item: MomentSeen, space: ProcessReplay) -> None:
        policy = self._reader.facts.get("frees", "")
        if policy not in space.replay.policies:
            return
        computed = space.vm_pte_kib(policy)
        unknown = self._unknown_kib[item.space]
        if unknown is None:
            unknown = self._unknown_kib[item.space] = max(0, item.least_kib - computed)
        self.moments.append(Moment(space, item.milliseconds / 1000, item.least_kib, item.most_kib, computed, unknown))
