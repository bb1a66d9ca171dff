"""How engine's functions are compiled: a `kernel` is called from Python, an `inner` function only from compiled code.

Functions that only compiled code calls need no wrappers for Python and C, which take long to compile, and are compiled
once for all integers, not again for each literal. Neither makes an array or keeps one: without reference counts
(`_nrt=False`) small points take less time.
"""

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.types.misc import unliteral

kernel = njit(nogil=True, _nrt=False, cache=True)
"""For functions that Python calls; their code is kept in Numba's cache (engine.numeric.compiled_cache)."""


def inner(function: Callable[..., Any]) -> Any:
    """For functions that only compiled code calls."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    compiled = njit(**options)(function)
    template = compiled.get_call_template
    compiled.get_call_template = lambda args, kws: template(tuple(map(unliteral, args)), kws)
    return compiled
