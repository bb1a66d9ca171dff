"""Recordings of memory calls: replay them process by process under every policy, use them as points.

Imports engine, sweep.common and sweep.trace_readers.
"""
