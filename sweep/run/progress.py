"""Progress: how a launch reports to its caller. The command line prints it, tests record it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProgressState:
    """State of a launch. `points`: to run; `done`: with an answer; `bad`: of these, not ok.

    `work_ns`, `work_done_ns`: estimated CPU time, with a share of the batches that run. `left_ns`: expected wall time
    of the rest; 0 if unknown. `running`: batches that run now. `waiting`: why no point is running yet; empty if any is.
    """

    points: int
    done: int = 0
    bad: int = 0
    work_ns: float = 0.0
    work_done_ns: float = 0.0
    waiting: str = ""
    left_ns: float = 0.0
    running: int = 0


class Progress(Protocol):
    """Receives messages and states of a launch."""

    def say(self, text: str) -> None:
        """A message of one line."""
        ...

    def show(self, state: ProgressState) -> None:
        """The current state; called several times a second."""
        ...

    def stop(self) -> None:
        """No further state follows."""
        ...
