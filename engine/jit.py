"""How engine's functions are compiled: `kernel` is called from Python, `inner` only from compiled code.

What is called only from compiled code needs no wrappers for Python and C, which are a quarter of the time to compile.
Neither makes an array or keeps one (engine/room.py), so neither counts references to those it is given: counting was a
sixth of a small point's time.
"""

from numba import njit

kernel = njit(cache=True, nogil=True, _nrt=False)
inner = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)
