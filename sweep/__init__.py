"""Everything around the engine: grids, plans, Ray, the store, SQL, commands, and the Python API.

    import sweep

    run = sweep.launch("grids/first.yaml")    # or a grid as a dict; results="DIR" for another store
    run.outcomes().df()                       # Arrow inside; .df() is pandas, .pl() polars
    run.sql("SELECT policy, avg(vm_pte_kib_end) AS kib FROM latest GROUP BY policy")
    run.plot(x="zap", facet="cluster")        # shows itself in a notebook; .save("a.svg")
    sweep.evaluate(virt="1TiB", sparsity=0.99, zap="2MiB")

Bad input raises UserError with the line that the command prints. The names below are imported when they are used, so
that commands start fast; __init__.pyi has their types.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Picture", "Rows", "Run", "UserError", "__version__", "evaluate", "launch", "runs"]

_MODULES = {
    "Picture": "sweep.api.picture",
    "Rows": "sweep.api.rows",
    "Run": "sweep.api.run",
    "UserError": "sweep.common.errors",
    "evaluate": "sweep.api.evaluate",
    "launch": "sweep.api.run",
    "runs": "sweep.api.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sweep' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
