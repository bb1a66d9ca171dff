"""Recordings: read trace files and strace output, replay them under every policy. Imports common."""
