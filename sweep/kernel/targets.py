"""The kernels of a launch, each with the policies that it runs points under, and what is recorded of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.guest.image import Image
from engine.guest.runner import GuestRunner
from engine.kernel.host import HOST
from engine.model.policy import ALL, BUILT_IN
from sweep.common.errors import UserError
from sweep.grid.grid import Grid
from sweep.kernel.open_kernels import GuestFacts, Kernel, KernelFacts
from sweep.kernel_images.kernel_cache import RUNNING

MUNMAP = "munmap"
AnyKernel = TypeVar("AnyKernel", bound=KernelFacts, covariant=True)


@dataclass(frozen=True, slots=True)
class Target(Generic[AnyKernel]):
    """A kernel and the policies that it runs the points under."""

    kernel: AnyKernel
    policies: tuple[str, ...]


LocalTarget = Target[Kernel]
"""A kernel on this machine."""


def targets_of(kernels: Sequence[AnyKernel], grid: Grid) -> list[Target[AnyKernel]]:
    """Each kernel with its policies. Raises UserError where a kernel has none that the grid asks for.

    A grid that names no policies runs under each kernel's own only: munmap needs a mapping per hole, so more points
    would be refused.
    """
    own_only = grid.policies == ALL
    return [Target(k, (k.policy,) if own_only else supported_policies(k, grid)) for k in kernels]


def supported_policies(kernel: KernelFacts, grid: Grid) -> tuple[str, ...]:
    """Those of the grid's policies that can run on this kernel, in the grid's order.

    They are the policy that the kernel implements, the grid's own rules that are equal to it, and munmap, except for
    recordings. Raises UserError if none is left, or if a rule of the grid's own differs from the kernel's policy.
    """
    name = "this kernel" if kernel.accel == HOST else f"Linux {kernel.machine.release}"
    supported = (kernel.policy,) if grid.traces else (kernel.policy, MUNMAP)
    for policy in grid.policies:
        if policy.name not in BUILT_IN:
            if policy.effective != BUILT_IN[kernel.policy].effective:
                message = f"{name} follows {kernel.policy}, not the grid's own rule {policy.name}"
                raise UserError(f"{grid.location('policies')}: {message}; leave it out: -S policies={kernel.policy}")
            supported = (*supported, policy.name)
    policies = tuple(policy for policy in grid.policy_names if policy in supported)
    if not policies:
        asked = ", ".join(grid.policy_names)
        raise UserError(
            f"{grid.location('policies')}: {name} shows {' and '.join(supported)}; the grid asks for {asked}"
        )
    return policies


def kernel_identity(kernel: KernelFacts) -> str:
    """What a run records of a kernel: it continues only on the same ones."""
    return image_identity(kernel.image) if isinstance(kernel, GuestRunner | GuestFacts) else RUNNING


def image_identity(image: Image) -> str:
    """The release and a hash of an image."""
    return f"{image.release} {hashlib.blake2b(image.path.read_bytes(), digest_size=8).hexdigest()}"


def targets_text(targets: Sequence[Target[KernelFacts]]) -> str:
    """Where a launch runs: `the live kernel: merged`, or `Linux 6.12.3 (tcg): none; Linux 7.3.4 (tcg): merged`."""
    names = (
        "the live kernel" if t.kernel.accel == HOST else f"Linux {t.kernel.machine.release} ({t.kernel.accel})"
        for t in targets
    )
    return "; ".join(f"{name}: {', '.join(t.policies)}" for name, t in zip(names, targets, strict=True))


def kernel_names(targets: Sequence[Target[KernelFacts]]) -> str:
    """`Linux 6.12.3, 7.3.4` for messages."""
    return "Linux " + ", ".join(target.kernel.machine.release for target in targets)


def run_facts(kernel: KernelFacts) -> dict[str, Any]:
    """What run.json records about a kernel and the machine that it saw."""
    machine, info = kernel.machine, kernel.info
    return {
        "release": machine.release,
        "arch": machine.arch,
        "accel": kernel.accel,
        "pt_reclaim": kernel.pt_reclaim,
        "thp": machine.thp,
        "fifth_level": info.fifth_level,
        "loop_ns": info.loop_ns,
    }
