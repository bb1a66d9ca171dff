"""Compiles the agent (agent.c) with the machine's own C compiler, once for each version of its source."""

import os
import platform
import shutil
import subprocess
import tempfile
from hashlib import blake2b
from pathlib import Path

from engine.guest.image import ARM, X86
from engine.kernel.host import UnsupportedMachineError

SOURCE = Path(__file__).with_name("agent.c")
FLAGS = {
    X86: ("-static", "-no-pie"),
    # With 16 KiB pages a PUD table maps 128 TiB. A program that can be moved is loaded into the upper half of the
    # address space, so that the lower half is the VMA's alone.
    ARM: ("-static-pie",),
}
COMPILERS = {
    X86: ("cc", "gcc", "clang", "x86_64-linux-gnu-gcc"),
    ARM: ("cc", "gcc", "clang", "aarch64-linux-gnu-gcc"),
}
INSTALL = {
    (X86, True): "apt install gcc libc6-dev",
    (ARM, True): "apt install gcc libc6-dev",
    (X86, False): "apt install gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    (ARM, False): "apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}
"""What installs a compiler, by target and by whether this machine is of that kind."""


def find_compiler(machine: str) -> str | None:
    """The path of a C compiler for that machine (uname -m), None if there is none."""
    is_native = platform.machine() == machine
    names = COMPILERS[machine][:3] if is_native else COMPILERS[machine][3:]
    return next(filter(None, map(shutil.which, names)), None)


def missing_compiler(machine: str) -> str:
    """One line that says what to install."""
    return f"no C compiler for {machine}; {INSTALL[machine, platform.machine() == machine]}"


def agent_program(machine: str, folder: Path) -> bytes:
    """The agent for a machine, compiled into `folder` if it is not there yet. Raises UnsupportedMachineError."""
    compiler = find_compiler(machine)
    if compiler is None:
        raise UnsupportedMachineError(missing_compiler(machine))
    digest = blake2b(SOURCE.read_bytes() + repr(FLAGS[machine]).encode(), digest_size=6).hexdigest()
    program = folder / f"agent-{machine}-{digest}"
    try:
        return program.read_bytes()
    except OSError:
        return _compile(compiler, machine, program)


def _compile(compiler: str, machine: str, program: Path) -> bytes:
    """Compile the agent to the file `program` and return its bytes. Raises UnsupportedMachineError.

    Writes a temporary file and renames it, so that two processes can do it at once.
    """
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".agent-", dir=program.parent) as folder:
        new = Path(folder) / "agent"
        command = [compiler, *FLAGS[machine], "-O2", "-s", "-pthread", "-o", str(new), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [f"{compiler} failed"]
            raise UnsupportedMachineError(
                f"the agent cannot be compiled: {lines[-1][:200]}; is libc's static library there?"
            )
        data = new.read_bytes()
        os.replace(new, program)  # noqa: PTH105
    return data
