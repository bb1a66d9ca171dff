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


def run_limited(seconds: float | None, memory_bytes: int, action: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Return `action()`, called in a thread, or raise its exception.

    `memory_bytes`: how much the process may map beyond what it has. After `seconds`, or on KeyboardInterrupt,
    `interrupt()` is called; LateError is raised if there was no result by then. A thread that still runs then does not
    delay the end of the process.
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
        finally:  # also on KeyboardInterrupt
            is_late = not done.is_set()
            if is_late:
                interrupt()
                if not done.wait(GRACE_S):
                    atexit.register(_exit_unless, done)
    if results:
        return results[0]
    if errors and not is_late:
        raise errors[0]
    raise LateError(not done.is_set())


def _exit_unless(done: threading.Event) -> None:
    """End the process at once if the abandoned call is still running. Exit code 2: the query was at fault."""
    if not done.is_set():
        os._exit(2)


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
