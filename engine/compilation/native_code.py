"""Kernels as this machine runs them: portable code (portable_code.py) made its CPU's instructions, once, and kept.

The folder portable/ holds the portable code for x86-64, named after the sources that it was made from. If these have
changed since, and on any other machine, Numba makes it anew.
"""

import ctypes
import json
import lzma
import platform
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numpy.typing import NDArray

from engine.compilation.cache import cache_folder, kept, sources_of, whole
from engine.isolated_python import SAFE_FOLDER, isolated_command, isolated_environment

HERE = Path(__file__).parent
SHIPPED = HERE / "portable"
SHIPS_FOR = "x86_64"
TUNED_FOR = {"NUMBA_CPU_NAME": "x86-64-v4", "NUMBA_CPU_FEATURES": "-prefer-256-bit"}
"""Portable code runs on every CPU of its kind; for this one Numba chose how wide its steps are: 512 bits."""
LOWER = "import sys; from engine.portable_code import write; write(*sys.argv[1:])"
FINE = (0, -2)
"""What Numba's functions return when all is well: a value, or None."""
Code = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Portable:
    """LLVM bitcode of one kernel, the arrays that it takes ([dtype, dimensions] of each), and what made it."""

    bits: bytes
    arguments: list[list[Any]]
    maker: str


@dataclass(eq=False)
class Kernel:
    """Compiled code. `function` is its source, as Numba takes it; `room_for` makes scratch for points to walk."""

    function: Any
    room_for: Callable[[NDArray[np.int64]], Any] = lambda par: ()
    _code: Code | None = None
    _arguments: list[list[Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.function.py_func.__name__)

    @property
    def entry(self) -> str:
        """What its code is called."""
        return f"engine_{self.name}"

    @property
    def is_ready(self) -> bool:
        """Whether this process has it."""
        return self._code is not None

    @property
    def is_compiled(self) -> bool:
        """Whether some process of this machine has compiled and kept it."""
        portable = _found(self)
        return portable is not None and _place(self, portable).exists()

    def ready(self) -> None:
        """Have it compiled, or found compiled. Raises RuntimeError if Numba is needed and fails."""
        with _lock:
            if self._code is None:
                data = _portable(self)
                portable = unpacked(data)
                self._arguments = portable.arguments
                self._code = _loaded(self.entry, kept(_place(self, data), lambda: _compiled(portable)))

    def __call__(self, *given: Any) -> None:
        """Run it. given: contiguous arrays, and tuples of them, of the types that its source was made for."""
        self.ready()
        assert self._code is not None
        arrays = list(leaves(given))
        taken = [[array.dtype.str, array.ndim] for array in arrays]
        if taken != self._arguments or not all(array.flags.c_contiguous for array in arrays):
            raise TypeError(f"{self.name} takes contiguous arrays of {self._arguments}, not {taken}")
        result, problem = ctypes.c_void_p(), ctypes.c_void_p()
        numbers = [ctypes.c_int64(number) for array in arrays for number in _as_numba_passes(array)]
        status = self._code(ctypes.byref(result), ctypes.byref(problem), *numbers)
        if status not in FINE:
            raise RuntimeError(f"{self.name} ended with status {status}")


def leaves(given: Any) -> Iterator[NDArray[Any]]:
    """The arrays of nested tuples, in order."""
    if isinstance(given, np.ndarray):
        yield given
    else:
        for inner in given:
            yield from leaves(inner)


def _as_numba_passes(array: NDArray[Any]) -> tuple[int, ...]:
    """Nobody to count references for; items, bytes of one, where, how many and how far apart in each dimension."""
    return (0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides)


def shipped(kernel: Kernel) -> Path:
    """Where the portable code of a kernel's very sources lies, if it is there."""
    digest = blake2b(digest_size=6)
    for source in (*sources_of(kernel.function.py_func.__module__), HERE.parent / "portable_code.py"):
        digest.update(source.read_bytes())
    return SHIPPED / f"{kernel.name}-{digest.hexdigest()}.bc.xz"


def lowered(kernel: Kernel) -> bytes:
    """Portable code as a file's bytes, made by Numba in a process of its own."""
    chosen = TUNED_FOR if platform.machine() == SHIPS_FOR else {}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, kernel.name)
        command = isolated_command(LOWER, kernel.name, str(made))
        others = {name: value for name, value in isolated_environment().items() if not name.startswith("NUMBA_")}
        alone = {"NUMBA_CACHE_DIR": folder, "PYTHONHASHSEED": "0"}  # the same bits whatever was compiled before
        done = subprocess.run(
            command, cwd=SAFE_FOLDER, env=others | chosen | alone, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"Numba cannot compile {kernel.name}: {''.join(done.stderr.splitlines()[-1:])}")
        return made.read_bytes()


def packed(portable: Portable) -> bytes:
    """Portable code as a file's bytes."""
    head = json.dumps({"arguments": portable.arguments, "maker": portable.maker}).encode()
    return lzma.compress(head + b"\n" + portable.bits, preset=9 | lzma.PRESET_EXTREME)


def unpacked(data: bytes) -> Portable:
    """The reverse."""
    head, _, bits = lzma.decompress(data).partition(b"\n")
    return Portable(bits, **json.loads(head))


def maker() -> str:
    """What portable code depends on beside its sources."""
    python = ".".join(platform.python_version_tuple()[:2])
    versions = f"Python {python}, numba {numba.__version__}, llvmlite {llvmlite.__version__}"
    return f"{versions}, {platform.machine()}"


def _portable(kernel: Kernel) -> bytes:
    """What ships, or what Numba makes here, as a file's bytes."""
    return _found(kernel) or kept(_made_here(kernel), lambda: lowered(kernel))


def _found(kernel: Kernel) -> bytes | None:
    """The same if it is there."""
    path = shipped(kernel)
    return path.read_bytes() if platform.machine() == SHIPS_FOR and path.exists() else whole(_made_here(kernel))


def _made_here(kernel: Kernel) -> Path:
    return cache_folder() / f"{shipped(kernel).name}-{_digest(maker())}-{_cpu()}"


def _place(kernel: Kernel, portable: bytes) -> Path:
    """Where its machine code is kept."""
    return cache_folder() / f"{kernel.name}-{_digest(portable)}-{_cpu()}.o"


def _digest(of: str | bytes) -> str:
    return blake2b(of.encode() if isinstance(of, str) else of, digest_size=6).hexdigest()


_lock = threading.Lock()


def _target() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="default",
        codemodel="jitdefault",
        jit=True,
    )


@cache
def _cpu() -> str:
    """Of this CPU, as LLVM knows it, and of this LLVM."""
    features = llvm.get_host_cpu_features().flatten()
    told = f"{llvmlite.__version__} {llvm.get_process_triple()} {llvm.get_host_cpu_name()} {features}"
    return _digest(told)


def _compiled(portable: Portable) -> bytes:
    """An object file."""
    target, module = _target(), llvm.parse_bitcode(portable.bits)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    return bytes(target.emit_object(module))


def _loaded(entry: str, machine_code: bytes) -> Code:
    memory = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    memory.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
    memory.finalize_object()
    code = ctypes.CFUNCTYPE(ctypes.c_int32)(memory.get_function_address(entry))
    vars(code)["memory"] = memory  # which the code lies in: it must live as long
    return code
