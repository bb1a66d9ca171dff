"""Runs batches in a pool of local processes.

The pool is our own because it has to know which batch died with which worker, and of what: it has one pipe per worker.
concurrent.futures fails every pending task when one process dies, and multiprocessing.Pool waits for its answer without
end.

Workers are new interpreters. They are not forked, as Numba, Arrow and DuckDB have threads, and need none of
multiprocessing's helper processes, which survive a killed driver. They ignore Ctrl-C, as the driver decides what to
stop, and die with the driver.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

from engine.isolated_python import SAFE_FOLDER, isolated_command, isolated_environment
from sweep.common.errors import SweepFault
from sweep.executors.base import MODEL_RUNNER, Batch, BatchStatus, Done, Failure, describe, failure_lines
from sweep.executors.worker import load_engine, run_batch

WORKER_CODE = "from sweep.executors.processes import worker_main; worker_main()"
ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
STOP_S = 2.0
"""Time for idle workers to end by themselves before they are killed."""
MAX_FAILED_STARTS = 3
PR_SET_PDEATHSIG = 1  # prctl(2)
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
STDERR_BYTES = 8192
"""How much of a dead worker's stderr is read, from its end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first message. `error`: why it cannot work, empty if it can."""

    error: str = ""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process. pipe: the driver's end; stderr: a temporary file;

    oom_kills: processes that the kernel had killed for lack of memory when this one was started;
    batch: the one that it runs, None while it is idle
    """

    process: subprocess.Popen[bytes]
    pipe: Connection
    stderr: IO[bytes]
    oom_kills: int
    is_ready: bool = False
    batch: Batch | None = None

    def read_stderr(self) -> str:
        """The last lines of what it wrote to stderr."""
        end = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, end - STDERR_BYTES))
        return failure_lines(self.stderr.read().decode(errors="replace"))


@dataclass
class Processes:
    workers: int
    runner: str = MODEL_RUNNER
    name: str = "processes"
    is_local: bool = True
    is_warm: bool = False
    _pool: list[Worker] = field(default_factory=list)
    _queue: deque[Batch] = field(default_factory=deque)
    _failed_starts: int = 0
    _kernels: Sequence[int] = ()

    @property
    def capacity(self) -> int:
        return 2 * self.workers

    def start(self, kernels: Sequence[int] = ()) -> None:
        self._kernels = kernels
        self._pool = [start_worker(self.runner, kernels) for _ in range(self.workers)]

    def submit(self, batch: Batch) -> None:
        self._queue.append(batch)
        self._feed()

    def wait(self, seconds: float) -> list[Done]:
        workers = {worker.pipe: worker for worker in self._pool}
        readable = wait(list(workers), seconds)
        answers = [done for pipe in readable if (done := self._receive(workers[pipe]))]  # type: ignore[index]
        self._feed()
        return answers

    def stop(self, kill: bool = False) -> None:
        self._queue.clear()
        for worker in self._pool:
            if kill or worker.batch is not None or not worker.is_ready:
                worker.process.kill()
            worker.pipe.close()
            worker.stderr.close()
        end = time.monotonic() + STOP_S
        for worker in self._pool:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
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
                    worker.pipe.send(worker.batch)

    def _receive(self, worker: Worker) -> Done | None:
        """Read a worker's message: an answer, or None for Ready. Raises SweepFault if it cannot load the engine."""
        try:
            message = worker.pipe.recv()
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

        Raises SweepFault once MAX_FAILED_STARTS workers have died before they were ready.
        """
        worker.pipe.close()
        status = worker.process.wait()
        stderr = worker.read_stderr()
        worker.stderr.close()
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                why = stderr.rpartition("\n")[2] or failure_of_exit(status).error
                raise SweepFault(f"worker processes die at their start: {why}")
        self._pool[self._pool.index(worker)] = start_worker(self.runner, self._kernels)
        if worker.batch is None:
            return None
        batch_status = BatchStatus.TIMEOUT if status == -signal.SIGALRM else BatchStatus.LOST
        is_oom = status == -signal.SIGKILL and _count_oom_kills() > worker.oom_kills
        failure = failure_of_exit(status, stderr, is_oom)
        return Done(worker.batch.number, batch_status, failure=failure, node=platform.node())


def failure_of_exit(status: int, stderr: str = "", is_oom: bool = False) -> Failure:
    """How a process died, from its wait status: the signal's name if it is negative, else the exit code."""
    if is_oom:
        return Failure("worker process died of SIGKILL, as the kernel ran out of memory", "OutOfMemory", stderr)
    if status < 0:
        name = signal.Signals(-status).name
        return Failure(f"worker process died of {name}", name, stderr)
    return Failure(f"worker process ended with {status}", "Exit", stderr)


def _count_oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory: in this control group if it counts them, else in all."""
    for path in OOM_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in path.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def start_worker(runner: str, kernels: Sequence[int] = ()) -> Worker:
    """Start a worker process that loads `runner` and the compiled ones of `kernels`, and then answers batches."""
    ours, theirs = socket.socketpair()
    stderr = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as the worker; it has no name to leave behind
    with theirs:
        arguments = [str(theirs.fileno()), str(os.getpid()), runner, json.dumps(list(kernels))]
        process = subprocess.Popen(
            isolated_command(WORKER_CODE, *arguments),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=SAFE_FOLDER,
            env=isolated_environment(**ONE_THREAD),
            process_group=0,  # a terminal's Ctrl-C goes to the driver alone, from the first moment on
        )
    return Worker(process, Connection(ours.detach()), stderr, _count_oom_kills())


def worker_main() -> None:
    """Run a worker process: send Ready, then answer batches until the driver closes the pipe."""
    pipe, parent, runner = Connection(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    kernels = json.loads(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # a crash in compiled code leaves a traceback
    die_with_parent(parent)
    try:
        pipe.send(_load(runner, kernels))
        while True:
            pipe.send(run_batch(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the driver closed the pipe. Nothing is left to flush, and Numba takes long to shut down
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _load(runner: str, kernels: Sequence[int]) -> Ready:
    try:
        load_engine(runner, kernels)
    except ImportError as error:
        return Ready(describe(error))
    return Ready()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent (a process id) ends, even by kill -9. Linux only, prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
