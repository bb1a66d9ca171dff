"""Calls a function with a time and a memory limit, and abandons it if it does not react to an interrupt.

DuckDB checks for interrupts only between blocks of rows, and levenshtein() of two long texts can take an hour for one
block; DuckDB's own memory limit does not count long texts and lists.
"""

import atexit
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

GRACE_S = 3.0
"""How long an interrupted call may take to end."""
THREAD_BYTES = 64 << 20
"""Address space that a thread of DuckDB may map before it has done anything."""


class LateError(Exception):
    """The time limit passed. `still_running`: the call did not react to the interrupt either."""

    def __init__(self, still_running: bool) -> None:
        super().__init__("no answer in time")
        self.still_running = still_running


class AbandonedError(KeyboardInterrupt):
    """Ctrl-C, and the call did not react to the interrupt: it still runs."""


def run_limited(seconds: float | None, memory_bytes: int, action: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Return `action()`, called in a thread, or raise its exception.

    `memory_bytes`: how much the process may map beyond what it has. After `seconds`, or on KeyboardInterrupt,
    `interrupt()` is called; LateError is raised if there was no result by then, AbandonedError if the call goes on
    after Ctrl-C. A thread that still runs then does not delay the end of the process.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()  # Thread.join, interrupted by Ctrl-C, considers the thread ended

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    with _memory_limit(memory_bytes):
        threading.Thread(target=run, daemon=True).start()
        try:
            done.wait(seconds)
        except KeyboardInterrupt:
            if not _end(done, interrupt, exit_code=3):
                raise AbandonedError from None
            raise
        is_late = not done.is_set()
        if is_late:
            _end(done, interrupt, exit_code=2)
    if results:
        return results[0]
    if errors and not is_late:
        raise errors[0]
    raise LateError(not done.is_set())


def _end(done: threading.Event, interrupt: Callable[[], None], exit_code: int) -> bool:
    """Interrupt the call. Returns whether it ended; if not, the process's end will not wait for it."""
    interrupt()
    if done.wait(GRACE_S):
        return True
    atexit.register(_exit_unless, done, exit_code)
    return False


def _exit_unless(done: threading.Event, exit_code: int) -> None:
    """End the process at once if the abandoned call is still running."""
    if not done.is_set():
        os._exit(exit_code)


@contextmanager
def _memory_limit(memory_bytes: int) -> Iterator[None]:
    """Limit the data segment (RLIMIT_DATA) of this process to what it uses now and `memory_bytes` more."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        used_bytes = int(status["VmData"].split()[0]) << 10
    except (OSError, KeyError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used_bytes + memory_bytes + THREAD_BYTES * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
