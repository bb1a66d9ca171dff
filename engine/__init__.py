"""Model of page tables under policies that free empty ones. Imports only numpy, numba and the standard library."""

from engine.numeric import compiled_cache

MODEL_VERSION = 3
"""Part of every point id. Raised by each change after which a scenario may give a different outcome."""

compiled_cache.choose_cache()
