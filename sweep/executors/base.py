"""Batches, their answers, and the interface of the executors that turn one into the other.

Imports neither Ray nor the engine's compiled code. What runs in a worker is in sweep.executors.worker.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import ALL, Policy
from engine.model.results import Results
from engine.model.scenario import Columns
from engine.reclaim.finish import Tally
from sweep.common.errors import UserError
from sweep.executors.failure import Failure
from sweep.grid.point_id import PointIds
from sweep.store.parts import PartFile

MODEL_RUNNER = "engine.run:run_batch"
"""The engine's entry point as `module:function`: a task names its code and does not carry it."""
TRACE_RUNNER = "sweep.traces.trace_points:run_batch"
"""The entry point for points that are traces."""


NO_FAILURE = Failure()


class BatchStatus(Enum):
    """RAN: the engine answered, though single points may have failed. TIMEOUT, LOST: the worker process died."""

    RAN = "ran"
    TIMEOUT = "timeout"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Shard:
    """The tables [first, end) of one large point. `of`: how many shards the point is cut into."""

    first: int
    end: int
    of: int


@dataclass(frozen=True, slots=True)
class Labels:
    """Columns of a batch's rows that are neither scenario nor results. ids, repeat: one entry per point.

    derived: the grid's derived columns, by name; derived_sql: their SQL, by name;
    folder: where a worker on the driver's machine leaves the files, None: they travel in the answer
    """

    run_id: str
    ids: PointIds
    repeat: NDArray[np.int64]
    attempt: int | NDArray[np.int64] = 1
    derived: Mapping[str, Any] = field(default_factory=dict)
    derived_sql: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The points of one task, or a shard of one point.

    `limit_s`: wall time after which the worker process is killed. `labels` are set where the points are enough for a
    part of the run: the worker then writes the part's files, as one driver could not write those of many workers.
    `is_general`: of the model's runner, whether its general passes compute the points (engine.forecast.pays_general).
    """

    number: int
    columns: Columns
    limit_s: float | None = None
    runner: str = MODEL_RUNNER
    shard: Shard | None = None
    labels: Labels | None = None
    policies: tuple[Policy, ...] = ALL
    is_general: bool = False

    def __len__(self) -> int:
        return len(self.columns["virt"])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a column whose values are all equal, as most are, as one value."""
        columns = {name: v[:1] if (v[1:] == v[:-1]).all() else v for name, v in self.columns.items()}
        others = self.limit_s, self.runner, self.shard, self.labels, self.policies, self.is_general
        return _unpickled, (len(self), columns, self.number, *others)


def _unpickled(points: int, columns: Columns, number: int, *others: Any) -> Batch:
    """A batch from what __reduce__ returned: columns of one value are repeated for all points."""
    full = {name: v if len(v) == points else np.repeat(v, points) for name, v in columns.items()}
    return Batch(number, full, *others)


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a batch.

    results: the points that ran, in order; None if no point ran, for a shard, and where there are `files`
    failures: (position in the batch, reason) of the points that raised
    failure: why the batch did not run
    cpu_ns, wall_ns: of the engine's run, without loading or compiling it
    tally: the counters of a shard
    files: the part of the run that a batch with labels became, by table, if every point ran
    answer: of a task that is no Batch (ray_task.run)
    """

    number: int
    status: BatchStatus = BatchStatus.RAN
    results: Results | None = None
    failures: tuple[tuple[int, Failure], ...] = ()
    failure: Failure = NO_FAILURE
    node: str = ""
    cpu_ns: int = 0
    wall_ns: int = 0
    tally: Tally | None = None
    files: Mapping[str, PartFile] | None = None
    answer: Any = None


class ExecutorLostError(UserError):
    """The executor is gone, such as a Ray that was killed. Finished points are kept; a launch can continue."""


class Executor(Protocol):
    """Runs batches on workers. The driver keeps at most `capacity` batches submitted and not yet answered."""

    @property
    def name(self) -> str: ...

    @property
    def workers(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    @property
    def is_local(self) -> bool:
        """Whether all workers are on this machine."""
        ...

    @property
    def is_started(self) -> bool:
        """Whether the number of workers is known. `wait` goes on with the start until then."""
        ...

    @property
    def is_warm(self) -> bool:
        """Whether at least one worker has loaded the engine. Kernels may still have to be compiled."""
        ...

    def start(self, passes: Sequence[int] = ()) -> None:
        """Begin to start workers, which load those of `passes` that are compiled.

        passes: indexes in engine.compiled_passes.PASSES
        """
        ...

    def submit(self, batch: Batch) -> None: ...

    def wait(self, seconds: float) -> list[Done]:
        """Return all answers that have arrived, after waiting up to `seconds` for the first.

        Raises ExecutorLostError if no worker can answer any more.
        """
        ...

    def stop(self, kill: bool = False) -> None:
        """End all workers and leave no process behind; `kill`: at once, in the middle of work. Can be called twice."""
        ...


def batch_limit_s(points: int, point_limit_s: float, expected_s: float) -> float:
    """Wall time that a batch may take: the limits of its points, but no more than one stuck point explains.

    A batch that is killed for this runs again point by point, each with its own limit, so a strict limit costs little;
    without it, one stuck point among a thousand would be noticed after a thousand limits.
    """
    return min(points * point_limit_s, point_limit_s + 10 * math.ceil(expected_s))
