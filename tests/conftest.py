"""Set-up for all tests."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
"""A shell ignores SIGINT and SIGQUIT in the jobs that it runs in the background, and their children inherit that."""
