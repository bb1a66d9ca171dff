"""Which process each call of a recording belongs to: threads share an address space, a fork copies it, an exec ends it.

A child may run before the call that started it has returned to its parent. Its events wait until the call names it.
Where a recording lacks the calls that start processes, the tree guesses from brk and from addresses, and says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from engine.traces.page_tables import TraceError
from sweep.trace_readers.call_arguments import CLONE_THREAD, CLONE_VM, clone_flags, number, program_name
from sweep.trace_readers.call_names import MEMORY_CALLS, PROCESS_CALLS, STARTS
from sweep.trace_readers.calls import (
    END,
    MAX_THREADS,
    CallBegun,
    Event,
    SkippedRows,
    SystemCall,
    ThreadEvent,
    ThreadStarted,
)
from sweep.traces.process_replay import ProcessReplay

_PLAIN_CALLS = frozenset(MEMORY_CALLS) - {"brk"}
MAX_PROCESSES = 1 << 14
"""Most processes that are kept apart."""
MAX_WAITING_EVENTS = 1 << 16

RUNNING = "recorded from a running process: what was mapped before, and touched, is unknown"
NO_PROCESS_CALLS = (
    "has no calls that start processes, so which threads share memory is a guess; record with "
    "strace -f -e trace=%memory,%process"
)


@dataclass(slots=True)
class Task:
    """The threads of one process id. Tasks that share memory without being threads (vfork) share `space`."""

    pid: int
    space: ProcessReplay
    threads: set[int] = field(default_factory=set)


class ProcessTree:
    """Processes by their threads.

    processes: those that made a call of memory, in the order of their first one
    """

    def __init__(self, new: Callable[[int, str], ProcessReplay], skipped: SkippedRows) -> None:
        """`new`: makes an empty address space for a pid and a program's name."""
        self.processes: list[ProcessReplay] = []
        self._new, self._skipped = new, skipped
        self._tasks: dict[int, Task] = {}  # by thread
        self._dead: set[int] = set()
        self._starting: dict[int, CallBegun] = {}  # by parent: calls that start a thread and have not returned
        self._waiting: dict[int, list[Event]] = {}  # by thread: events of threads whose parent is not known yet
        self._waiting_events = 0
        self._unseen: dict[int, None] = {}  # children that clone named and that did nothing yet, in order
        self._sees_starts = self._sees_execs = False
        self._programs: dict[int, int] = {}  # by pid: how many programs made calls

    def process_of(self, event: SystemCall) -> ProcessReplay | None:
        """The process of a call of memory by a thread that is known, the usual case. None for all else (`handle`)."""
        task = self._tasks.get(event.thread)
        if task is None or event.name not in _PLAIN_CALLS:
            return None
        if self._unseen:
            self._unseen.pop(event.thread, None)
        return task.space

    def handle(self, event: Event) -> Iterator[tuple[SystemCall, ProcessReplay]]:
        """Follow an event. Yields the calls of memory that are due, each with its process. Raises TraceError."""
        thread = event.thread
        if event is END:
            yield from self._end()
            return
        self._unseen.pop(thread, None)
        if thread in self._waiting or (thread not in self._tasks and self._must_wait(event)):
            yield from self._wait(thread, event)
            return
        if isinstance(event, ThreadStarted):
            self._sees_starts = True
            yield from self._child(self._task(thread, event), event.child, event.flags, event.row)
        elif isinstance(event, CallBegun):
            self._task(thread, event)
            self._starting[thread] = event
        elif isinstance(event, ThreadEvent):
            self._thread_event(event)
        elif event.name in PROCESS_CALLS:
            yield from self._process_call(event)
        elif event.name in MEMORY_CALLS and thread not in self._dead:
            yield event, self._space_for(event)

    def count(self, space: ProcessReplay) -> None:
        """Note that a process makes its first call of memory. Raises TraceError above MAX_PROCESSES."""
        if len(self.processes) >= MAX_PROCESSES:
            raise TraceError(f"more than {MAX_PROCESSES:,} processes: too many to keep apart")
        self._programs[space.pid] = space.program_number = self._programs.get(space.pid, 0) + 1
        self.processes.append(space)

    def label(self, space: ProcessReplay) -> str:
        """The pid; with the number of the program if the process executed several that made calls."""
        return f"{space.pid}.{space.program_number}" if self._programs.get(space.pid, 0) > 1 else str(space.pid)

    def _end(self) -> Iterator[tuple[SystemCall, ProcessReplay]]:
        """At the end of the recording, yield the calls of threads that wait for a call that never returned."""
        self._starting.clear()
        yield from self._release()

    def _process_call(self, event: SystemCall) -> Iterator[tuple[SystemCall, ProcessReplay]]:
        thread, name = event.thread, event.name
        if name in STARTS:
            self._sees_starts = True
            begun = self._starting.pop(thread, None)
            if event.result and not event.error:
                flags = clone_flags(event)
                flags = clone_flags(begun) if flags is None and begun is not None else flags
                yield from self._child(self._task(thread, event), event.result, flags, event.row)
            if not self._starting and self._waiting:
                yield from self._release()
        elif name in ("execve", "execveat"):
            self._sees_execs = True
            if event.result == 0:
                self._execute(thread, program_name(event))
        elif name == "exit":
            self._exit(thread)
        else:  # exit_group
            task = self._tasks.get(thread)
            for other in list(task.threads) if task else [thread]:
                self._exit(other)

    def _child(
        self, parent: Task, child: int, flags: int | None, row: int
    ) -> Iterator[tuple[SystemCall, ProcessReplay]]:
        """A thread or process that `parent` started. Unknown flags: CLONE_VM, as the C library uses clone3."""
        if child in self._tasks and not self._is_late(parent, child, flags, row):
            return
        self._dead.discard(child)
        if flags is None:
            self._skipped.remark(
                "the flags of clone3 are not shown: its children share memory until they execute a program"
            )
            flags = CLONE_VM
        if flags & CLONE_THREAD:
            self._join(child, parent)
        elif flags & CLONE_VM:
            self._join(child, Task(child, parent.space))
        else:
            self._join(child, Task(child, parent.space.fork(child)))
        events = self._waiting.pop(child, [])
        self._waiting_events -= len(events)
        if not events:
            self._unseen[child] = None
        for event in events:
            yield from self.handle(event)

    def _is_late(self, parent: Task, child: int, flags: int | None, row: int) -> bool:
        """Whether a child was taken for a thread of its parent, as it made calls before the one that started it.

        strace -z prints a clone when it returns, and not when it begins.
        """
        if flags is None or flags & CLONE_VM or self._tasks[child].space is not parent.space:
            return False
        self._skipped.add_doubt("calls of a child before the one that started it, as strace -z prints them", row)
        self._tasks.pop(child).threads.discard(child)
        return True

    def _execute(self, thread: int, program: str) -> None:
        """An exec: the task's memory is a new one; the old one ends unless another task has it (vfork)."""
        task = self._tasks.get(thread)
        space = self._new(task.pid if task is not None else thread, program)
        if task is not None:
            space.inherit(task.space)
            for other in list(task.threads):
                self._exit(other)
        self._dead.discard(thread)
        self._join(thread, Task(space.pid, space))

    def _exit(self, thread: int) -> None:
        task = self._tasks.pop(thread, None)
        self._starting.pop(thread, None)
        self._dead.add(thread)
        if task is None:
            return
        task.threads.discard(thread)
        if not task.threads and not any(other.space is task.space for other in self._tasks.values()):
            task.space.finish()

    def _thread_event(self, event: ThreadEvent) -> None:
        if event.kind == "exited":
            self._exit(event.thread)
            self._dead.discard(event.thread)
        elif event.kind == "attached":
            self._skipped.remark(RUNNING)
            self._join(event.thread, Task(event.thread, self._new(event.thread, "")))
        elif event.kind == "numbered":
            task = self._task(event.thread, event)
            task.pid = task.space.pid = int(event.name)
        elif (known := self._tasks.get(event.thread)) is not None:
            known.space.program = known.space.program or event.name

    def _join(self, thread: int, task: Task) -> None:
        if len(self._tasks) >= MAX_THREADS:
            raise TraceError(f"more than {MAX_THREADS:,} threads: too many to tell apart")
        task.threads.add(thread)
        self._tasks[thread] = task

    def _must_wait(self, event: Event) -> bool:
        """Whether an unknown thread may be the child of a call that has not returned."""
        return (
            bool(self._starting)
            and event.thread not in self._dead
            and not (isinstance(event, ThreadEvent) and event.kind == "exited")
        )

    def _wait(self, thread: int, event: Event) -> Iterator[tuple[SystemCall, ProcessReplay]]:
        self._waiting.setdefault(thread, []).append(event)
        self._waiting_events += 1
        if self._waiting_events > MAX_WAITING_EVENTS:
            self._skipped.remark("a call that starts a thread did not return for long: its child is a guess")
            self._starting.clear()
            yield from self._release()

    def _release(self) -> Iterator[tuple[SystemCall, ProcessReplay]]:
        """Match waiting threads in order to the children of clone that made no call; yield the calls that are due.

        For a recording whose threads have other numbers than clone returned: their programs run in a PID namespace.
        """
        waiting, self._waiting, self._waiting_events = self._waiting, {}, 0
        for thread, events in waiting.items():
            if self._unseen:
                inner = next(iter(self._unseen))
                del self._unseen[inner]
                task = self._tasks.pop(inner)
                task.threads.discard(inner)
                if task.pid == inner:
                    task.pid = task.space.pid = thread
                self._join(thread, task)
                self._skipped.remark(
                    "threads have other numbers than clone returned (PID namespaces): matched in order"
                )
            for event in events:
                yield from self.handle(event)

    def _task(self, thread: int, event: Event) -> Task:
        """Return the task (process) of a thread. If no event announced it, guess from `event`, or start a task."""
        task = self._tasks.get(thread)
        if task is None:
            task = self._guess(event) if self._tasks else None
            if task is None:
                task = Task(thread, self._new(thread, ""))
            self._join(thread, task)
        return task

    def _guess(self, event: Event) -> Task | None:
        """The task of a thread that nothing was said of, by its first event; None for a new program.

        A program begins with brk(NULL), which returns another break than those that are known. A thread works on memory
        that its process has mapped.
        """
        if not self._sees_starts:
            self._skipped.remark(NO_PROCESS_CALLS)
        tasks = list({id(task): task for task in self._tasks.values()}.values())
        if isinstance(event, SystemCall) and event.name in MEMORY_CALLS and event.arguments:
            try:
                start = number(event.arguments[0])
            except ValueError:
                start = 0
            if event.name == "brk" and not start:
                return next((task for task in tasks if task.space.program_break == event.result), None)
            for task in tasks if len(tasks) > 1 and start else ():
                if task.space.holds(start):
                    return task
        return tasks[-1]

    def _space_for(self, event: SystemCall) -> ProcessReplay:
        """The space of a call of memory. A break that nobody set shows an exec that the recording lacks."""
        task = self._task(event.thread, event)
        known = task.space.program_break
        is_query = event.name == "brk" and event.arguments[0] in ("NULL", "0")
        if is_query and not self._sees_execs and known and event.result not in (known, None):
            self._skipped.remark(NO_PROCESS_CALLS)
            self._execute(event.thread, "")
            task = self._tasks[event.thread]
        return task.space
