"""Reads recordings of memory calls in every form, as calls on address spaces and events of threads.

Imports engine and sweep.common.
"""
