"""Batches in a pool of local processes: one pipe a worker, so that it is known which batch died with which worker.

Workers are fresh interpreters: no fork, as Numba, Arrow and DuckDB hold threads, and none of multiprocessing's helpers,
which outlive a killed driver. They ignore Ctrl-C (the driver decides) and die with the driver.
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
from sweep.executors.base import MODEL, Batch, Done, End, Failure, describe, last_lines, run_batch, warm

BOOT = "from sweep.executors.processes import serve; serve()"
ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PATIENCE_S = 2.0
FAILED_STARTS = 3
PR_SET_PDEATHSIG = 1
OOM_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
SAID_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first word. `error`: it cannot work."""

    error: str = ""


@dataclass(slots=True, eq=False)
class Worker:
    """A process, our end of its pipe, what it says on stderr, and how often the kernel had killed for memory before."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    said: IO[bytes]
    oom_kills: int
    ready: bool = False
    batch: Batch | None = None

    def last_words(self) -> str:
        end = self.said.seek(0, os.SEEK_END)
        self.said.seek(max(0, end - SAID_BYTES))
        return last_lines(self.said.read().decode(errors="replace"))


@dataclass
class Processes:
    workers: int
    runner: str = MODEL
    name: str = "processes"
    near: bool = True
    warm: bool = False
    _pool: list[Worker] = field(default_factory=list)
    _queue: deque[Batch] = field(default_factory=deque)
    _failed_starts: int = 0
    _kernels: Sequence[int] = ()

    @property
    def capacity(self) -> int:
        return 2 * self.workers

    def start(self, kernels: Sequence[int] = ()) -> None:
        self._kernels = kernels
        self._pool = [spawn(self.runner, kernels) for _ in range(self.workers)]

    def submit(self, batch: Batch) -> None:
        self._queue.append(batch)
        self._feed()

    def wait(self, seconds: float) -> list[Done]:
        pipes = {worker.pipe: worker for worker in self._pool}
        ready = wait(list(pipes), seconds)
        answers = [done for pipe in ready if (done := self._hear(pipes[pipe]))]  # type: ignore[index]
        self._feed()
        return answers

    def stop(self, kill: bool = False) -> None:
        self._queue.clear()
        for worker in self._pool:
            if kill or worker.batch is not None or not worker.ready:
                worker.process.kill()
            worker.pipe.close()
            worker.said.close()
        end = time.monotonic() + PATIENCE_S
        for worker in self._pool:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._pool.clear()

    def _feed(self) -> None:
        for worker in self._pool:
            if not self._queue:
                return
            if worker.ready and worker.batch is None:
                # If it is dead already, its pipe's end says so in the next wait(), and the batch counts as lost.
                worker.batch = self._queue.popleft()
                with contextlib.suppress(OSError):
                    worker.pipe.send(worker.batch)

    def _hear(self, worker: Worker) -> Done | None:
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        if isinstance(answer, Ready):
            if answer.error:
                raise SweepFault(f"a worker process cannot load the engine: {answer.error}")
            worker.ready = self.warm = True
            return None
        worker.batch = None
        assert isinstance(answer, Done)
        return answer

    def _bury(self, worker: Worker) -> Done | None:
        """Put another in a dead worker's place; the answer for the batch that it took along."""
        worker.pipe.close()
        status = worker.process.wait()
        said = worker.last_words()
        worker.said.close()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                why = said.rpartition("\n")[2] or how_it_died(status).error
                raise SweepFault(f"worker processes die at their start: {why}")
        self._pool[self._pool.index(worker)] = spawn(self.runner, self._kernels)
        if worker.batch is None:
            return None
        end = End.TIMEOUT if status == -signal.SIGALRM else End.LOST
        for_memory = status == -signal.SIGKILL and _oom_kills() > worker.oom_kills
        return Done(worker.batch.number, end, failure=how_it_died(status, said, for_memory), node=platform.node())


def how_it_died(status: int, said: str = "", for_memory: bool = False) -> Failure:
    """By the name of its signal, or its exit code; `said` is what its stderr says last."""
    if for_memory:
        return Failure("worker process died of SIGKILL, as the kernel ran out of memory", "OutOfMemory", said)
    if status < 0:
        name = signal.Signals(-status).name
        return Failure(f"worker process died of {name}", name, said)
    return Failure(f"worker process ended with {status}", "Exit", said)


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory: in this control group if it can be known, else anywhere."""
    for path in OOM_COUNTS:
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in path.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def spawn(runner: str, kernels: Sequence[int] = ()) -> Worker:
    ours, theirs = socket.socketpair()
    said = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the worker's life long; it has no name to leave behind
    with theirs:
        arguments = [str(theirs.fileno()), str(os.getpid()), runner, json.dumps(list(kernels))]
        process = subprocess.Popen(
            isolated_command(BOOT, *arguments),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd=SAFE_FOLDER,
            env=isolated_environment(**ONE_THREAD),
            process_group=0,  # a terminal's Ctrl-C goes to the driver alone, from the first moment on
        )
    return Worker(process, Connection(ours.detach()), said, _oom_kills())


def serve() -> None:
    """A worker's life: say ready, then answer batches until the driver hangs up."""
    pipe, parent, runner = Connection(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    kernels = json.loads(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # a crash in compiled code leaves a traceback
    die_with(parent)
    try:
        pipe.send(introduce(runner, kernels))
        while True:
            pipe.send(run_batch(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the driver hung up. Nothing here to flush, and an orderly end takes Numba its time
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def introduce(runner: str, kernels: Sequence[int]) -> Ready:
    try:
        warm(runner, kernels)
    except ImportError as error:
        return Ready(describe(error))
    return Ready()


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, even by kill -9 (Linux; prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
