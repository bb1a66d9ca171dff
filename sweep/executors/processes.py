"""Runs batches in a pool of local processes.

The pool is our own because it has to know which batch died with which worker, and of what: it has one pipe per worker.
concurrent.futures fails every pending task when one process dies, and multiprocessing.Pool waits for its answer without
end.
"""

import contextlib
import faulthandler
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from engine.isolated_python import isolated_environment
from sweep.common.errors import SweepFault, UserError
from sweep.executors.base import MODEL_RUNNER, Batch, BatchStatus, Done
from sweep.executors.child_process import ChildProcess, connect_to_parent, failure_of_exit, start_child
from sweep.executors.failure import describe
from sweep.executors.worker import load_engine, run_batch

WORKER_CODE = "from sweep.executors.processes import worker_main; worker_main()"
ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
STOP_S = 2.0
"""Time for idle workers to end by themselves before they are killed."""
START_S = 120.0
"""Time within which a worker must be ready. It imports, which takes a second or two, and compiles nothing."""
MAX_FAILED_STARTS = 3
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first message. `error`: why it cannot work, empty if it can."""

    error: str = ""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process.

    oom_kills: processes that the kernel had killed for lack of memory when this one was started;
    batch: the one that it runs, None while it is idle; deadline: time.monotonic() at which it must be ready
    """

    child: ChildProcess
    oom_kills: int
    deadline: float
    is_ready: bool = False
    batch: Batch | None = None

    def is_late(self) -> bool:
        return not self.is_ready and time.monotonic() >= self.deadline


@dataclass
class Processes:
    workers: int
    runner: str = MODEL_RUNNER
    name: str = "processes"
    is_local: bool = True
    is_started: bool = True
    is_warm: bool = False
    _pool: list[Worker] = field(default_factory=list)
    _queue: deque[Batch] = field(default_factory=deque)
    _failed_starts: int = 0
    _passes: Sequence[int] = ()

    @property
    def capacity(self) -> int:
        return 2 * self.workers

    def start(self, passes: Sequence[int] = ()) -> None:
        self._passes = passes
        self._pool = [start_worker(self.runner, passes) for _ in range(self.workers)]

    def submit(self, batch: Batch) -> None:
        self._queue.append(batch)
        self._feed()

    def wait(self, seconds: float) -> list[Done]:
        workers = {worker.child.pipe: worker for worker in self._pool}
        readable = wait(list(workers), seconds)
        answers = [done for pipe in readable if (done := self._receive(workers[pipe]))]  # type: ignore[index]
        for worker in [worker for worker in self._pool if worker.is_late()]:
            worker.child.process.kill()
            self._replace_dead(worker)
        self._feed()
        return answers

    def stop(self, kill: bool = False) -> None:
        self._queue.clear()
        for worker in self._pool:
            if kill or worker.batch is not None or not worker.is_ready:
                worker.child.process.kill()
            worker.child.close()
        end = time.monotonic() + STOP_S
        for worker in self._pool:
            try:
                worker.child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.child.kill()
        self._pool.clear()

    def _feed(self) -> None:
        """Send queued batches to idle workers."""
        for worker in self._pool:
            if not self._queue:
                return
            if worker.is_ready and worker.batch is None:
                # If the worker is dead already, the next wait() reads the end of its pipe, and the batch is lost.
                worker.batch = self._queue.popleft()
                with contextlib.suppress(OSError):
                    worker.child.pipe.send(worker.batch)

    def _receive(self, worker: Worker) -> Done | None:
        """Read a worker's message: an answer, or None for Ready. Raises SweepFault if it cannot load the engine."""
        try:
            message = worker.child.pipe.recv()
        except (EOFError, OSError):
            return self._replace_dead(worker)
        if isinstance(message, Ready):
            if message.error:
                raise SweepFault(f"a worker process cannot load the engine: {message.error}")
            worker.is_ready = self.is_warm = True
            return None
        worker.batch = None
        assert isinstance(message, Done)
        return message

    def _replace_dead(self, worker: Worker) -> Done | None:
        """Start another worker in place of a dead one. Returns the answer for the batch that died with it, if any.

        Once MAX_FAILED_STARTS workers have died before they were ready it raises SweepFault; UserError if the kernel
        killed the last of them for lack of memory, or if one was late while none has been ready.
        """
        is_late = worker.is_late()
        status = worker.child.end(STOP_S)
        stderr = worker.child.read_stderr()
        worker.child.close()
        is_oom = status == -signal.SIGKILL and _count_oom_kills() > worker.oom_kills
        if not worker.is_ready:
            self._failed_starts += 1
            if is_late and (not self.is_warm or self._failed_starts >= MAX_FAILED_STARTS):
                raise UserError(
                    f"a worker process was not ready after {START_S:.0f} s and was killed; a busy machine or a slow "
                    "disk delays workers: ask for fewer with -j"
                )
            if self._failed_starts >= MAX_FAILED_STARTS:
                if is_oom:
                    raise UserError("worker processes are killed at their start: out of memory; ask for fewer with -j")
                said = ": " * bool(stderr) + stderr.rpartition("\n")[2]
                raise SweepFault(f"worker processes die at their start: {failure_of_exit(status).error}{said}")
        self._pool[self._pool.index(worker)] = start_worker(self.runner, self._passes)
        if worker.batch is None:
            return None
        batch_status = BatchStatus.TIMEOUT if status == -signal.SIGALRM else BatchStatus.LOST
        failure = failure_of_exit(status, stderr, is_oom)
        return Done(worker.batch.number, batch_status, failure=failure, node=platform.node())


def _count_oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory: in this control group if it counts them, else in all."""
    for path in OOM_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in path.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def start_worker(runner: str, passes: Sequence[int] = ()) -> Worker:
    """Start a worker process that loads `runner` and the compiled ones of `passes`, and then answers batches."""
    arguments = [runner, json.dumps(list(passes))]
    child = start_child(WORKER_CODE, arguments, isolated_environment(**ONE_THREAD))
    return Worker(child, _count_oom_kills(), time.monotonic() + START_S)


def worker_main() -> None:
    """Run a worker process: send Ready, then answer batches until the driver closes the pipe."""
    pipe = connect_to_parent()
    runner, passes = sys.argv[3], json.loads(sys.argv[4])
    faulthandler.enable()  # a crash in compiled code leaves a traceback
    try:
        pipe.send(_load(runner, passes))
        while True:
            pipe.send(run_batch(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the driver closed the pipe. Nothing is left to flush, and Numba takes long to shut down
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _load(runner: str, passes: Sequence[int]) -> Ready:
    try:
        load_engine(runner, passes)
    except ImportError as error:
        return Ready(describe(error))
    return Ready()
