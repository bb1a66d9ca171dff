"""Recordings of memory calls: read traces and strace output, replay them under every policy, use them as points.

Imports engine and sweep.common.
"""
