"""How engine's functions are compiled: a `kernel` is called from Python, an `inner` only from compiled code.

What is called only from compiled code needs no wrappers for Python and C, which take long to compile;
and it is compiled once for all whole numbers, not again for each that a caller writes out.
Neither makes an array or keeps one (engine/walk/scratch.py), so neither counts references to those it is given,
which cost small points dear.
"""

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.types.misc import unliteral

kernel = njit(nogil=True, _nrt=False)
"""For engine.portable_code alone, which makes of it what engine.compilation.native_code runs."""


def inner(function: Callable[..., Any]) -> Any:
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    compiled = njit(**options)(function)
    found = compiled.get_call_template
    compiled.get_call_template = lambda args, kws: found(tuple(map(unliteral, args)), kws)
    return compiled
