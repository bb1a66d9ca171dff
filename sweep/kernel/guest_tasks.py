"""What Ray's workers do with kernels in guests: check which ones a node can boot, and run points on one of them.

A task boots a guest, runs its points, and ends the guest. Imports no Ray: tasks are called by sweep.executors.ray_task.
"""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.guest.qemu_command import GUEST_BYTES
from engine.guest.runner import GuestRunner
from engine.kernel.host import UnsupportedMachineError
from engine.kernel.outcome import Observation
from engine.kernel.runner import LIMIT_S
from engine.model.arch import MIB
from engine.model.scenario import Columns
from sweep.executors.base import BatchStatus, Done
from sweep.executors.failure import Failure
from sweep.kernel.open_kernels import POINT_ERRORS, GuestFacts
from sweep.kernel.point_runs import PointFailure, failure_of, observe
from sweep.kernel_images import kernel_cache
from sweep.kernel_images.shipped_images import ShippedImage, unpack

TASK_BYTES = GUEST_BYTES + 512 * MIB
"""Memory of a task: the guest's, and that of QEMU and the worker."""


@dataclass(frozen=True, slots=True)
class PointAnswer:
    """What a kernel showed of a point under each policy, or why there is nothing. cpu_ns: of guest and worker."""

    observations: tuple[Observation, ...]
    failure: PointFailure | None
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The answers to the points of a GuestBatch, in order. accel: kvm or tcg, of the guest that ran them."""

    accel: str
    points: tuple[PointAnswer, ...]


class NodeCheck:
    """Boots each of the images that the tasks share, one after the other."""

    def __call__(self, on_start: Callable[[], None], node: str, shared: bytes) -> tuple[GuestFacts | str, ...]:
        """The facts of each kernel, or why this node cannot boot it."""
        on_start()
        return tuple(_facts_of(shipped) for shipped in pickle.loads(shared))


@dataclass(frozen=True, slots=True)
class GuestBatch:
    """Points to run on one kernel, under each of these policies. kernel: its index in the images that tasks share.

    columns: of the points, with the contents of recordings; point_limit_s: time limit of a point
    """

    number: int
    kernel: int
    policies: tuple[str, ...]
    columns: Columns
    point_limit_s: float | None = None

    def __call__(self, on_start: Callable[[], None], node: str, shared: bytes) -> Done:
        """A Done with a BatchAnswer; without one if no guest boots."""
        on_start()
        try:
            image = unpack(pickle.loads(shared)[self.kernel])
            with GuestRunner(image, kernel_cache.cache_folder(), self.point_limit_s or LIMIT_S) as guest:
                points = len(self.columns["virt"])
                answers = tuple(self._run(guest, place) for place in range(points))
                return Done(self.number, node=node, answer=BatchAnswer(guest.accel, answers))
        except (UnsupportedMachineError, OSError) as error:
            return Done(self.number, BatchStatus.LOST, failure=Failure(str(error), type(error).__name__), node=node)

    def _run(self, guest: GuestRunner, place: int) -> PointAnswer:
        one = {name: values[place : place + 1] for name, values in self.columns.items()}
        cpu_ns = time.process_time_ns()
        try:
            observations = observe(guest, self.policies, one)
        except POINT_ERRORS as error:
            return PointAnswer((), failure_of(error), time.process_time_ns() - cpu_ns)
        inside_ns = sum(o.install_ns + o.zap_ns for o in observations)
        return PointAnswer(observations, None, inside_ns + time.process_time_ns() - cpu_ns)


def _facts_of(shipped: ShippedImage) -> GuestFacts | str:
    try:
        with GuestRunner(unpack(shipped), kernel_cache.cache_folder()) as guest:
            facts = guest.accel, guest.pt_reclaim, guest.policy, guest.machine, guest.info, guest.note
            return GuestFacts(shipped.image, *facts)
    except (UnsupportedMachineError, OSError) as error:
        return str(error)
