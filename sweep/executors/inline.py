"""Batches in this process, one after another: for debugging, and the reference for the others."""

from collections.abc import Sequence

from sweep.executors.base import MODEL, Batch, Done, run_batch, warm


class Inline:
    name = "inline"
    workers = 1
    near = True
    capacity = 1

    def __init__(self, runner: str = MODEL) -> None:
        self._runner = runner
        self._waiting: list[Batch] = []
        self.warm = False

    def start(self, kernels: Sequence[int] = ()) -> None:
        warm(self._runner, kernels)
        self.warm = True

    def submit(self, batch: Batch) -> None:
        self._waiting.append(batch)

    def wait(self, seconds: float) -> list[Done]:
        return [run_batch(self._waiting.pop(0))] if self._waiting else []

    def stop(self, kill: bool = False) -> None:
        self._waiting.clear()
