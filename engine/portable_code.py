"""Kernels from Python to portable code: LLVM's, typed and optimised by Numba, not yet any CPU's instructions.

Numba needs half a minute for it, most of that in Python, so it is done before a release (scripts/portable) and kept in
engine/compilation/portable/. What is left for the first run on a machine, native_code.py does in some seconds.
"""

import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import typeof

from engine.compilation.native_code import Kernel, Portable, leaves, maker, packed
from engine.model.scenario import Scenario, columns_of
from engine.random.binomial import CELLS
from engine.random.cdf_cells import ASKED
from engine.random.inverse_cdf import CDF
from engine.run import COMPILED, arguments, blank
from engine.walk.encode import encode


def write(name: str, path: str) -> None:
    """The file of the kernel of that name."""
    (kernel,) = (kernel for kernel in COMPILED if kernel.name == name)
    Path(path).write_bytes(packed(lower(kernel)))


def lower(kernel: Kernel) -> Portable:
    """One kernel, tuned for the CPU that NUMBA_CPU_NAME names."""
    given = taken(kernel)
    kernel.function.compile(tuple(map(typeof, given)))
    (signature,) = kernel.function.signatures
    module = llvm.parse_assembly(without_errors(kernel.function.inspect_llvm(signature)))
    module.get_function(kernel.function.overloads[signature].fndesc.llvm_func_name).name = kernel.entry
    return Portable(stripped(module, kernel.entry), [[array.dtype.str, array.ndim] for array in leaves(given)], maker())


def taken(kernel: Kernel) -> tuple[Any, ...]:
    """What a kernel is called with, for the types."""
    if kernel is CDF:
        return np.zeros(ASKED, np.int64), np.zeros(0, np.uint64), np.zeros(CELLS, np.uint32)
    one = encode(columns_of([Scenario(virt=1 << 21, sparsity=0.0)]))  # no CDF: that needs compiled code
    return arguments(kernel, one, one.par, np.zeros(0, np.int64), blank(one))


def without_errors(code: str) -> str:
    """LLVM's text without the errors that Numba packs into it: nobody reads them, and they tell where this lies."""
    code = re.sub(
        r"(@\.const\.pickledata\.\S+ = .*constant) \[\d+ x i8\] c\".*\"", r"\1 [1 x i8] zeroinitializer", code
    )
    return re.sub(r"(\{ ptr @\.const\.pickledata\.\w+, i32) \d+", r"\1 0", code)


def stripped(module: llvm.ModuleRef, entry: str) -> bytes:
    """Bitcode of one function and what it needs: nothing that Python would call it through, and no other names."""
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != entry:
            value.linkage = "internal"
    module.name = entry
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=0))
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    passes.add_strip_symbols_pass()
    passes.run(module, builder)
    return bytes(module.as_bitcode())
