"""Follows threads from stop to stop: an observer hears of their calls, of the threads they start, and of their ends.

A thread stands still meanwhile, so what it reads of the thread's memory is of that moment.
"""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sweep.record import ptrace
from sweep.record.call_numbers import NAMES

_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_STARTS = (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE)


@dataclass(slots=True)
class TracedCall:
    """A system call that a thread makes: its name, its arguments, and the AUDIT_ARCH_ number of the program."""

    name: str
    arguments: tuple[int, ...]
    architecture: int


@dataclass(slots=True)
class Thread:
    """A thread that is followed. call: the call that it makes, None between the calls that count."""

    number: int
    call: TracedCall | None = None
    has_stopped: bool = False


class Observer(Protocol):
    """What a tracer calls. Threads are named by their numbers; the one concerned is stopped.

    enters: whether the call must return before any other thread may make one
    """

    def first_stop(self, thread: int) -> None: ...
    def enters(self, thread: int, call: TracedCall) -> bool: ...
    def returns(self, thread: int, call: TracedCall, result: int) -> None: ...
    def started(self, thread: int, child: int, call: TracedCall | None) -> None: ...
    def executed(self, thread: int) -> None: ...
    def exiting(self, thread: int) -> None: ...
    def ended(self, thread: int, status: int) -> None: ...


class Tracer:
    """The threads that are followed, by number."""

    def __init__(self, observer: Observer, *, is_filtered: bool) -> None:
        """is_filtered: a seccomp filter stops the threads at the calls that count; else they stop at every call."""
        self.threads: dict[int, Thread] = {}
        self._observer = observer
        self._between_calls = ptrace.CONT if is_filtered else ptrace.SYSCALL
        self._early: dict[int, int] = {}  # stops of threads whose start is not known yet

    def seize(self, number: int, *, kill_on_exit: bool) -> None:
        """Follow a thread. Raises OSError."""
        ptrace.seize(number, kill_on_exit=kill_on_exit)
        self.threads[number] = Thread(number)

    def interrupt_all(self) -> None:
        """Let every thread stop soon."""
        for thread in self.threads.values():
            with suppress(OSError):
                ptrace.interrupt(thread.number)

    def run(self, tick: Callable[[], bool]) -> None:
        """Follow the threads until all have ended, or until `tick`, called before each wait, is false."""
        while self.threads and tick():
            if (stop := ptrace.wait()) is not None:
                self.handle(*stop)

    def finish_calls(self, threads: Iterable[int]) -> None:
        """Let these threads return from the calls that they make. Others that stop meanwhile stand still."""
        for number in threads:
            while number in self.threads and self.threads[number].call is not None:
                try:
                    stop = ptrace.wait(number)
                except OSError:  # it executed a program and has another number now
                    break
                if stop is not None:
                    self.handle(*stop)

    def handle(self, number: int, status: int) -> None:
        """Handle a thread that stopped or ended; status: as wait4 gives it."""
        thread = self.threads.get(number)
        if not os.WIFSTOPPED(status):
            if thread is not None:
                del self.threads[number]
                self._observer.ended(number, status)
        elif thread is None:
            self._early[number] = status
        else:
            with suppress(ProcessLookupError):  # it was killed; its end comes next
                self._stopped(thread, status)

    def detach_all(self) -> None:
        """Detach from all threads, which run on untraced."""
        self.interrupt_all()
        for number, status in self._early.items():
            with suppress(ProcessLookupError):
                ptrace.resume(ptrace.DETACH, number, _signal_to_deliver(status))
        while self.threads:
            stop = ptrace.wait()
            if stop is None:
                continue
            number, status = stop
            if os.WIFSTOPPED(status):
                with suppress(ProcessLookupError):
                    ptrace.resume(ptrace.DETACH, number, _signal_to_deliver(status))
            self.threads.pop(number, None)

    def _stopped(self, thread: Thread, status: int) -> None:
        stop_signal, event = os.WSTOPSIG(status), status >> 16
        deliver, is_alone = 0, False
        if not thread.has_stopped:
            thread.has_stopped = True
            self._observer.first_stop(thread.number)
        if event == ptrace.EVENT_SECCOMP or stop_signal == ptrace.CALL_STOP:
            is_alone = self._at_call(thread)
        elif event in _STARTS:
            self._starts(thread, ptrace.event_message(thread.number))
        elif event == ptrace.EVENT_EXEC:
            self._executes(thread, ptrace.event_message(thread.number))
        elif event == ptrace.EVENT_EXIT:
            self._observer.exiting(thread.number)
        elif event == ptrace.EVENT_STOP:
            if stop_signal in _STOPPING:
                ptrace.listen(thread.number)
                return
        else:
            deliver = _signal_to_deliver(status)
        ptrace.resume(ptrace.SYSCALL if thread.call else self._between_calls, thread.number, deliver)
        if is_alone:
            self.finish_calls([thread.number])

    def _at_call(self, thread: Thread) -> bool:
        """Returns whether the call that begins must return before any other thread may make one."""
        stop = ptrace.call_stop(thread.number)
        if stop.edge == ptrace.EXIT:
            if thread.call is not None:
                call, thread.call = thread.call, None
                self._observer.returns(thread.number, call, stop.result)
            return False
        name = NAMES.get(stop.architecture, {}).get(stop.number)
        if name is not None:
            thread.call = TracedCall(name, stop.arguments, stop.architecture)
            return self._observer.enters(thread.number, thread.call)
        return False

    def _starts(self, thread: Thread, child: int) -> None:
        self.threads[child] = Thread(child)
        self._observer.started(thread.number, child, thread.call)
        if child in self._early:
            self.handle(child, self._early.pop(child))

    def _executes(self, thread: Thread, former: int) -> None:
        """The thread that executed a program has the number of its process now; `former` was its own."""
        if former != thread.number and former in self.threads:
            thread.call = self.threads.pop(former).call
        self._observer.executed(thread.number)


def _signal_to_deliver(status: int) -> int:
    """The signal of a stop that waits for one to be delivered; 0 for the other stops."""
    return 0 if status >> 16 or os.WSTOPSIG(status) == ptrace.CALL_STOP else os.WSTOPSIG(status)
