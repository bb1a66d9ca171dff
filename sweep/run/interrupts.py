"""SIGINT, SIGTERM, SIGHUP and SIGQUIT during a launch: the first asks for an orderly end, the second ends at once."""

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupts:
    """Context manager that handles SIGNALS. A signal raises KeyboardInterrupt in the main thread, with two exceptions.

    While `defers_first` is true, the first signal only sets `received`, which the driver checks. Once KeyboardInterrupt
    was raised, further signals are ignored, so that cleaning up is not interrupted.
    """

    def __init__(self) -> None:
        self.defers_first = False
        self.received = 0
        """Number of the first signal; 0 before it."""
        self._has_raised = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # What is ignored stays ignored: SIGHUP under nohup, SIGINT of a background job.
            self._previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in self._previous:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_coming(self, seconds: float) -> bool:
        """Whether a signal has been received, or is within so many seconds."""
        end = time.monotonic() + seconds
        while not self.received and time.monotonic() < end:
            time.sleep(0.02)
        return bool(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = not self.received
        self.received = self.received or number
        if self._has_raised or (is_first and self.defers_first):
            return
        self._has_raised = True
        raise KeyboardInterrupt
