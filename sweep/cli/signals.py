"""SIGINT, SIGTERM, SIGHUP and SIGQUIT while a command runs: it ends with one line and exit code 3.

Installed before anything else is imported, as imports take a second. A launch has handlers of its own meanwhile
(sweep.run.interrupts).
"""

import os
import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
INTERRUPTED = 3
LINE = "interrupted"


class _Handler:
    """The first signal raises KeyboardInterrupt in the main thread; the second ends the process at once."""

    def __init__(self) -> None:
        self.has_raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.has_raised:
            os.write(2, f"sweep: {LINE}\n".encode())
            os._exit(INTERRUPTED)
        self.has_raised = True
        raise KeyboardInterrupt


def handle_signals() -> dict[signal.Signals, Any]:
    """Handle SIGNALS, except those that are ignored, such as SIGHUP under nohup. Returns the former handlers."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number: handler for number, handler in former.items() if handler is not signal.SIG_IGN}
    handler = _Handler()
    for number in handled:
        signal.signal(number, handler)
    return handled


def ignore_signals() -> None:
    """Ignore SIGNALS from now on: the command has ended, and only Python's own shutdown is left."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
