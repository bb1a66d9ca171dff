"""Bit operations for compiled code, how functions are compiled, and the folder of their code, chosen at this import.

Imports nothing else of engine. No other package imports numba's decorators, so the folder is chosen before any is used.
"""

from engine.numeric import compiled_cache

compiled_cache.choose_cache()
