"""What every test may take for granted."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell starts what it runs in the background with SIGINT ignored, and children inherit that."""
