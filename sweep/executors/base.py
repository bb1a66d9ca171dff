"""What all executors share: a batch, its answer, and the one function that turns the first into the second."""

import contextlib
import importlib
import math
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.model.results import Results
from engine.model.scenario import Columns
from engine.walk.finish import Tally
from sweep.executors import malloc_settings
from sweep.grid.point_id import PointIds
from sweep.store import arrow_tables, parts
from sweep.store.parts import File

MODEL = "engine.run:run_batch"
"""The engine's entry point, `module:function`. By name, so that a payload holds data and no code."""
TRACES = "sweep.traces.trace_points:run_batch"
"""The same for points that are traces."""

Run = Callable[[Columns], Results]
ERROR_LENGTH = 300
LAST_LINES, LINE_LENGTH = 12, 200


class End(Enum):
    """How a batch ended. RAN: the engine answered, though single points may have failed."""

    RAN = "ran"
    TIMEOUT = "timeout"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Shard:
    """Tables [first, end) of a point, one of `of` pieces that are walked apart."""

    first: int
    end: int
    of: int


@dataclass(frozen=True, slots=True)
class Labels:
    """What rows say beside scenario and results. `meanings`: the SQL of the derived columns.

    `folder`: where the worker may leave files for the driver, if it is on the same machine.
    """

    run_id: str
    policies: Sequence[str]
    ids: PointIds
    repeat: NDArray[np.int64]
    attempt: int | NDArray[np.int64] = 1
    derived: Mapping[str, Any] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Points for one task, or a shard of one point. `limit_s`: the wall time after which its process is killed.

    With `labels` the worker makes files of the rows, as there are enough for a part of the run: one driver could not
    make those of many workers where points are cheap.
    """

    number: int
    columns: Columns
    limit_s: float | None = None
    runner: str = MODEL
    shard: Shard | None = None
    labels: Labels | None = None

    def __len__(self) -> int:
        return len(self.columns["virt"])

    def __reduce__(self) -> tuple[Any, ...]:
        """A column that is the same throughout, as most are, travels as one value."""
        columns = {name: v[:1] if (v[1:] == v[:-1]).all() else v for name, v in self.columns.items()}
        return arrived, (len(self), columns, self.number, self.limit_s, self.runner, self.shard, self.labels)


def arrived(points: int, columns: Columns, number: int, *others: Any) -> Batch:
    """A batch as it was before its journey."""
    whole = {name: v if len(v) == points else np.repeat(v, points) for name, v in columns.items()}
    return Batch(number, whole, *others)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a point has no results, or a batch no answer. `kind`: the error's class, a signal's name, Ray's word."""

    error: str = ""
    kind: str = ""
    last_lines: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer. `results` holds the points that ran, in order; `failures` are (place in the batch, why).

    `files` stand for the results of a batch with labels in which every point ran: a part of the run. `failure` is
    the batch's, if it did not run; a shard's answer is its `tally`. What loading or compiling the engine took is in no
    figure.
    """

    number: int
    end: End = End.RAN
    results: Results | None = None
    failures: tuple[tuple[int, Failure], ...] = ()
    failure: Failure = Failure()
    node: str = ""
    cpu_ns: int = 0
    wall_ns: int = 0
    tally: Tally | None = None
    files: Mapping[str, File] | None = None


class Executor(Protocol):
    """Somewhere to run batches. The driver keeps `capacity` of them in flight and never more."""

    @property
    def name(self) -> str: ...

    @property
    def workers(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    @property
    def near(self) -> bool:
        """Whether all workers are on this machine."""
        ...

    @property
    def warm(self) -> bool:
        """Whether a worker has the engine ready, but for kernels that are not compiled."""
        ...

    def start(self, kernels: Sequence[int] = ()) -> None:
        """`kernels`: those that the batches will need (engine.run). A worker begins with those that are compiled."""
        ...

    def submit(self, batch: Batch) -> None: ...

    def wait(self, seconds: float) -> list[Done]:
        """What is done; waits so long for the first."""
        ...

    def stop(self, kill: bool = False) -> None:
        """Leaves no process behind. `kill`: now, whatever they do. May be called twice."""
        ...


def run_batch(batch: Batch, begins: Callable[[], None] = lambda: None, node: str | None = None) -> Done:
    """Run a batch in this process. A point that raises does not cost its neighbours: they run one by one then.

    `begins` is called when its time begins, after what loading and compiling take. `node`: where this is, if the host's
    name does not say enough.
    """
    run = _engine(batch.runner)
    # Arrays that came through shared memory are read-only, and those of a batch may be parts of others.
    columns = {name: np.require(values, requirements=["C", "W"]) for name, values in batch.columns.items()}
    if batch.runner == MODEL:
        _have_kernels(columns)
    begins()
    cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
    results = tally = None
    with _deadline(batch.limit_s):
        if batch.shard is None:
            results, failures = _run(run, columns)
        else:
            tally, failures = _run_shard(columns, batch.shard)
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    done = Done(batch.number, End.RAN, None, failures, Failure(), node or platform.node(), cpu, wall, tally)
    if results is None:
        return done
    if batch.labels is not None and not failures and not results.remarks:
        return replace(done, files=_files(batch.labels, columns, results, done))
    return replace(done, results=replace(results, values=_small(results.values), rounds=_small(results.rounds)))


def _files(labels: Labels, columns: Columns, results: Results, done: Done) -> dict[str, File]:
    """The part that these points are; what it costs is in no figure, as what the driver's cost."""
    run, ids, repeat = labels.run_id, labels.ids, labels.repeat
    each_ns = done.cpu_ns // len(ids)
    points = arrow_tables.point_table(
        run, ids, repeat, columns, labels.derived, attempt=labels.attempt, node=done.node, cpu_ns=each_ns
    )
    made = parts.made(
        arrow_tables.explained(points, labels.meanings),
        outcomes=arrow_tables.outcome_table(run, ids, repeat, columns, results, labels.policies),
        rounds=arrow_tables.round_table(run, ids, results, labels.policies),
    )
    return made if labels.folder is None else parts.leave(labels.folder, made)


def _small(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """In half the bytes if they fit."""
    limit = np.iinfo(np.int32)
    fits = numbers.size and limit.min <= numbers.min() and numbers.max() <= limit.max
    return numbers.astype(np.int32) if fits else numbers


def _have_kernels(columns: Columns) -> None:
    """Compile, or find compiled, what a batch needs."""
    from engine.run import load

    with contextlib.suppress(Exception):  # its points will meet the same, and report it
        load(columns)


def warm(runner: str, kernels: Sequence[int] = ()) -> None:
    """Load into this process the engine, those kernels that are compiled, and what makes files.

    The first batch compiles the other kernels.
    """
    _engine(runner)
    arrow_tables.warm()
    if kernels:
        from engine.run import load_compiled

        with contextlib.suppress(Exception):  # the batches will meet the same, and report it
            load_compiled(kernels)


_loaded: dict[str, Run] = {}


def _engine(runner: str) -> Run:
    if runner not in _loaded:
        malloc_settings.keep()
        module, _, function = runner.partition(":")
        _loaded[runner] = getattr(importlib.import_module(module), function)
    return _loaded[runner]


@contextlib.contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer.

    By a timer of the kernel and SIGALRM's default action: a handler written in Python would not run in compiled code.
    """
    if seconds is None:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run(run: Run, columns: Columns) -> tuple[Results | None, tuple[tuple[int, Failure], ...]]:
    rows = len(columns["virt"])
    try:
        return run(columns), ()
    except Exception as error:
        if rows == 1:
            return None, ((0, failure_of(error)),)
    parts: list[Results] = []
    failures: list[tuple[int, Failure]] = []
    for i in range(rows):
        try:
            parts.append(run({name: values[i : i + 1].copy() for name, values in columns.items()}))
        except Exception as alone:
            failures.append((i, failure_of(alone)))
    return (join(parts) if parts else None), tuple(failures)


def _run_shard(columns: Columns, shard: Shard) -> tuple[Tally | None, tuple[tuple[int, Failure], ...]]:
    from engine.run import run_shard

    try:
        return run_shard(columns, shard.first, shard.end), ()
    except Exception as error:
        return None, ((0, failure_of(error)),)


def join(parts: list[Results]) -> Results:
    """The results of several batches as those of one."""
    if len(parts) == 1:
        return parts[0]
    return Results(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.rounds for part in parts]),
        np.concatenate([part.round_counts for part in parts]),
        parts[0].known,
        tuple(remark for part in parts for remark in part.remarks),
    )


def failure_of(error: BaseException) -> Failure:
    """What a point's error says, and where it came from."""
    return Failure(describe(error), type(error).__name__, last_lines("".join(traceback.format_exception(error))))


def last_lines(text: str) -> str:
    """The last of them, none too long."""
    lines = text.rstrip().splitlines()[-LAST_LINES:]
    return "\n".join(line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 3] + "..." for line in lines)


def describe(error: BaseException) -> str:
    """`ValueError: what it says`, one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return text if len(text) <= ERROR_LENGTH else text[: ERROR_LENGTH - 3] + "..."


def owned(done: Done) -> Done:
    """The same with arrays of its own, so that shared memory it came in can go."""
    if done.results is None:
        return done
    held = done.results
    values, rounds, counts = held.values.copy("K"), held.rounds.copy("K"), held.round_counts.copy()
    return replace(done, results=replace(held, values=values, rounds=rounds, round_counts=counts))


def limit_for(points: int, point_limit_s: float, expected_s: float) -> float:
    """Wall seconds that a batch may take: its points' budget, but no more than one stuck point explains.

    A batch that is killed for this runs again point by point, each with its whole limit, so strictness costs little;
    without it one stuck point among a thousand would be noticed after a thousand limits.
    """
    return min(points * point_limit_s, point_limit_s + 10 * math.ceil(expected_s))
