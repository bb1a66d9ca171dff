"""A fake of engine.kernel.runner.Runner that answers with the model's results, and wrong ones for chosen scenarios."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engine.guest.image import Image
from engine.kernel import feasibility
from engine.kernel.host import Machine
from engine.kernel.outcome import OBSERVED_COLUMNS, VM_END, Observation
from engine.kernel.server import ServerInfo
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from sweep.kernel_images.kernel_cache import KernelChoice

MACHINE = Machine("6.99-fake", "x86_64", 4096, "madvise", 65530, 0, threads=1024, cpus=2)
SERVER_INFO = ServerInfo(guards=True, fifth_level=False, loop_ns=1.0)


@dataclass
class FakeKernel:
    """wrong: scenarios whose last round ends with a table too few; asked: the points that were run, and `unmap`."""

    wrong: Callable[[Scenario], bool] = lambda scenario: False
    policy: str = "merged"
    pt_reclaim: bool = True
    counts_pages: bool = True
    columns: tuple[str, ...] = OBSERVED_COLUMNS
    machine: Machine = MACHINE
    info: ServerInfo = SERVER_INFO
    note: str = ""
    accel: str = "host"
    asked: list[tuple[Scenario, bool]] = field(default_factory=list)

    def run(self, scenario: Scenario, unmap: bool = False) -> Observation:
        feasibility.check(scenario, unmap, self.machine, self.info.guards)
        self.asked.append((scenario, unmap))
        policy = POLICIES.index("munmap" if unmap else self.policy)
        model = run_batch(columns_of([scenario]))
        rounds = model.rounds[:, policy].copy()
        if self.wrong(scenario):
            rounds[-1, VM_END] -= 4
        values = {name: int(model.values[0, policy, COLUMNS.index(name)]) for name in OBSERVED_COLUMNS}
        return Observation(values, rounds, np.full((len(rounds), 2), 1000, np.int64), drift_pages=0)


def install(monkeypatch: pytest.MonkeyPatch, kernel: FakeKernel) -> FakeKernel:
    """Let `kernel` be the live kernel for the rest of the test."""

    @contextmanager
    def open_fake(limit_s: float | None = None, inside: bool = False) -> Iterator[FakeKernel]:
        yield kernel

    monkeypatch.setattr("sweep.kernel.open_kernels.open_kernel", open_fake)
    return kernel


def fake_named(monkeypatch: pytest.MonkeyPatch, kernels: Mapping[str, FakeKernel]) -> None:
    """Let the names of kernels stand for these for the rest of the test, in place of files and the cache."""

    @contextmanager
    def open_fake(choice: KernelChoice, limit_s: float | None = None) -> Iterator[FakeKernel]:
        yield kernels[choice.name]

    def choose(names: Sequence[str], archs: Sequence[str] = ()) -> list[KernelChoice]:
        return [KernelChoice(name, Image(Path(name), "x86_64", name, 4096, None)) for name in names]

    monkeypatch.setattr("sweep.kernel.open_kernels.open_guest", open_fake)
    monkeypatch.setattr("sweep.kernel_images.kernel_cache.choose_kernels", choose)
