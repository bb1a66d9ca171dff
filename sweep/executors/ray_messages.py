"""Messages between the launch and Ray's driver process."""

from dataclasses import dataclass

from sweep.executors.failure import Failure


@dataclass(frozen=True, slots=True)
class Settings:
    """To the driver process, first. As in RayTasks; session_dir: None for a cluster."""

    address: str | None
    jobs: int
    runner: str
    passes: tuple[int, ...]
    session_dir: str | None


@dataclass(frozen=True, slots=True)
class Submit:
    """To the driver process: run a pickled Batch. `limit_s` is the batch's own."""

    number: int
    limit_s: float | None
    batch: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """To the driver process: disconnect from Ray and end."""


@dataclass(frozen=True, slots=True)
class Alive:
    """To the launch, every ALIVE_S: how many batches run at the same time; whether a worker has loaded the engine."""

    workers: int
    is_warm: bool


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
