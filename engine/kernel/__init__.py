"""Runs scenarios on the kernel of this machine. Imports engine.run and what is below it, nothing of sweep."""
