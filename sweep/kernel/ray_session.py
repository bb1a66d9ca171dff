"""Kernels in guests as Ray tasks, on a private Ray or a cluster: a task is some points on one kernel.

First each node boots every kernel once. A kernel's tasks then run only on the nodes where that worked. Ray counts a CPU
and the memory of a guest for each task.
"""

import pickle
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from sweep.common.errors import UserError
from sweep.executors.base import BatchStatus, Done
from sweep.executors.ray import RayTasks
from sweep.grid.grid import Grid
from sweep.kernel.guest_tasks import TASK_BYTES, BatchAnswer, GuestBatch, NodeCheck
from sweep.kernel.open_kernels import GuestFacts, check_needs, needs_of
from sweep.kernel.point_runs import FinishedPoint, Observed, PointFailure, choose_targets
from sweep.kernel.targets import Target, kernel_identity, targets_of
from sweep.kernel_images import kernel_cache
from sweep.kernel_images.shipped_images import ship
from sweep.run.batching import Task
from sweep.run.launch import LaunchOptions
from sweep.run.plan import Plan, make_plan
from sweep.run.point_chunk import PointChunk
from sweep.run.progress import Progress, ProgressState

TICK_S = 0.25
MIN_TASK_POINTS, MAX_TASK_POINTS = 20, 200
"""A boot takes as long as some twenty small points, so a task has at least so many, if there are."""
TASKS_PER_WORKER = 2
"""Into how many tasks a worker's share of the points of a kernel is cut at least."""


@dataclass(frozen=True, slots=True)
class GuestTask:
    """Points on one kernel. places: their numbers in the launch; target: the kernel's number."""

    task: Task
    places: tuple[int, ...]
    target: int

    def retries(self, timed_out: bool) -> Iterator["GuestTask"]:
        """The tasks to run after this one lost its worker, or booted no guest. None: its points are given up."""
        start = 0
        for task in self.task.retries(timed_out):
            yield GuestTask(task, self.places[start : start + len(task)], self.target)
            start += len(task)


@dataclass(slots=True)
class PendingPoint:
    """A point that some of its kernels have not answered. left: their number; failure: of the first that failed."""

    chunk: PointChunk
    left: int
    observed: list[Observed] = field(default_factory=list)
    failure: PointFailure | None = None
    attempt: int = 1
    cpu_ns: int = 0
    node: str | None = None

    def finished(self) -> FinishedPoint:
        if self.failure is not None:
            return FinishedPoint(self.chunk, failure=self.failure, attempt=self.attempt, node=self.node)
        observed = tuple(sorted(self.observed, key=lambda one: one.target))
        return FinishedPoint(self.chunk, observed, None, self.cpu_ns, self.attempt, self.node)


class RaySession:
    """Kernels on Ray's nodes (sweep.kernel.kernel_driver.Session).

    nodes: for each target, Ray's ids of the nodes that can boot it; workers: tasks that run at a time
    """

    def __init__(
        self,
        grid: Grid,
        targets: Sequence[Target[GuestFacts]],
        executor: RayTasks,
        nodes: Sequence[Sequence[str]],
        workers: int,
        point_limit_s: float | None,
    ) -> None:
        self.grid, self.targets, self.workers = grid, targets, workers
        self._executor, self._nodes, self._point_limit_s = executor, nodes, point_limit_s
        self._pending: dict[int, PendingPoint] = {}

    @property
    def place(self) -> str:
        able = {node for nodes in self._nodes for node in nodes}
        return f", in guests on {len(able)} node{'s' * (len(able) != 1)} of Ray"

    def run(self, plan: Plan) -> Generator[FinishedPoint | None]:
        new, again, running, number = self._cut(plan), deque[GuestTask](), dict[int, GuestTask](), 0
        while True:
            while len(running) < TASKS_PER_WORKER * self.workers:
                task = again.popleft() if again else next(new, None)
                if task is None:
                    break
                self._submit(plan, number, task)
                running[number] = task
                number += 1
            if not running:
                return
            for done in self._executor.wait(TICK_S):
                task = running.pop(done.number)
                if done.status == BatchStatus.RAN:
                    yield from self._take(task, done, done.answer)
                    continue
                retries = list(task.retries(done.status == BatchStatus.TIMEOUT))
                again.extend(retries)
                if not retries:
                    yield from self._give_up(task, done)
            yield None

    def _cut(self, plan: Plan) -> Iterator[GuestTask]:
        """Cut a plan into tasks, those of all kernels for the same points one after the other."""
        share = -(-plan.account.todo // (TASKS_PER_WORKER * self.workers))
        points, first = min(max(share, MIN_TASK_POINTS), MAX_TASK_POINTS), 0
        kernels = [target.kernel for target in self.targets]
        for chunk in plan.chunks():
            for start in range(0, len(chunk), points):
                some = chunk.slice(start, min(start + points, len(chunk)))
                of_target: dict[int, list[int]] = {}
                for at in range(len(some)):
                    one = some.slice(at, at + 1)
                    chosen = choose_targets(kernels, one.columns)
                    self._pending[first + at] = PendingPoint(one, len(chosen))
                    for target in chosen:
                        of_target.setdefault(target, []).append(at)
                for target, places in of_target.items():
                    task = Task(some.take(np.array(places, np.intp)), 0.0)
                    yield GuestTask(task, tuple(first + at for at in places), target)
                first += len(some)

    def _submit(self, plan: Plan, number: int, task: GuestTask) -> None:
        target, columns = self.targets[task.target], plan.worker_columns(task.task.chunk)
        batch = GuestBatch(number, task.target, target.policies, columns, self._point_limit_s)
        self._executor.call(number, batch, self._nodes[task.target])

    def _take(self, task: GuestTask, done: Done, answer: BatchAnswer) -> Iterator[FinishedPoint]:
        """Take the answers to a task's points. Yields those that all their kernels have answered."""
        release = self.targets[task.target].kernel.machine.release
        for place, one in zip(task.places, answer.points, strict=True):
            point, failure = self._pending[place], one.failure
            if failure is None:
                point.observed.append(Observed(task.target, answer.accel, one.observations))
            elif point.failure is None:
                text = f"Linux {release}: {failure.error}" if len(self.targets) > 1 else failure.error
                point.failure = replace(failure, error=text)
            yield from self._settle(place, task, done, one.cpu_ns)

    def _give_up(self, task: GuestTask, done: Done) -> Iterator[FinishedPoint]:
        """End the points of a task whose workers died, or booted no guest, too often."""
        timed_out, reason = done.status == BatchStatus.TIMEOUT, done.failure
        failure = PointFailure(
            "timeout" if timed_out else "lost", reason.error, reason.last_lines or None, reason.kind or None
        )
        for place in task.places:
            self._pending[place].failure = self._pending[place].failure or failure
            yield from self._settle(place, task, done, 0)

    def _settle(self, place: int, task: GuestTask, done: Done, cpu_ns: int) -> Iterator[FinishedPoint]:
        """Note that a kernel has answered for a point. Yields the point if that was the last one."""
        point = self._pending[place]
        point.left -= 1
        point.attempt, point.node = max(point.attempt, task.task.attempt), done.node or point.node
        point.cpu_ns += cpu_ns
        if not point.left:
            del self._pending[place]
            yield point.finished()


@contextmanager
def open_ray_session(
    grid: Grid, options: LaunchOptions, names: Sequence[str], progress: Progress
) -> Iterator[RaySession]:
    """The kernels of a launch on the nodes of a Ray, each booted once on every node. Raises UserError."""
    option = f"--address {options.address}" if options.address else "--executor ray"
    if not names or kernel_cache.RUNNING in names:
        raise UserError(f"{option}: runs kernels in guests, on any node; name them: --kernel 6.12")
    if options.inside:
        raise UserError(f"{option}: --inside counts inside the kernel of this machine; leave one of them out")
    plan = make_plan(grid, options.where)
    needs = needs_of(plan)
    images = [c.image for c in kernel_cache.choose_kernels(names, needs.archs) if c.image]
    executor = RayTasks(
        options.address,
        options.jobs,
        task_bytes=TASK_BYTES,
        shared=pickle.dumps(tuple(map(ship, images))),
        node_check=NodeCheck(),
    )
    try:
        executor.start()
        while executor.node_answers is None:
            executor.wait(TICK_S)
            progress.show(ProgressState(plan.account.todo, waiting="booting the kernels on each node"))
        progress.stop()
        facts, nodes, workers = _able_nodes(executor, [image.release for image in images])
        check_needs(facts, needs)
        for note in dict.fromkeys(one.note for one in facts if one.note):
            progress.say(f"note: {note}")
        booted = replace(grid, kernel_images=tuple(map(kernel_identity, facts)))
        yield RaySession(booted, targets_of(facts, grid), executor, nodes, workers, options.timeout_s)
    except BaseException:
        executor.stop(kill=True)
        raise
    finally:
        executor.stop()


def _able_nodes(executor: RayTasks, releases: Sequence[str]) -> tuple[list[GuestFacts], list[list[str]], int]:
    """For each kernel its facts and Ray's ids of the nodes that can boot it, and how many tasks run at a time.

    Raises UserError for a kernel that no node can boot.
    """
    facts: list[GuestFacts] = []
    nodes: list[list[str]] = []
    answers = executor.node_answers or ()
    seen: list[tuple[GuestFacts | str, ...]]
    seen = [pickle.loads(one.answer) if one.answer else (one.error,) * len(releases) for one in answers]
    for i, release in enumerate(releases):
        able = {at: fact for at, of_kernels in enumerate(seen) if isinstance(fact := of_kernels[i], GuestFacts)}
        if not able:
            why = "; ".join(f"{one.name}: {of_kernels[i]}" for one, of_kernels in zip(answers, seen, strict=True))
            raise UserError(f"kernel {release}: no node can boot it: {why or 'Ray has no node with a CPU'}")
        facts.append(next(iter(able.values())))
        nodes.append([answers[at].node_id for at in able])
    tasks = sum(one.tasks for one in answers if any(one.node_id in able for able in nodes))
    return facts, nodes, min(tasks, executor.jobs or tasks)
