"""`python -m sweep.cli`, and what the command `sweep` calls."""

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

from sweep.cli.signals import INTERRUPTED, LINE, handle_signals, ignore_signals


def run() -> NoReturn:
    """Run the command of sys.argv and end the process with its exit code. Signals are handled from here on."""
    try:
        handle_signals()
        from sweep.cli.main import main

        code = main()
    except KeyboardInterrupt:  # while modules were imported, or after the command had ended
        print(f"sweep: {LINE}", file=sys.stderr)
        code = INTERRUPTED
    ignore_signals()
    _end(code)


def _end(code: int) -> NoReturn:
    """End the process without Python's shutdown.

    The shutdown ends with SIGINT after a KeyboardInterrupt that has passed an exec(), as in dataclasses, though it was
    caught. And a thread of Arrow's that has just started aborts the process while C++ objects are destroyed.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # main() has reported it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
