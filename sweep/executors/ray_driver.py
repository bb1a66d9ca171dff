"""Ray's driver process: joins a cluster or starts a private Ray, submits batches, sends their answers to the launch.

Only this module, ray_task and ray_cluster import ray. Ray's own retries are off: the launch counts attempts, so that a
task lost with its worker is known and reported.
"""

import logging
import os
import pickle
import queue
import re
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepFault, UserError
from sweep.executors import ray_session_dir, ray_task
from sweep.executors.child_process import connect_to_parent
from sweep.executors.failure import Failure, describe, failure_lines
from sweep.executors.ray_cluster import UNREACHABLE_S, ClusterWatch, refusal
from sweep.executors.ray_messages import (
    ALIVE_S,
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

OBJECT_STORE_BYTES = 256 << 20
TICK_S = 0.5
REGISTER_S = 60.0
"""How long tasks may wait while none of ours runs, before that is an error."""
PROBE = -1
"""Number of the first task, which only loads the engine. Checks of nodes have this number and lower ones."""
CHECK_S = 180.0
"""How long a node may take to answer a check."""
NODE_LABEL = "ray.io/node-id"
"""The label that Ray gives each node: a task with a selector for it runs on the nodes whose ids it names."""
_NODE_ID = re.compile(r"\bID: ([0-9a-f]{56})\b")


def main() -> None:
    """Run until the launch sends Stop or is gone, or until no batch can run: then the last message says why."""
    pipe = connect_to_parent()
    try:
        RayDriver(pipe, pipe.recv()).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the launch is gone
    except Exception as error:
        pipe.send(_refused(error))
    os._exit(0)


def _refused(error: Exception) -> Refused:
    """The last message: why no batch can run."""
    return Refused(str(error)) if isinstance(error, UserError) else Refused(describe(error), is_fault=True)


@dataclass(frozen=True, slots=True)
class Finished:
    """A task has ended. `future`: a concurrent.futures.Future with the pickled Done."""

    number: int
    future: Any


class RayDriver:
    """The main loop, in one thread. Another reads the pipe, and Ray's threads report tasks that have ended."""

    def __init__(self, pipe: Connection, settings: Settings) -> None:
        self._pipe, self._settings = pipe, settings
        self._events: queue.SimpleQueue[Submit | Stop | Finished] = queue.SimpleQueue()
        self._limits: dict[int, float | None] = {}
        """Time limit of each task that has not ended."""
        self._is_warm = False
        self._unchecked: dict[int, tuple[str, str, int]] = {}
        """Ray's id, name and number of tasks of the nodes whose check has not ended, by the number of its task."""
        self._checked_again: set[int] = set()
        self._node_answers: list[NodeAnswer] = []
        self._last_alive = self._last_running = self._checks_end = 0.0

    def run(self) -> None:
        threading.Thread(target=self._read_pipe, daemon=True).start()
        # Before Ray starts: a second Ray node of this host unpacks a job's folder again, while we would read it.
        self._fingerprint = ray_task.fingerprint()
        ray = _start_local(self._settings) if self._settings.address is None else _join_cluster(self._settings.address)
        self._note_prefix = f"sweep:{ray.get_runtime_context().get_job_id()}:".encode()
        self._watch = ClusterWatch(self._note_prefix)
        self._task = ray_task.pack(ray)
        self._shared = ray.put(self._settings.shared) if self._settings.shared else b""
        if self._settings.node_check is None:
            self._submit(PROBE, None, pickle.dumps(self._settings.passes))
        else:
            self._check_nodes(self._settings.node_check)
        self._last_running = time.monotonic()
        try:
            self._serve()
        except Exception as error:  # before Ray's servers end: the launch would report their death instead
            self._pipe.send(_refused(error))
        finally:
            self._watch.stop()
            ray.shutdown()

    def _serve(self) -> None:
        """Handle events until Stop."""
        while True:
            self._show_life()
            with suppress(queue.Empty):
                event = self._events.get(timeout=TICK_S)
                if isinstance(event, Stop):
                    return
                self._handle(event)
            self._check()

    def _read_pipe(self) -> None:
        """Read all messages, so that the launch never waits for this process."""
        while True:
            try:
                self._events.put(self._pipe.recv())
            except (EOFError, OSError):
                self._events.put(Stop())
                return

    def _show_life(self) -> None:
        now = time.monotonic()
        if now >= self._last_alive + ALIVE_S:
            self._last_alive = now
            cpus, jobs = self._watch.cpus, self._settings.jobs  # the CPUs of a cluster change while it runs
            self._pipe.send(Alive(min(jobs or cpus, cpus) or 1, self._is_warm))

    def _submit(self, number: int, limit_s: float | None, given: bytes, nodes: tuple[str, ...] = ()) -> None:
        self._limits[number] = limit_s
        task = self._task
        if nodes:
            labels = {NODE_LABEL: f"in({','.join(nodes)})"}
            task = task.options(memory=self._settings.task_bytes, label_selector=labels)
        runner = self._settings.runner
        ref = task.remote(self._fingerprint, self._note_prefix, number, runner, given, self._shared)
        ref.future().add_done_callback(lambda future: self._events.put(Finished(number, future)))

    def _handle(self, event: Submit | Stop | Finished) -> None:
        if isinstance(event, Submit):
            self._submit(event.number, event.limit_s, event.batch, event.nodes)
            return
        assert isinstance(event, Finished)
        self._last_running = time.monotonic()
        limit_s, error = self._limits.pop(event.number), event.future.exception()
        if error is None and not self._is_warm:
            self._is_warm, self._last_alive = True, 0.0
        if error is not None:
            _raise_if_permanent(error)
        if event.number in self._unchecked:
            self._note_check(event.number, event.future.result() if error is None else None, error)
        elif event.number <= PROBE:
            pass  # the death of the first task is left to the batches to report; this check took too long
        elif error is None:
            self._pipe.send(Answered(event.future.result()))
        else:
            self._report_death(event.number, limit_s, error)

    def _check_nodes(self, check: bytes) -> None:
        """Submit the check to each living node that has CPUs, and memory for a task."""
        need, self._checks_end = self._settings.task_bytes, time.monotonic() + CHECK_S
        for node in _ray().nodes():
            resources, node_id = node["Resources"], node["NodeID"]
            cpus, memory = int(resources.get("CPU", 0)), int(resources.get("memory", 0))
            if not node["Alive"] or not cpus:
                continue
            name, tasks = self._watch.node_names[node_id], min(cpus, memory // need if need else cpus)
            if tasks:
                number = PROBE - len(self._unchecked)
                self._unchecked[number] = node_id, name, tasks
                self._submit(number, None, check, (node_id,))
            else:
                lacks = f"has {memory >> 20:,} MiB for tasks, of which one takes {need >> 20:,}"
                self._node_answers.append(NodeAnswer(node_id, name, 0, None, lacks))
        self._report_checks()

    def _note_check(self, number: int, answer: bytes | None, error: BaseException | None) -> None:
        """Note a node's answer to the check, or why there is none. A check whose worker died runs once again."""
        if error is not None and number not in self._checked_again and not isinstance(error, TimeoutError):
            self._checked_again.add(number)
            self._submit(number, None, self._settings.node_check or b"", (self._unchecked[number][0],))
            return
        self._node_answers.append(NodeAnswer(*self._unchecked.pop(number), answer, describe(error) if error else ""))
        self._report_checks()

    def _report_checks(self) -> None:
        """Send the answers to the checks of nodes once all are there."""
        if not self._unchecked:
            self._pipe.send(NodesChecked(tuple(self._node_answers)))

    def _report_death(self, number: int, limit_s: float | None, error: BaseException) -> None:
        """Report a batch whose worker died, with the node on which it ran.

        Ray's error names the node, or the note does that the batch wrote. Ray does not report the signal of which a
        worker died, and reports the death a second late: a death so shortly before the limit counts as a timeout.
        """
        node_id = _NODE_ID.search(str(error))
        if node_id:
            node, start = self._watch.node_names.get(node_id[1], node_id[1][:8]), "0"
        else:
            node, _, start = self._watch.read_note(number).partition(" ")
        started = float(start or 0)
        timed_out = limit_s is not None and started > 0 and time.time() - started >= limit_s
        failure = Failure(describe(error), type(error).__name__.removesuffix("Error"), failure_lines(str(error)))
        self._pipe.send(Died(number, timed_out, failure, node))

    def _check(self) -> None:
        """Raise UserError if the cluster does not answer, or starts no worker for our tasks."""
        address = self._settings.address
        if self._watch.is_unreachable():
            subject = f"--address {address}: the cluster" if address else "the local Ray"
            kept = "finished points are kept, and the same command goes on"
            raise UserError(f"{subject} is gone: no answer in {UNREACHABLE_S:g} s; {kept}")
        now = time.monotonic()
        if now > self._checks_end:
            for number in tuple(self._unchecked):
                self._note_check(number, None, TimeoutError(f"no answer in {CHECK_S:g} s"))
        if not self._limits or self._watch.running_tasks:
            self._last_running = now
        elif now > self._last_running + REGISTER_S:
            self._last_running = now
            self._explain_idleness()

    def _explain_idleness(self) -> None:
        """Raise UserError with the nodes on which no worker could start, unless other jobs use the cluster."""
        if self._settings.address is not None and self._watch.has_other_jobs():
            return
        late = f"Ray's workers have not registered in {REGISTER_S:g} s"
        if self._settings.session_dir is not None:
            logs, last_line = _save_logs(Path(self._settings.session_dir))
            raise UserError(f"the local Ray: {late}: {last_line}; logs: {logs}")
        nodes = ", ".join(self._watch.busy_nodes()) or "no node"
        raise UserError(f"--address {self._settings.address}: {late} on {nodes}; log there: {_log_folder()}/raylet.err")


def _start_local(settings: Settings) -> Any:
    """Start a private Ray. Returns the module ray."""
    ray = _ray()
    # Otherwise its ports listen on all interfaces. Nothing outside this machine needs them.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address="local",
            num_cpus=settings.jobs,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(ray_session_dir.ray_directory(Path(str(settings.session_dir)))),
        )
    except Exception as error:
        raise UserError(f"a local Ray did not start: {describe(error)}; --executor processes needs none") from error
    return ray


def _join_cluster(address: str) -> Any:
    """Join a cluster. Returns the module ray."""
    ray = _ray()
    import engine
    import sweep

    # Workers get the driver's code even where ptsweep is installed: another version would give other rows.
    code = {"py_modules": [str(Path(m.__path__[0])) for m in (engine, sweep)], "excludes": ["**/__pycache__/**"]}
    try:
        ray.init(address=address, runtime_env=code, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:
        raise UserError(f"--address {address}: {refusal(error)}") from error
    return ray


def _ray() -> Any:
    """The module ray. It prints nothing about workers that die."""
    import ray

    ray._private.worker._worker_logs_enabled = False
    return ray


def _raise_if_permanent(error: BaseException) -> None:
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
    if not isinstance(error, ray.exceptions.RayError):
        raise SweepFault(f"a Ray task has no answer: {describe(error)}")


def _log_folder() -> str:
    """Ray's folder of logs on this machine; on other nodes of the cluster it usually has the same path."""
    ray = _ray()
    return str(ray._private.worker._global_node.get_logs_dir_path())


def _save_logs(session_dir: Path) -> tuple[Path, str]:
    """Copy a private Ray's logs to where they stay. Returns the folder, and the last line of a worker or the raylet."""
    kept = Path(tempfile.mkdtemp(prefix="sweep-logs-"))
    shutil.copytree(_log_folder(), kept, dirs_exist_ok=True)
    for pattern in ("worker-*.err", "raylet.err", "runtime_env_agent.log"):
        for path in sorted(kept.glob(pattern)):
            if lines := path.read_text(errors="replace").split("\n")[:-1]:
                return kept, failure_lines(lines[-1])
    return kept, "they wrote nothing"
