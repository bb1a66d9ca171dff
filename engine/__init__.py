"""What page tables do. Imports numpy, numba and the standard library, nothing else."""

from engine.numeric import compiled_cache

MODEL_VERSION = 3
"""Part of every point's identity: raised whenever the same scenario may give another outcome."""

compiled_cache.choose_cache()
