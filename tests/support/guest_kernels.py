"""Two real kernels for tests in guests, one from before 6.14 and one from after, or the reason why there are none."""

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from engine.guest import agent, qemu_command
from engine.guest.image import X86, Image
from sweep.common.errors import UserError
from sweep.kernel_images import kernel_cache
from sweep.kernel_images.kernel_cache import choose_kernels

RELEASES = ("6.12", "7.3")
GET_S = 240.0


@cache
def why_not() -> str:
    """Why tests cannot boot RELEASES here, empty if they can. Downloads them first if they are not there."""
    if platform.system() != "Linux":
        return "guests need Linux"
    if qemu_command.find_qemu(X86) is None:
        return qemu_command.missing_qemu(X86)
    if agent.find_compiler(X86) is None:
        return agent.missing_compiler(X86)
    try:
        choose_kernels(RELEASES, ("x86-64",))
    except UserError:
        command = [sys.executable, "-m", "sweep", "kernel", "get", *RELEASES, "--arch", "x86-64"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=GET_S, check=False)
        except subprocess.TimeoutExpired:
            return f"sweep kernel get {' '.join(RELEASES)} did not end in {GET_S:g} s"
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
    return ""


def need_kernels() -> None:
    """Skip the test where they cannot be booted, with the reason."""
    if why_not():
        pytest.skip(f"no kernels in guests: {why_not()}")


def image(release: str) -> Image:
    (choice,) = choose_kernels([release], ("x86-64",))
    assert choice.image is not None
    return choice.image


def agents_folder() -> Path:
    return kernel_cache.cache_folder()
