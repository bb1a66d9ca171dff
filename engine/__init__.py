"""Model of page tables under policies that free empty ones. Imports only numpy, numba and the standard library."""

MODEL_VERSION = 4
"""Part of every point id. Raised by each change after which a scenario may give a different outcome."""
