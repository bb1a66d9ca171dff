"""Runs batches in this process, one at a time: for debugging, and as the reference for the other executors."""

from collections.abc import Sequence

from sweep.executors.base import MODEL_RUNNER, Batch, Done
from sweep.executors.worker import load_engine, run_batch


class Inline:
    name = "inline"
    workers = 1
    is_local = True
    is_started = True
    capacity = 1

    def __init__(self, runner: str = MODEL_RUNNER) -> None:
        self._runner = runner
        self._queue: list[Batch] = []
        self.is_warm = False

    def start(self, passes: Sequence[int] = ()) -> None:
        load_engine(self._runner, passes)
        self.is_warm = True

    def submit(self, batch: Batch) -> None:
        self._queue.append(batch)

    def wait(self, seconds: float) -> list[Done]:
        return [run_batch(self._queue.pop(0))] if self._queue else []

    def stop(self, kill: bool = False) -> None:
        self._queue.clear()
