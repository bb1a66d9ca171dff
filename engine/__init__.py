"""What page tables do. Knows numpy, numba with its llvmlite, and the standard library, nothing else."""

from engine.compilation import cache

MODEL_VERSION = 3
"""Part of every point's identity: raised whenever the same scenario may give another outcome."""

cache.choose_cache()
