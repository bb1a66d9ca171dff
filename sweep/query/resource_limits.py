"""A question in bounded time and memory, whoever answers: what does not listen to an interrupt is left behind.

DuckDB hears an interrupt between blocks of rows only, and levenshtein() of two long texts takes an hour a block; nor
does its own memory limit count long texts and lists.
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
THREAD_BYTES = 64 << 20
"""What a thread of the answerer may map before it has done anything."""


class LateError(Exception):
    """No answer in time. `goes_on`: nor did it listen to the interrupt."""

    def __init__(self, goes_on: bool) -> None:
        super().__init__("no answer in time")
        self.goes_on = goes_on


def within(seconds: float | None, most_bytes: int, ask: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """What `ask` gives, or raises: in a thread, which may go on. The process then ends without waiting for it."""
    answers: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()  # Thread.join, when a Ctrl-C cuts it short, takes the thread for ended

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    with _room(most_bytes):
        threading.Thread(target=run, daemon=True).start()
        try:
            done.wait(seconds)
        finally:  # a Ctrl-C, too
            late = not done.is_set()
            if late:
                interrupt()
                if not done.wait(GRACE_S):
                    atexit.register(_leave, done)
    if answers:
        return answers[0]
    if errors and not late:
        raise errors[0]
    raise LateError(not done.is_set())


def _leave(done: threading.Event) -> None:
    """The end of a process with a question that nobody waits for: now, and as bad usage, which it was."""
    if not done.is_set():
        os._exit(2)


@contextmanager
def _room(most_bytes: int) -> Iterator[None]:
    """Keeps this process from taking more than that, beside what it has."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        used_bytes = int(status["VmData"].split()[0]) << 10
    except (OSError, KeyError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = used_bytes + most_bytes + THREAD_BYTES * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_DATA, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
