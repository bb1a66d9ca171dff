"""Runs batches as Ray tasks, on a private Ray of this machine or on a cluster.

Only this module, ray_task and ray_cluster import ray. Ray's own retries are off: the driver counts attempts, so that a
task lost with its worker is known and reported.
"""

import contextlib
import logging
import os
import pickle
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Not /proc by hand: psutil compares start times before it signals a process, so a reused process id is not killed.
import psutil

from engine.isolated_python import SAFE_FOLDER
from sweep.common.errors import SweepFault, UserError
from sweep.executors import ray_session_dir, ray_task
from sweep.executors.base import (
    MODEL_RUNNER,
    Batch,
    BatchStatus,
    Done,
    Failure,
    describe,
    failure_lines,
    with_own_arrays,
)
from sweep.executors.ray_cluster import UNREACHABLE_S, ClusterWatch, check_reachable, refusal

OBJECT_STORE_BYTES = 256 << 20
STOP_S = 5.0
"""Time for the private Ray's processes to end before they are killed, and again after that."""

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working directory and build another venv
    "RAY_task_oom_retries": "0",  # endless otherwise, whatever max_retries says
}
RAY_PATHS = ("RAY_AUTH_TOKEN_PATH", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_token = ""
_NODE_ID = re.compile(r"\bID: ([0-9a-f]{56})\b")


@dataclass
class RayTasks:
    """An executor on Ray. Nodes are named HOST/ID, with the first eight digits of Ray's node id.

    address: None for a private Ray of this machine, else auto, HOST:PORT or ray://HOST:PORT
    jobs: most workers, default: all CPUs
    has_time_limit: whether batches have a limit_s
    session_dir: the private Ray's directory
    """

    address: str | None = None
    jobs: int | None = None
    runner: str = MODEL_RUNNER
    has_time_limit: bool = False
    name: str = "ray"
    is_warm: bool = False
    workers: int = 0
    session_dir: Path | None = None
    _session_lock: int = -1
    _ray_processes: list[psutil.Process] = field(default_factory=list)
    _refs: dict[Any, Batch] = field(default_factory=dict)
    _probe: Any = None
    _task: Any = None
    _fingerprint: str = ""
    _note_prefix: bytes = b""
    _watch: ClusterWatch | None = None

    def __post_init__(self) -> None:
        self.workers = self.jobs or len(os.sched_getaffinity(0))

    @property
    def is_local(self) -> bool:
        return self.address is None

    @property
    def capacity(self) -> int:
        """Two batches per worker; one if batches have a time limit, so that none waits in Ray's queue."""
        return self.workers if self.has_time_limit else 2 * self.workers

    def start(self, kernels: Sequence[int] = ()) -> None:
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        # Before Ray starts: a second Ray node of this host unpacks a job's folder again, while we would read it.
        self._fingerprint = ray_task.fingerprint()
        if self.address is None:
            self._start_local()
        else:
            self._join_cluster(self.address)
        ray = _ray()
        self._note_prefix = f"sweep:{ray.get_runtime_context().get_job_id()}:".encode()
        self._watch = ClusterWatch(self._note_prefix)
        if self.address is not None:
            self._count_workers()
        self._task = ray_task.pack(ray)
        self._probe = self._send(tuple(kernels))

    def submit(self, batch: Batch) -> None:
        self._refs[self._send(batch)] = batch

    def wait(self, seconds: float) -> list[Done]:
        ray = _ray()
        assert self._watch is not None
        if self._watch.is_unreachable():
            raise UserError(self._unreachable())
        if self.address is not None:
            self._count_workers()
        self._check_probe(0.0 if self._refs else seconds)
        refs = list(self._refs)
        if not refs:
            return []
        ready, rest = ray.wait(refs, num_returns=1, timeout=seconds)
        if ready and rest:
            ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._answer(ref, self._refs.pop(ref)) for ref in ready]

    def stop(self, kill: bool = False) -> None:
        if "ray" not in sys.modules:
            return
        ray = _ray()
        processes = self._list_ray_processes()
        if self._watch is not None:
            self._watch.stop()
        try:
            if self.address is not None:
                for ref in filter(None, [*self._refs, self._probe]):
                    with contextlib.suppress(Exception):
                        ray.cancel(ref, force=True)  # a plain cancel never ends compiled code
            self._refs.clear()
            self._probe = None
            ray.shutdown()
        finally:
            self._clean_up(processes)

    def _start_local(self) -> None:
        before = psutil.Process().children()
        ray_session_dir.remove_abandoned()
        self.session_dir, self._session_lock = ray_session_dir.create()
        os.environ.pop("RAY_AUTH_MODE", None)  # a Ray that starts here asks for a token, unless this says otherwise
        os.environ["RAY_AUTH_TOKEN"] = _session_token()
        ray = _ray()
        try:
            with _safe_folder(), _packages_on_pythonpath():
                ray.init(
                    address="local",
                    num_cpus=self.workers,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(self.session_dir / "r"),  # Ray opens it to everybody
                )
        except Exception as error:
            raise UserError(f"a local Ray did not start: {describe(error)}; --executor processes needs none") from error
        finally:
            self._ray_processes = [process for process in psutil.Process().children() if process not in before]

    def _join_cluster(self, address: str) -> None:
        check_reachable(address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # seconds of retries on a head that refuses; else 20
        ray = _ray()
        import engine
        import sweep

        # Workers get the driver's code even where ptsweep is installed: another version would give other rows.
        code = {"py_modules": [str(Path(m.__path__[0])) for m in (engine, sweep)], "excludes": ["**/__pycache__/**"]}
        try:
            with _safe_folder():
                ray.init(address=address, runtime_env=code, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:
            raise UserError(f"--address {address}: {refusal(error)}") from error

    def _send(self, given: Batch | tuple[int, ...]) -> Any:
        """Submit a batch, or the numbers of kernels to load. Returns Ray's reference to the answer."""
        return self._task.remote(self._fingerprint, self._note_prefix, self.runner, pickle.dumps(given))

    def _count_workers(self) -> None:
        """Update `workers`: the number of CPUs of a cluster changes while it runs."""
        assert self._watch is not None
        self.workers = min(self.jobs or self._watch.cpus, self._watch.cpus) or 1

    def _unreachable(self) -> str:
        subject = f"--address {self.address}: the cluster" if self.address else "the local Ray"
        kept = "finished points are kept, and the same command goes on"
        return f"{subject} is gone: no answer in {UNREACHABLE_S:g} s; {kept}"

    def _check_probe(self, seconds: float) -> None:
        """Wait up to `seconds` for the task that loads the engine. Raises if no worker can run our code."""
        ray = _ray()
        if self._probe is None or not ray.wait([self._probe], timeout=seconds)[0]:
            return
        probe, self._probe = self._probe, None
        try:
            ray.get(probe)
        except ray.exceptions.RayError as error:
            self._raise_if_permanent(error)  # another error is left to the batches to report
        self.is_warm = True

    def _answer(self, ref: Any, batch: Batch) -> Done:
        """The answer of a finished task; TIMEOUT or LOST if its worker died."""
        ray = _ray()
        try:
            done: Done = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._raise_if_permanent(error)
            node, start = self._node_and_start(batch, error)
            timed_out = batch.limit_s is not None and start and time.time() - start >= batch.limit_s
            status = BatchStatus.TIMEOUT if timed_out else BatchStatus.LOST
            return Done(batch.number, status, failure=_failure_of(error), node=node)
        self.is_warm = True
        return with_own_arrays(done)

    def _node_and_start(self, batch: Batch, error: Exception) -> tuple[str, float]:
        """The node on which a lost batch ran, and when it started (seconds since the epoch); "" and 0.0 if unknown.

        From Ray's error if it names the node, else from the note that the batch wrote. Ray does not report the signal
        of which a worker died, and reports the death a second late: a death so shortly before the limit counts as a
        timeout.
        """
        assert self._watch is not None
        node_id = _NODE_ID.search(str(error))
        if node_id:
            return self._watch.node_names.get(node_id[1], node_id[1][:8]), 0.0
        node, _, start = self._watch.read_note(batch.number).partition(" ")
        return node, float(start or 0)

    def _raise_if_permanent(self, error: Exception) -> None:
        """Raise if no further attempt can succeed: a worker cannot get or import our code, or has another version."""
        ray = _ray()
        cause = getattr(error, "cause", None)
        if isinstance(cause, ImportError):
            why = f"Ray's workers cannot load the engine ({describe(cause)})"
            raise UserError(f"{why}; every node needs ptsweep's packages: pip install -r requirements.lock")
        if isinstance(cause, RuntimeError) and str(cause).startswith(ray_task.WRONG_VERSION):
            raise UserError(str(cause))
        if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
            raise UserError(f"Ray's workers cannot get the code: {describe(error)}")
        if isinstance(error, ray.exceptions.RayTaskError):
            raise SweepFault(f"a Ray task failed outside the engine: {describe(error)}")

    def _list_ray_processes(self) -> list[psutil.Process]:
        """The private Ray's processes: the children that its start left us, and their descendants."""
        processes = list(self._ray_processes)
        for root in self._ray_processes:
            with contextlib.suppress(psutil.Error):
                processes += root.children(recursive=True)
        return processes

    def _clean_up(self, processes: list[psutil.Process]) -> None:
        """Wait until the private Ray's processes have ended, kill those that do not, and remove its directory."""
        _, alive = psutil.wait_procs(processes, timeout=STOP_S)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_S)
        self._ray_processes = []
        if self.session_dir is not None:
            shutil.rmtree(self.session_dir, ignore_errors=True)
            os.close(self._session_lock)
            self.session_dir = None


def _failure_of(error: Exception) -> Failure:
    """Ray's error for a task that did not answer."""
    return Failure(describe(error), type(error).__name__.removesuffix("Error"), failure_lines(str(error)))


def _ray() -> Any:
    """The module ray, imported on first use, which takes a second. It prints nothing about workers that die."""
    import ray

    ray._private.worker._worker_logs_enabled = False
    return ray


def _session_token() -> str:
    """The secret of this process's private Ray, whose ports listen on all interfaces.

    One per process: Ray keeps the first that it reads.
    """
    global _token
    _token = _token or secrets.token_hex(32)
    return _token


@contextlib.contextmanager
def _safe_folder() -> Iterator[None]:
    """Change to SAFE_FOLDER: Ray puts the driver's current folder first on every worker's path.

    Paths in Ray's settings that are relative become absolute.
    """
    for name in RAY_PATHS:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())
    with contextlib.chdir(SAFE_FOLDER):
        yield


@contextlib.contextmanager
def _packages_on_pythonpath() -> Iterator[None]:
    """Ray's workers inherit PYTHONPATH, not sys.path: add the folder of our packages, unless they are installed.

    Empty and relative entries stand for the current folder and are left out.
    """
    import sweep

    source, before = str(Path(sweep.__file__).parents[1]), os.environ.get("PYTHONPATH")
    entries = [entry for entry in (before or "").split(os.pathsep) if Path(entry).is_absolute()]
    if "site-packages" not in source:
        entries.append(source)
    os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before
