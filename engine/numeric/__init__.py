"""Bit operations for compiled code, Numba's options, and its cache folder. Imports no other package of engine."""
