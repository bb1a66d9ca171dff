"""Runs one point of a grid, a scenario or a recording, on all kernels of its arch."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from engine.kernel.feasibility import RefusedError
from engine.kernel.host import HOST
from engine.kernel.outcome import Observation
from engine.kernel.script import script_of
from engine.model.results import ROUND_COLUMNS
from engine.model.scenario import Columns, row
from sweep.common.errors import UserError
from sweep.kernel import kernel_replay
from sweep.kernel.open_kernels import POINT_ERRORS, Kernel, KernelFacts, guest_of, kernels_for, status_of
from sweep.kernel.targets import MUNMAP, LocalTarget
from sweep.run.plan import Plan
from sweep.run.point_chunk import PointChunk
from sweep.traces.trace_points import TOUCH_RECORDED, are_traces


@dataclass(frozen=True, slots=True)
class Observed:
    """What a kernel showed of a point. target: its number; observations: one for each of the target's policies."""

    target: int
    accel: str
    observations: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class PointFailure:
    """Why a kernel has no result for a point. status: refused, failed, timeout or lost; kind: the error's class."""

    status: str
    error: str
    last_lines: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class FinishedPoint:
    """A point that was run. chunk: the point itself; observed: by the kernels of its arch, nothing after a failure.

    node: where it ran, None for this machine
    """

    chunk: PointChunk
    observed: tuple[Observed, ...] = ()
    failure: PointFailure | None = None
    cpu_ns: int | None = None
    attempt: int = 1
    node: str | None = None

    @property
    def status(self) -> str:
        return self.failure.status if self.failure else "ok"


class PointRunner:
    """Runs points on all targets. A context manager: guests run at the same time, each from a thread of its own."""

    def __init__(self, plan: Plan, targets: Sequence[LocalTarget]) -> None:
        self._plan, self._targets = plan, targets
        self._threads = [ThreadPoolExecutor(1) if t.kernel.accel != HOST else None for t in targets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            if thread is not None:
                thread.shutdown()

    def run(self, chunk: PointChunk) -> FinishedPoint:
        """Run the only point of a chunk on the kernels of its arch, under each of their policies."""
        columns, cpu_ns = self._plan.worker_columns(chunk), time.process_time_ns()
        chosen = choose_targets([target.kernel for target in self._targets], columns)
        if not are_traces(columns) and any(self._threads[i] is not None for i in chosen):
            for unmap in {policy == MUNMAP for i in chosen for policy in self._targets[i].policies}:
                script_of(row(columns, 0), unmap)  # once, for all guests
        calls = {
            i: thread.submit(observe, self._targets[i].kernel, self._targets[i].policies, columns)
            for i in chosen
            if (thread := self._threads[i])
        }
        observed: list[Observed] = []
        failure: PointFailure | None = None
        for i in chosen:
            kernel, policies = self._targets[i].kernel, self._targets[i].policies
            try:
                seen = calls[i].result() if i in calls else observe(kernel, policies, columns)
                observed.append(Observed(i, kernel.accel, seen))
            except POINT_ERRORS as error:
                where = f"Linux {kernel.machine.release}: " if len(self._targets) > 1 else ""
                failure = failure or failure_of(error, where)
        if failure is not None:
            return FinishedPoint(chunk, failure=failure)
        spent = sum(o.install_ns + o.zap_ns for one in observed for o in one.observations)
        return FinishedPoint(chunk, tuple(observed), cpu_ns=spent + time.process_time_ns() - cpu_ns)


def choose_targets(kernels: Sequence[KernelFacts], columns: Columns) -> list[int]:
    """The numbers of the kernels that the only point of `columns` runs on. A recording runs on all."""
    return list(range(len(kernels))) if are_traces(columns) else kernels_for(kernels, row(columns, 0))


def observe(kernel: Kernel, policies: Sequence[str], columns: Columns) -> tuple[Observation, ...]:
    """Run the only point of `columns` on a kernel under each policy. Raises one of POINT_ERRORS."""
    if are_traces(columns):
        return (observe_trace(kernel, columns),)
    scenario = row(columns, 0)
    return tuple(kernel.run(scenario, unmap=policy == MUNMAP) for policy in policies)


def observe_trace(kernel: Kernel, columns: Columns) -> Observation:
    """Replay a recording in a child of a kernel. columns: of one point, with its content. Raises POINT_ERRORS."""
    if columns["touch"][0] != TOUCH_RECORDED:
        raise RefusedError("a kernel plays what is recorded: no `touch: all`")
    name, thp = columns["trace"][0], columns["thp"][0] or None
    try:
        trace = kernel_replay.read_trace(name, columns["content"][0])
        values = kernel_replay.observe_outcome(trace, name, kernel.policy, thp, guest_of(kernel))
    except UserError as error:
        raise RefusedError(str(error)) from error
    no_rounds = np.zeros((0, len(ROUND_COLUMNS)), np.int64)
    return Observation(values, no_rounds, no_rounds[:, :2], drift_pages=0)


def failure_of(error: Exception, where: str = "") -> PointFailure:
    """The failure that one of POINT_ERRORS is. where: goes before its message"""
    return PointFailure(status_of(error), f"{where}{error}", getattr(error, "last_lines", "") or None)
