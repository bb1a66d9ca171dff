"""Joins a Ray cluster and watches it.

Ray blocks for a minute on a head that no longer answers, and then ends the driver's process with an exit code of its
own. So all questions to the head are asked in threads that nobody waits for longer than QUERY_S.
"""

import contextlib
import importlib.util
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from sweep.common.errors import UserError
from sweep.executors.failure import describe

CONNECT_S = 5.0
WATCH_INTERVAL_S, QUERY_S = 2.0, 2.0
UNREACHABLE_S, UNREACHABLE_CHECKS = 20.0, 40


def check_reachable(address: str) -> None:
    """Raise UserError unless --address is well formed and something listens there.

    Ray itself would wait for minutes, or end the process.
    """
    option = f"--address {address}"
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"{option}: not an address; known: auto, HOST:PORT, ray://HOST:PORT")
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise UserError(f"{option}: ray:// needs Ray's client; pip install 'ray[client]'")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{option}: cannot reach the cluster: {describe(error)}") from error
    if not address.startswith("ray://") and not any(
        process.info["name"] == "raylet" for process in psutil.process_iter(["name"])
    ):
        advice = "launch on one of the cluster's nodes, or submit the launch: ray job submit"
        raise UserError(f"{option}: no Ray node runs on this machine; {advice}")


def node_log_folder(address: str) -> str:
    """The folder of logs of this machine's node of that cluster, or else of another node here, or its usual path."""
    folders: list[str] = []
    port = address.rpartition(":")[2]  # the host may be spelled in several ways
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "raylet":
            with contextlib.suppress(psutil.Error):
                options = dict(word.partition("=")[::2] for word in process.cmdline())
                ours = options.get("--gcs-address", "").rpartition(":")[2] == port
                folders.insert(0 if ours else len(folders), options.get("--log_dir", ""))
    return next(filter(None, folders), "/tmp/ray/session_latest/logs")


def refusal(error: BaseException) -> str:
    """Why ray.init() could not join a cluster. Ray reports a wrong token only in the causes of its exception."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any("AuthenticationError" in f"{type(cause).__name__}: {cause}" for cause in causes):
        return (
            "the cluster refused the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as there"
        )
    return f"cannot join the cluster: {describe(error)}"


class ClusterWatch:
    """Asks the head every WATCH_INTERVAL_S, in a thread, which nodes are alive. The driver's node must be among them.

    cpus: CPUs of all living nodes; node_names: HOST/ID by Ray's node id, of all nodes ever seen
    running_tasks: how many tasks have written a note and not deleted it
    """

    def __init__(self, note_prefix: bytes) -> None:
        import ray

        self.cpus, self.node_names, self.running_tasks = 0, dict[str, str](), 0
        self._last_answer, self._checks = time.monotonic(), 0
        self._note_prefix, self._stop = note_prefix, threading.Event()
        self._own_node: str = ray.get_runtime_context().get_node_id()
        self._query()
        threading.Thread(target=self._run, daemon=True).start()

    def is_unreachable(self) -> bool:
        """Whether the head has not answered for UNREACHABLE_S and UNREACHABLE_CHECKS calls of this method.

        Both: a driver that was stopped for a while has not asked.
        """
        self._checks += 1
        return self._checks > UNREACHABLE_CHECKS and time.monotonic() - self._last_answer > UNREACHABLE_S

    def read_note(self, batch_number: int) -> str:
        """The note that a batch wrote at its start (ray_task.run), "" if Ray has none or does not answer."""
        from ray.experimental.internal_kv import _internal_kv_get

        notes: list[bytes | None] = []
        _call_within(QUERY_S, lambda: notes.append(_internal_kv_get(self._note_prefix + str(batch_number).encode())))
        return (notes[0] or b"").decode() if notes else ""

    def has_other_jobs(self) -> bool:
        """Whether other drivers than this one use the cluster. True if Ray does not answer."""
        import ray

        jobs: list[list[Any]] = []
        _call_within(QUERY_S, lambda: jobs.append(ray._private.state.jobs()))
        own = ray.get_runtime_context().get_job_id()
        return not jobs or any(
            not job["IsDead"]
            and job["JobID"] != own
            and not job["Config"].get("ray_namespace", "").startswith("_ray_internal")
            for job in jobs[0]
        )

    def busy_nodes(self) -> list[str]:
        """Names of the living nodes on which a CPU is in use; of all that have CPUs if Ray does not say."""
        import ray

        free: list[dict[str, dict[str, float]]] = []
        _call_within(QUERY_S, lambda: free.append(ray._private.state.available_resources_per_node()))
        free_cpus = {name: resources.get("CPU", 0.0) for name, resources in free[0].items()} if free else {}
        busy = [name for name, cpus in self._cpus_of.items() if cpus and free_cpus.get(name, 0.0) < cpus]
        return [self.node_names[name] for name in busy]

    def stop(self) -> None:
        """End the thread and delete the notes of lost batches."""
        from ray.experimental.internal_kv import _internal_kv_del

        self._stop.set()
        _call_within(QUERY_S, lambda: _internal_kv_del(self._note_prefix, del_by_prefix=True))

    def _run(self) -> None:
        while not self._stop.wait(WATCH_INTERVAL_S):
            with contextlib.suppress(Exception):
                self._query()

    def _query(self) -> None:
        import ray
        from ray.experimental.internal_kv import _internal_kv_list

        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self.node_names |= {name: f"{node['NodeManagerHostname']}/{name[:8]}" for name, node in alive.items()}
        self._cpus_of = {name: node["Resources"].get("CPU", 0.0) for name, node in alive.items()}
        self.cpus = int(sum(self._cpus_of.values()))
        self.running_tasks = len(_internal_kv_list(self._note_prefix))
        if self._own_node in alive:
            self._last_answer, self._checks = time.monotonic(), 0


def _call_within(seconds: float, call: Callable[[], object]) -> None:
    """Run `call` in a thread and return when it ends, or after `seconds`. Its exceptions are ignored."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            call()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)
