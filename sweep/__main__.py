"""`python -m sweep`: the command line, for when the script `sweep` is not on PATH."""

from sweep.cli.__main__ import run

run()
