"""Batches as Ray tasks, on a private Ray of this machine or on a cluster. The only module that imports Ray.

Ray's own retries are off: the driver counts attempts, so that a task lost with its worker is known and reported.
"""

import contextlib
import importlib.util
import logging
import os
import pickle
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.isolated_python import SAFE_FOLDER
from sweep.common.errors import SweepFault, UserError
from sweep.executors import ray_session_dir, ray_task
from sweep.executors.base import MODEL, Batch, Done, End, Failure, describe, last_lines, owned
from sweep.executors.ray_cluster import GONE_S, Watch

OBJECT_STORE_BYTES = 256 << 20
CONNECT_S = 5.0
PATIENCE_S = 5.0

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working directory and build another venv
    "RAY_task_oom_retries": "0",  # endless otherwise, whatever max_retries says
}
_token = ""
_NODE = re.compile(r"\bID: ([0-9a-f]{56})\b")


@dataclass
class RayTasks:
    """`address` is None for a private local Ray, else auto, HOST:PORT or ray://HOST:PORT.

    A node is told as HOST/ID, the first eight digits of Ray's own id of it.
    """

    address: str | None = None
    jobs: int | None = None
    runner: str = MODEL
    limited: bool = False
    name: str = "ray"
    warm: bool = False
    workers: int = 0
    home: Path | None = None
    _held_home: int = -1
    _roots: list[psutil.Process] = field(default_factory=list)
    _refs: dict[Any, Batch] = field(default_factory=dict)
    _probe: Any = None
    _task: Any = None
    _code: str = ""
    _notes: bytes = b""
    _watch: Watch | None = None

    def __post_init__(self) -> None:
        self.workers = self.jobs or len(os.sched_getaffinity(0))

    @property
    def near(self) -> bool:
        return self.address is None

    @property
    def capacity(self) -> int:
        """Twice the workers; with a time limit once, so that a task does not age in Ray's queue."""
        return self.workers if self.limited else 2 * self.workers

    def start(self, kernels: Sequence[int] = ()) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._code = ray_task.fingerprint()  # first: a second Ray node of a host unpacks a job's folder again, under us
        if self.address is None:
            self._start_local()
        else:
            self._join_cluster(self.address)
        ray = _ray()
        self._notes = f"sweep:{ray.get_runtime_context().get_job_id()}:".encode()
        self._watch = Watch(self._notes)
        if self.address is not None:
            self._count_workers()
        self._task = ray_task.pack(ray)
        self._probe = self._send(tuple(kernels))

    def submit(self, batch: Batch) -> None:
        self._refs[self._send(batch)] = batch

    def wait(self, seconds: float) -> list[Done]:
        ray = _ray()
        assert self._watch is not None
        if self._watch.is_gone():
            raise UserError(self._gone())
        if self.address is not None:
            self._count_workers()
        self._hear_probe(0.0 if self._refs else seconds)
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
        left = self._family()
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
            self._clean_up(left)

    def _start_local(self) -> None:
        before = psutil.Process().children()
        ray_session_dir.remove_strays()
        self.home, self._held_home = ray_session_dir.make()
        os.environ.pop("RAY_AUTH_MODE", None)  # a Ray that starts here asks for a token, unless told otherwise
        os.environ["RAY_AUTH_TOKEN"] = _one_token()
        ray = _ray()
        try:
            with contextlib.chdir(SAFE_FOLDER), _importable():
                ray.init(
                    address="local",
                    num_cpus=self.workers,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(self.home / "r"),  # Ray opens it to everybody
                )
        except Exception as error:
            told = f"a local Ray did not start: {describe(error)}; --executor processes needs none"
            raise UserError(told) from error
        finally:
            self._roots = [process for process in psutil.Process().children() if process not in before]

    def _join_cluster(self, address: str) -> None:
        _check_reachable(address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # seconds of asking a head that answers; else 20
        ray = _ray()
        import engine
        import sweep

        # Always the driver's code, even where some ptsweep is installed: another version would give other rows.
        code = {"py_modules": [str(Path(m.__path__[0])) for m in (engine, sweep)], "excludes": ["**/__pycache__/**"]}
        try:
            with contextlib.chdir(SAFE_FOLDER):
                ray.init(address=address, runtime_env=code, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:
            raise UserError(f"--address {address}: {_refusal(error)}") from error

    def _send(self, given: Batch | tuple[int, ...]) -> Any:
        return self._task.remote(self._code, self._notes, self.runner, pickle.dumps(given))

    def _count_workers(self) -> None:
        """Clusters grow and shrink."""
        assert self._watch is not None
        self.workers = min(self.jobs or self._watch.cpus, self._watch.cpus) or 1

    def _gone(self) -> str:
        who = f"--address {self.address}: the cluster" if self.address else "the local Ray"
        return f"{who} is gone: no answer in {GONE_S:g} s; what is finished is kept, the same command goes on"

    def _hear_probe(self, seconds: float) -> None:
        ray = _ray()
        if self._probe is None or not ray.wait([self._probe], timeout=seconds)[0]:
            return
        probe, self._probe = self._probe, None
        try:
            ray.get(probe)
        except ray.exceptions.RayError as error:
            self._explain(error)  # a lost probe says nothing; the batches will
        self.warm = True

    def _answer(self, ref: Any, batch: Batch) -> Done:
        ray = _ray()
        try:
            done: Done = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._explain(error)
            node, began = self._where(batch, error)
            late = batch.limit_s is not None and began and time.time() - began >= batch.limit_s
            return Done(batch.number, End.TIMEOUT if late else End.LOST, failure=_lost(error), node=node)
        self.warm = True
        return owned(done)

    def _where(self, batch: Batch, error: Exception) -> tuple[str, float]:
        """The node that a lost batch ran on and when it began, as Ray tells or as it noted; "" and 0 if neither says.

        Only the worker knows when it began, by its own clock. Ray does not tell which signal a worker died of, and says
        that it did a second late: a death so shortly before the limit counts as a timeout.
        """
        assert self._watch is not None
        told = _NODE.search(str(error))
        if told:
            return self._watch.names.get(told[1], told[1][:8]), 0.0
        node, _, began = self._watch.noted(batch.number).partition(" ")
        return node, float(began or 0)

    def _explain(self, error: Exception) -> None:
        """Raise for what no second attempt can mend: a worker that cannot get or import our code, or has another."""
        ray = _ray()
        cause = getattr(error, "cause", None)
        if isinstance(cause, ImportError):
            why = f"Ray's workers cannot load the engine ({describe(cause)})"
            raise UserError(f"{why}; every node needs ptsweep's packages: pip install -r requirements.lock")
        if isinstance(cause, RuntimeError) and str(cause).startswith(ray_task.WRONG):
            raise UserError(str(cause))
        if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
            raise UserError(f"Ray's workers cannot get the code: {describe(error)}")
        if isinstance(error, ray.exceptions.RayTaskError):
            raise SweepFault(f"a Ray task failed outside the engine: {describe(error)}")

    def _family(self) -> list[psutil.Process]:
        """The private Ray's processes: what its start left as our children, and theirs."""
        family = list(self._roots)
        for root in self._roots:
            with contextlib.suppress(psutil.Error):
                family += root.children(recursive=True)
        return family

    def _clean_up(self, left: list[psutil.Process]) -> None:
        """See the private Ray's processes out, then its directory."""
        _, alive = psutil.wait_procs(left, timeout=PATIENCE_S)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=PATIENCE_S)
        self._roots = []
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)
            os.close(self._held_home)
            self.home = None


def _lost(error: Exception) -> Failure:
    """What Ray says of a task that did not answer."""
    return Failure(describe(error), type(error).__name__.removesuffix("Error"), last_lines(str(error)))


def _ray() -> Any:
    """Ray, imported when first needed (a second), and kept from printing about workers that we report ourselves."""
    import ray

    ray._private.worker._worker_logs_enabled = False
    return ray


def _one_token() -> str:
    """This process's secret for its private Ray, whose ports listen on every interface. Ray keeps the first it sees."""
    global _token
    _token = _token or secrets.token_hex(32)
    return _token


@contextlib.contextmanager
def _importable() -> Iterator[None]:
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


def _refusal(error: BaseException) -> str:
    """Why a cluster does not let us in. Ray tells of a wrong token in the text of the cause of what it raises."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        links.append(link)
        link = link.__cause__ or link.__context__
    if any("AuthenticationError" in f"{type(link).__name__}: {link}" for link in links):
        return (
            "the cluster refused the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as there"
        )
    return f"cannot join the cluster: {describe(error)}"


def _check_reachable(address: str) -> None:
    """Ray itself would wait for minutes, or end the process."""
    where = f"--address {address}"
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"{where}: not an address; known: auto, HOST:PORT, ray://HOST:PORT")
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise UserError(f"{where}: ray:// needs Ray's client; pip install 'ray[client]'")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{where}: cannot reach the cluster: {describe(error)}") from error
    if not address.startswith("ray://") and not any(
        one.info["name"] == "raylet" for one in psutil.process_iter(["name"])
    ):
        told = "no Ray node runs on this machine; launch on one of the cluster's, or hand the launch in: ray job submit"
        raise UserError(f"{where}: {told}")
