"""Bit operations for compiled code, and Numba's options. Imports nothing of engine."""
