"""`python -m sweep.cli`, and what the command `sweep` calls."""

import os
import sys

from sweep.cli.signals import INTERRUPTED, LINE, handle_signals, ignore_signals


def run() -> int:
    """Run the command of sys.argv and return its exit code. Signals are handled from here on."""
    try:
        handle_signals()
        from sweep.cli.main import main

        code = main()
    except KeyboardInterrupt:  # while modules were imported, or after the command had ended
        print(f"sweep: {LINE}", file=sys.stderr)
        code = INTERRUPTED
    ignore_signals()
    if code == INTERRUPTED:
        # Not sys.exit: Python would end by SIGINT where the exception has passed an exec(), as in dataclasses.
        sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
