"""The kernels that points run on: the running one, and others in guests, all with the same interface."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine.guest.image import Image
from engine.guest.qemu_command import TCG
from engine.guest.runner import GuestRunner
from engine.kernel.feasibility import RefusedError
from engine.kernel.host import Machine, read_machine
from engine.kernel.outcome import Observation
from engine.kernel.runner import LIMIT_S, Runner, UnsupportedMachineError
from engine.kernel.server import PointError, ServerInfo, TimedOutError
from engine.model.arch import ARCHES
from engine.model.scenario import FIELD, Scenario
from sweep.common.errors import UserError
from sweep.kernel_images import kernel_cache
from sweep.kernel_images.kernel_cache import KernelChoice
from sweep.run.plan import Plan
from sweep.traces.trace_points import are_traces

TRACE_ARCH = "x86-64"
"""Recordings are of 4 KiB pages and tables of 2 MiB."""


class KernelFacts(Protocol):
    """What is known of a kernel that runs points. accel: host, kvm or tcg; the others as in Runner."""

    @property
    def accel(self) -> str: ...

    @property
    def pt_reclaim(self) -> bool: ...

    @property
    def machine(self) -> Machine: ...

    @property
    def info(self) -> ServerInfo: ...

    @property
    def policy(self) -> str: ...


class Kernel(KernelFacts, Protocol):
    """What Runner and GuestRunner have in common, so that tests can replace them."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def counts_pages(self) -> bool: ...

    def run(self, scenario: Scenario, unmap: bool = False) -> Observation: ...


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What a booted guest showed of its kernel, for processes without that guest. As in GuestRunner."""

    image: Image
    accel: str
    pt_reclaim: bool
    policy: str
    machine: Machine
    info: ServerInfo
    note: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What the points of a plan need of kernels. archs: of the points; pinned_archs: of those with guard markers."""

    archs: tuple[str, ...]
    pinned_archs: tuple[str, ...] = ()


def needs_of(plan: Plan) -> Needs:
    """What the remaining points of a plan need."""
    if plan.grid.traces:
        return TRACE_NEEDS
    archs, pinned = set[int](), set[int]()
    for chunk in plan.chunks():
        assert not are_traces(chunk.columns)
        archs |= set(np.unique(chunk.columns["arch"]).tolist())
        pinned |= set(np.unique(chunk.columns["arch"][chunk.columns["pinned"] > 0]).tolist())
    names = FIELD["arch"].choices
    in_order = [names.index(arch.name) for arch in ARCHES]
    return Needs(tuple(names[i] for i in in_order if i in archs), tuple(names[i] for i in in_order if i in pinned))


TRACE_NEEDS = Needs((TRACE_ARCH,))


def random_needs(names: Sequence[str]) -> Needs:
    """What random scenarios need: they are of the arch of the first kernel, running or in a guest."""
    first = kernel_cache.choose_kernels(names)[0]
    return Needs((first.arch or read_machine().arch or TRACE_ARCH,))


@contextmanager
def open_kernel(limit_s: float | None = None, inside: bool = False) -> Iterator[Runner]:
    """A Runner whose points have the time limit limit_s. Raises UserError if this machine cannot run any point.

    inside: count inside the kernel, too
    """
    try:
        with Runner(limit_s or LIMIT_S, inside) as runner:
            yield runner
    except UnsupportedMachineError as error:
        raise UserError(str(error)) from error


@contextmanager
def open_guest(choice: KernelChoice, limit_s: float | None = None) -> Iterator[GuestRunner]:
    """A kernel in a guest. Raises UserError if it cannot run any point."""
    assert choice.image is not None
    try:
        with GuestRunner(choice.image, kernel_cache.cache_folder(), limit_s or LIMIT_S) as runner:
            yield runner
    except UnsupportedMachineError as error:
        raise UserError(f"kernel {choice.name}: {error}") from error


@contextmanager
def open_timed(name: str | None) -> Iterator[Any]:
    """The kernel of this name, or the running one, if its times mean something: not in emulation. Raises UserError."""
    if name is None:
        with open_kernel() as kernel:
            yield kernel
        return
    with open_named([name], lambda: random_needs([name]), None, lambda line: None) as (named,):
        if not has_times(named.accel):
            release = named.machine.release
            raise UserError(f"--kernel {release}: is emulated, where times mean nothing; sweep kernel check says why")
        yield named


@contextmanager
def open_named(
    names: Sequence[str],
    find_needs: Callable[[], Needs],
    limit_s: float | None,
    say: Callable[[str], None],
    inside: bool = False,
) -> Iterator[list[Kernel]]:
    """The kernels of these names, those in guests booted; without names the running one.

    Raises UserError. Kernels that are named must have what the points need (find_needs); the running kernel on its own
    refuses the points that it cannot run. inside: count inside the running kernel, which must be one of them
    """
    if not names:
        with open_kernel(limit_s, inside) as kernel:
            yield [kernel]
        return
    if inside and kernel_cache.RUNNING not in names:
        raise UserError(
            f"--inside: counts inside the running kernel, which is not among the kernels: {', '.join(names)}"
            "; emulated guests are always counted inside"
        )
    needs = find_needs()
    choices = kernel_cache.choose_kernels(names, needs.archs)
    with ExitStack() as stack:
        kernels: list[Kernel] = []
        for choice in choices:
            if choice.image is None:
                kernels.append(stack.enter_context(open_kernel(limit_s, inside)))
                continue
            guest = stack.enter_context(open_guest(choice, limit_s))
            if guest.note and not any(isinstance(kernel, GuestRunner) for kernel in kernels):
                say(f"note: {guest.note}")
            kernels.append(guest)
        check_needs(kernels, needs)
        yield kernels


def check_needs(kernels: Sequence[KernelFacts], needs: Needs) -> None:
    """Raise UserError unless every point has a kernel of its arch, with guard markers if it has some; and for a kernel
    that no point is for."""
    for arch in needs.archs:
        if all(kernel.machine.arch != arch for kernel in kernels):
            have = ", ".join(f"{kernel.machine.release}: {kernel.machine.arch}" for kernel in kernels)
            raise UserError(f"arch {arch}: no kernel has it ({have}); sweep kernel get downloads others")
    for kernel in kernels:
        if kernel.machine.arch not in needs.archs:
            raise UserError(
                f"kernel {kernel.machine.release}: is {kernel.machine.arch}; the points need {', '.join(needs.archs)}"
            )
    for arch in needs.pinned_archs:
        of_arch = [kernel for kernel in kernels if kernel.machine.arch == arch]
        if not any(kernel.info.guards for kernel in of_arch):
            why = "lacks MADV_GUARD_INSTALL (6.13), which points with pinned above 0 need"
            raise UserError(f"kernel {of_arch[-1].machine.release}: {why}; --where 'pinned = 0' leaves these out")


def kernels_for(kernels: Sequence[KernelFacts], scenario: Scenario) -> list[int]:
    """The numbers of the kernels that a scenario runs on: those of its arch, with guard markers if it has some."""
    of_arch = [i for i, kernel in enumerate(kernels) if kernel.machine.arch == scenario.arch]
    able = [i for i in of_arch if scenario.pinned == 0 or kernels[i].info.guards]
    return able or of_arch or list(range(len(kernels)))  # if none can, each refuses it with the reason


def guest_of(kernel: Kernel) -> GuestRunner | None:
    """The guest that it runs in, None for the running kernel."""
    return kernel if isinstance(kernel, GuestRunner) else None


def has_times(accel: str) -> bool:
    """Whether the times that a kernel measures mean anything: not in emulation."""
    return accel != TCG


def status_of(error: Exception) -> str:
    """The status of a point whose run raised this error."""
    if isinstance(error, RefusedError):
        return "refused"
    return "timeout" if isinstance(error, TimedOutError) else "failed"


POINT_ERRORS = (RefusedError, PointError)
"""What Kernel.run raises for a point without a result."""
