"""Ctrl-C, SIGTERM and SIGHUP: the first asks for an orderly end, the second ends at once."""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, signals come here. Until `gentle` is set, and from the second on, they raise KeyboardInterrupt."""

    def __init__(self) -> None:
        self.gentle = False
        self.asked = 0
        """The first signal's number, once there was one."""
        self._raised = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # What is ignored stays so: nohup, and Ctrl-C of a job in the background.
            self._before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        self.arm()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """Take the signals; again after Ray's start, which takes SIGTERM for itself."""
        for number in self._before:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, self.asked or number
        if self._raised or (first and self.gentle):
            return  # cleaning up is short and must not be cut; or: the driver looks at `asked`
        self._raised = True
        raise KeyboardInterrupt
