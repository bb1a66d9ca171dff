"""Counters inside a kernel, running or in a guest: kprobes with hist triggers of tracefs."""
