"""Passes over an address space: any point (walk.py), calls of whole slots (slots.py), of aligned parts (parts.py).

Imports reclaim and what is below it.
"""
