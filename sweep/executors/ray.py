"""Runs batches as Ray tasks, on a private Ray of this machine or on a cluster.

Ray may end the process in which it is used, with an exit code and lines of its own, or block it for a minute. It also
replaces signal handlers. So Ray is used in a process of its own (ray_driver), and this module, which does not import
Ray, starts and watches that process.
"""

import os
import pickle
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# Not /proc by hand: psutil compares start times, so that a reused process id is not taken for the process.
import psutil

from engine.isolated_python import isolated_environment
from sweep.common.errors import SweepFault, UserError
from sweep.executors import ray_session_dir
from sweep.executors.base import MODEL_RUNNER, Batch, BatchStatus, Done, ExecutorLostError
from sweep.executors.child_process import ChildProcess, failure_of_exit, start_child
from sweep.executors.ray_cluster import check_reachable, node_log_folder
from sweep.executors.ray_environment import RAY_SETTINGS, absolute_paths, safe_prefix, worker_pythonpath
from sweep.executors.ray_messages import (
    Alive,
    Answered,
    Died,
    NodeAnswer,
    NodesChecked,
    Refused,
    Settings,
    Stop,
    Submit,
)

DRIVER_CODE = "from sweep.executors.ray_driver import main; main()"
STOP_S = 5.0
"""Time for the driver process to disconnect from Ray before it is killed."""
START_S, JOIN_S, SILENT_S = 120.0, 60.0, 25.0
"""How long a driver process may be silent: while it starts a Ray, while it joins one, and later."""
CHECK_S = 0.5
REFUSAL_S = 2.0
"""How long a driver process whose Ray has died may take to say why: it ends its Ray if it cannot start it."""
SERVERS = ("gcs_server", "raylet")
"""The children of the driver process without which a private Ray does not work."""


@dataclass
class RayTasks:
    """An executor on Ray. Nodes are named HOST/ID, with the first eight digits of Ray's node id.

    address: None for a private Ray of this machine, else auto, HOST:PORT or ray://HOST:PORT
    jobs: most workers, default: all CPUs
    has_time_limit: whether batches have a limit_s
    task_bytes: memory that Ray reserves for each task
    shared: what all tasks that are called have in common (ray_task.run); each node gets it once
    node_check: called on each node, as a task (ray_task.run), in place of loading the engine; see node_answers
    node_answers: None until all nodes have answered
    session_dir: the private Ray's directory
    driver: the process that uses Ray
    """

    address: str | None = None
    jobs: int | None = None
    runner: str = MODEL_RUNNER
    has_time_limit: bool = False
    task_bytes: int = 0
    shared: bytes = b""
    node_check: object = None
    node_answers: tuple[NodeAnswer, ...] | None = None
    name: str = "ray"
    is_started: bool = False
    is_warm: bool = False
    workers: int = 0
    session_dir: Path | None = None
    driver: ChildProcess | None = None
    _session_lock: int = -1
    _servers: dict[str, psutil.Process] = field(default_factory=dict)
    _last_message: float = 0.0
    _last_check: float = 0.0

    def __post_init__(self) -> None:
        self.workers = self.jobs or len(os.sched_getaffinity(0))

    @property
    def is_local(self) -> bool:
        return self.address is None

    @property
    def capacity(self) -> int:
        """Two batches per worker; one if batches have a time limit, so that none waits in Ray's queue."""
        return self.workers if self.has_time_limit else 2 * self.workers

    def start(self, passes: Sequence[int] = ()) -> None:
        environment, prefix = isolated_environment(), sys.prefix
        environment = RAY_SETTINGS | environment | absolute_paths()
        if self.address is None:
            self.session_dir, self._session_lock = ray_session_dir.create()
            prefix = safe_prefix(self.session_dir)
            environment["PYTHONPATH"] = worker_pythonpath()
            environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            environment.pop("RAY_AUTH_MODE", None)  # Ray asks for a token unless this says otherwise
        else:
            check_reachable(self.address)
            # Seconds of retries on a head that refuses, else 20.
            environment.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
        self._last_message = time.monotonic()
        self.driver = start_child(DRIVER_CODE, [], environment, prefix)
        if self.session_dir is not None:
            ray_session_dir.note_session(self.session_dir, self.driver.process.pid)
        directory = str(self.session_dir) if self.session_dir else None
        jobs = self.workers if self.address is None else self.jobs or 0
        check = None if self.node_check is None else pickle.dumps(self.node_check)
        runs = self.address, jobs, self.runner, tuple(passes), directory
        self._send(Settings(*runs, self.task_bytes, self.shared, check))

    def submit(self, batch: Batch) -> None:
        self._send(Submit(batch.number, batch.limit_s, pickle.dumps(batch)))

    def call(self, number: int, function: object, nodes: Sequence[str]) -> None:
        """Submit a callable (ray_task.run) that returns a Done, for one of the nodes with these ids of Ray's."""
        self._send(Submit(number, None, pickle.dumps(function), tuple(nodes)))

    def wait(self, seconds: float) -> list[Done]:
        assert self.driver is not None
        answers: list[Done] = []
        while self.driver.pipe.poll(0.0 if answers else seconds):
            seconds = 0.0
            if (answer := self._receive()) is not None:
                answers.append(answer)
        self._check()
        return answers

    def stop(self, kill: bool = False) -> None:
        try:
            self._stop(kill)
        except KeyboardInterrupt:  # by a second signal; a third would be ignored
            self._stop(kill=True)
            raise

    def _stop(self, kill: bool) -> None:
        if self.driver is not None:
            try:
                if self.is_started and not (kill and self.is_local):
                    self._end(self.driver)
            finally:
                self.driver.kill()
        if self.session_dir is not None:
            ray_session_dir.remove(self.session_dir)
            os.close(self._session_lock)
            self.session_dir = None
        if self.driver is not None:
            self.driver.close()
            self.driver = None

    def _end(self, driver: ChildProcess) -> None:
        """Have the driver process disconnect from Ray and end, within STOP_S."""
        try:
            driver.pipe.send(Stop())
            driver.process.wait(STOP_S)
        except (OSError, subprocess.TimeoutExpired):
            return

    def _send(self, message: Settings | Submit) -> None:
        """Send a message. If the driver process is dead, the next wait() reads the end of its pipe, and raises."""
        assert self.driver is not None
        try:
            self.driver.pipe.send(message)
        except OSError:
            return

    def _receive(self) -> Done | None:
        """Read a message: an answer, or None for others. Raises UserError, SweepFault."""
        assert self.driver is not None
        try:
            message = self.driver.pipe.recv()
        except (EOFError, OSError):
            raise self._lost(self._last_words()) from None
        self._last_message = time.monotonic()
        match message:
            case Alive():
                self.is_started, self.workers, self.is_warm = True, message.workers, message.is_warm
            case Answered():
                self.is_warm = True
                done: Done = pickle.loads(message.done)
                return done
            case Died():
                status = BatchStatus.TIMEOUT if message.timed_out else BatchStatus.LOST
                return Done(message.number, status, failure=message.failure, node=message.node)
            case NodesChecked():
                self.node_answers = message.answers
            case Refused():
                raise _error_of(message)
        return None

    def _check(self) -> None:
        """Raise ExecutorLostError if the private Ray is dead or the driver process does not answer."""
        now = time.monotonic()
        if now < self._last_check + CHECK_S:
            return
        self._last_check = now
        assert self.driver is not None
        if self.is_local:
            self._find_servers()
            for name, server in self._servers.items():
                if _is_dead(server):
                    raise self._refusal() or self._lost(f"its {name} has died")
        limit_s = SILENT_S if self.is_started else JOIN_S if self.address else START_S
        if now <= self._last_message + limit_s:
            return
        if self.address and not self.is_started:  # Ray waits without end for the first workers of the driver's node
            late = f"Ray's workers have not registered in {limit_s:g} s on {platform.node()}"
            raise UserError(f"--address {self.address}: {late}; log there: {node_log_folder(self.address)}/raylet.err")
        raise self._lost(f"no answer in {limit_s:g} s")

    def _refusal(self) -> Exception | None:
        """What the driver process says about the end of its Ray within REFUSAL_S, if anything."""
        assert self.driver is not None
        end = time.monotonic() + REFUSAL_S
        with suppress(EOFError, OSError):
            while self.driver.pipe.poll(max(0.0, end - time.monotonic())):
                if isinstance(message := self.driver.pipe.recv(), Refused):
                    return _error_of(message)
        return None

    def _find_servers(self) -> None:
        """Note the private Ray's servers as soon as they have been started."""
        if len(self._servers) == len(SERVERS):
            return
        assert self.driver is not None
        try:
            for child in psutil.Process(self.driver.process.pid).children():
                if (name := child.name()) in SERVERS:
                    self._servers[name] = child
        except psutil.Error:
            return

    def _lost(self, why: str) -> ExecutorLostError:
        subject = f"--address {self.address}: the cluster" if self.address else "the local Ray"
        return ExecutorLostError(f"{subject} is gone: {why}; finished points are kept, and the same command goes on")

    def _last_words(self) -> str:
        """Why the driver process has ended: the last line that it wrote, else its exit status."""
        assert self.driver is not None
        status = self.driver.process.wait()
        lines = self.driver.read_stderr().splitlines()
        return lines[-1].strip() if lines else failure_of_exit(status).error.replace("worker", "driver", 1)


def _error_of(refused: Refused) -> Exception:
    return SweepFault(refused.message) if refused.is_fault else UserError(refused.message)


def _is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
