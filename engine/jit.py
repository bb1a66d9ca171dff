"""How engine's functions are compiled: `kernel` is called from Python, `inner` only from compiled code.

What is called only from compiled code needs no wrappers for Python and C, which are a quarter of the time to compile.
"""

from numba import njit

kernel = njit(cache=True, nogil=True)
inner = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
