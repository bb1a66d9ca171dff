"""Decorators that compile functions with Numba: `kernel` and `shared` if Python calls them, `inner` if it does not.

An `inner` function has no wrappers for Python and C, whose compilation is slow, is optimised only as part of what calls
it (engine.numeric.linked_code), and is compiled once for all integer arguments instead of once per literal. `kernel`
and `inner` compile without reference counting (`_nrt=False`), which saves time on small points, so they cannot allocate
arrays or store references to them; `shared` functions can.
Nothing is ever divided by 0, so no function checks for it (`error_model="numpy"`): less code to compile and to run.
"""

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.types.misc import unliteral

from engine.numeric.linked_code import LinkedCompiler

kernel = njit(nogil=True, _nrt=False, cache=True, error_model="numpy", no_cfunc_wrapper=True)
"""Decorator for functions that Python calls. Their code is stored in Numba's cache (engine.numeric.compiled_cache)."""


shared = njit(nogil=True, cache=True, error_model="numpy")
"""Decorator for functions that both Python and compiled code call. They may allocate arrays."""


def inner(function: Callable[..., Any]) -> Any:
    """Decorator for functions that only compiled code calls."""
    return _for_compiled_code(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As `inner`, for functions called once per piece of a call, where passing the arguments would take longest.

    An array or a NamedTuple of arrays is passed by value, which is up to a hundred words.
    """
    return _for_compiled_code(function, forceinline=True)


def _for_compiled_code(function: Callable[..., Any], **more: bool) -> Any:
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False, "error_model": "numpy"} | more
    compiled = njit(pipeline_class=LinkedCompiler, **options)(function)
    template = compiled.get_call_template
    compiled.get_call_template = lambda args, kws: template(tuple(map(unliteral, args)), kws)
    return compiled
