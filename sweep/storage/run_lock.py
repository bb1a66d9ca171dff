"""RunLock: what DirectoryLock and Lease have in common."""

from typing import Protocol

from sweep.common.errors import UserError


class RunLock(Protocol):
    """The right to write a run, of one process at a time."""

    def check(self) -> None:
        """Raise UserError if this process no longer holds the lock."""

    def release(self) -> None:
        """Let others write the run. A second call does nothing."""


def busy_error(run_id: str, holder: str) -> UserError:
    """The error of a launch that finds a run locked."""
    return UserError(f"{run_id} is being written by {holder}; wait for it, or launch with --fresh")
