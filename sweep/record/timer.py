"""Signals while a recording runs: a timer that says when to look at pages, and what ends the recording."""

import signal
import time
from types import FrameType
from typing import Any

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
INTERVAL_S = 0.1
"""Time between two looks at all pages. It grows, so that looking takes at most LARGEST_SHARE of the time."""
LARGEST_SHARE = 0.05


class Timer:
    """A context in which signals set flags. Each interrupts a system call, so a wait never lasts above INTERVAL_S.

    interrupts: how many of SIGINT, SIGTERM, SIGHUP and SIGQUIT came
    """

    def __init__(self) -> None:
        self.interrupts = 0
        self._rings = False
        self._next_s = 0.0
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Timer":
        for number in (signal.SIGALRM, *_ENDS):
            former = signal.getsignal(number)
            if number is signal.SIGALRM or former is not signal.SIG_IGN:  # nohup
                self._former[number] = former
                signal.signal(number, self._ring if number is signal.SIGALRM else self._interrupt)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_S, INTERVAL_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, former in self._former.items():
            signal.signal(number, former)

    def is_due(self) -> bool:
        """Whether it is time to look at all pages."""
        if not self._rings:
            return False
        self._rings = False
        return time.monotonic() >= self._next_s

    def has_looked(self, seconds: float) -> None:
        """Note that looking at all pages took so many seconds: the time of the next look follows from it."""
        self._next_s = time.monotonic() + seconds / LARGEST_SHARE - seconds

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self._rings = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1
