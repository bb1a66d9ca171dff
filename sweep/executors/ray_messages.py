"""Messages between the launch and Ray's driver process."""

from dataclasses import dataclass

from sweep.executors.failure import Failure


@dataclass(frozen=True, slots=True)
class Settings:
    """To the driver process, first. As in RayTasks; session_dir: None for a cluster; node_check: pickled."""

    address: str | None
    jobs: int
    runner: str
    passes: tuple[int, ...]
    session_dir: str | None
    task_bytes: int = 0
    shared: bytes = b""
    node_check: bytes | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    """To the driver process: run a pickled Batch, or a callable (ray_task.run). `limit_s` is the batch's own.

    nodes: Ray's ids of the nodes that may run it; empty: any
    """

    number: int
    limit_s: float | None
    batch: bytes
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """To the driver process: disconnect from Ray and end."""


@dataclass(frozen=True, slots=True)
class Alive:
    """To the launch, every ALIVE_S: how many batches run at the same time; whether a worker has loaded the engine."""

    workers: int
    is_warm: bool


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node answered to the check of nodes. name: HOST/ID; tasks: how many it can run at a time.

    answer: pickled; None if the check did not run, and then `error` says why
    """

    node_id: str
    name: str
    tasks: int
    answer: bytes | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class NodesChecked:
    """To the launch, once, if there is a check of nodes: the answers of all living nodes that have CPUs."""

    answers: tuple[NodeAnswer, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """To the launch: a pickled Done."""

    done: bytes


@dataclass(frozen=True, slots=True)
class Died:
    """To the launch: the worker of a batch died. node: "" if it is unknown."""

    number: int
    timed_out: bool
    failure: Failure
    node: str


@dataclass(frozen=True, slots=True)
class Refused:
    """To the launch, last: no batch can run. is_fault: a bug of ours, not bad input."""

    message: str
    is_fault: bool = False


ALIVE_S = 2.0
