"""What a worker does with a batch: run it in this process, and write its files where there are labels."""

import contextlib
import ctypes
import importlib
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import Policy
from engine.model.results import Results
from engine.model.scenario import Columns
from engine.reclaim.finish import Tally
from sweep.executors.base import MODEL_RUNNER, Batch, BatchStatus, Done, Labels, Shard
from sweep.executors.failure import Failure, describe, failure_lines
from sweep.store import parts
from sweep.store.parts import PartFile
from sweep.tables import arrow_tables, parquet, result_tables

Runner = Callable[..., Results]
"""Takes Columns and policies; that of the model also `general`."""
PointFailures = tuple[tuple[int, Failure], ...]
"""(position in the batch, reason) of the points that raised."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_TRIM_BYTES, _MMAP_BYTES = 1 << 30, 32 << 20


def run_batch(batch: Batch, on_start: Callable[[], None] = lambda: None, node: str | None = None) -> Done:
    """Run a batch in this process. If it raises, its points run one by one, so that a bad point costs no other.

    `on_start` is called after the engine is loaded and compiled, when the batch's time starts. `node`: the name of this
    machine in the answer, default: the host's name.
    """
    run = _runner(batch.runner)
    # Arrays that came through shared memory are read-only, and those of a batch may be slices of larger ones.
    columns = {name: np.require(values, requirements=["C", "W"]) for name, values in batch.columns.items()}
    if batch.runner == MODEL_RUNNER:
        _load_kernels(columns, batch.policies, batch.is_general)
        run = partial(run, general=batch.is_general)
    on_start()
    cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
    results = tally = None
    with _deadline(batch.limit_s):
        if batch.shard is None:
            results, failures = _run_points(run, columns, batch.policies)
        else:
            tally, failures = _run_shard(columns, batch.shard, batch.policies, batch.is_general)
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    done = Done(batch.number, BatchStatus.RAN, None, failures, Failure(), node or platform.node(), cpu, wall, tally)
    if results is None:
        return done
    if batch.labels is not None and not failures and not results.remarks:
        return replace(done, files=_write_files(batch.labels, columns, results, batch.policies, done))
    return replace(done, results=replace(results, values=_narrowed(results.values), rounds=_narrowed(results.rounds)))


def load_engine(runner: str, passes: Sequence[int] = ()) -> None:
    """Load into this process the runner, those of `passes` that are compiled, and what writes files.

    The first batch compiles the other passes.
    """
    _runner(runner)
    parquet.warm_up()
    if passes:
        from engine.compiled_passes import load_compiled

        with contextlib.suppress(Exception):  # the batches will meet the same error and report it
            load_compiled(passes)


def keep_freed_memory() -> None:
    """Tell malloc to keep freed memory in this process, as the next batch needs as much again.

    The kernel would zero every page that is given back and used again, which takes as long as a cheap point. With
    another C library than glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def concatenate(batches: list[Results]) -> Results:
    """The results of several batches of points as those of one."""
    if len(batches) == 1:
        return batches[0]
    return Results(
        np.concatenate([results.values for results in batches]),
        np.concatenate([results.rounds for results in batches]),
        np.concatenate([results.round_counts for results in batches]),
        batches[0].known,
        tuple(remark for results in batches for remark in results.remarks),
    )


def failure_of(error: BaseException) -> Failure:
    """A point's exception with the end of its traceback."""
    return Failure(describe(error), type(error).__name__, failure_lines("".join(traceback.format_exception(error))))


_runners: dict[str, Runner] = {}


def _runner(name: str) -> Runner:
    """The function `module:function`, imported on first use."""
    if name not in _runners:
        keep_freed_memory()
        module, _, function = name.partition(":")
        _runners[name] = getattr(importlib.import_module(module), function)
    return _runners[name]


def _load_kernels(columns: Columns, policies: Sequence[Policy], is_general: bool) -> None:
    """Load the passes that a batch needs, compiling those that are not compiled yet."""
    from engine.compiled_passes import load

    with contextlib.suppress(Exception):  # its points will meet the same error and report it
        load(columns, policies, is_general)


@contextlib.contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer.

    A kernel timer raises SIGALRM, whose default action ends the process: a handler written in Python would not run
    while compiled code runs.
    """
    if seconds is None:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run_points(run: Runner, columns: Columns, policies: Sequence[Policy]) -> tuple[Results | None, PointFailures]:
    points = len(columns["virt"])
    try:
        return run(columns, policies), ()
    except Exception as error:
        if points == 1:
            return None, ((0, failure_of(error)),)
    results: list[Results] = []
    failures: list[tuple[int, Failure]] = []
    for i in range(points):
        try:
            results.append(run({name: values[i : i + 1].copy() for name, values in columns.items()}, policies))
        except Exception as error:
            failures.append((i, failure_of(error)))
    return (concatenate(results) if results else None), tuple(failures)


def _run_shard(
    columns: Columns, shard: Shard, policies: Sequence[Policy], is_general: bool
) -> tuple[Tally | None, PointFailures]:
    from engine.run import run_shard

    try:
        return run_shard(columns, shard.first, shard.end, policies, is_general), ()
    except Exception as error:
        return None, ((0, failure_of(error)),)


def _write_files(
    labels: Labels, columns: Columns, results: Results, policies: Sequence[Policy], done: Done
) -> dict[str, PartFile]:
    """The batch as the files of a part, by table. The time that this takes counts for no point."""
    run, ids, repeat = labels.run_id, labels.ids, labels.repeat
    point_ns, names = done.cpu_ns // len(ids), [policy.name for policy in policies]
    points = result_tables.point_table(
        run, ids, repeat, columns, labels.derived, attempt=labels.attempt, node=done.node, cpu_ns=point_ns
    )
    files = parts.make_files(
        arrow_tables.describe_derived(points, labels.derived_sql),
        outcomes=result_tables.outcome_table(run, ids, repeat, columns, results, names),
        rounds=result_tables.round_table(run, ids, results, names),
    )
    return files if labels.folder is None else parts.write_temporary(labels.folder, files)


def _narrowed(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return the numbers as int32 if all fit, because half the bytes then travel; else unchanged."""
    limit = np.iinfo(np.int32)
    fits = numbers.size and limit.min <= numbers.min() and numbers.max() <= limit.max
    return numbers.astype(np.int32) if fits else numbers
