"""Set-up for all tests."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell ignores SIGINT in the jobs that it runs in the background, and their children inherit that."""
