"""Compiled kernels are made once on a machine, by what needs them, outside of what is timed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.encode import encode
from engine.run import KERNELS, blank, call
from engine.scenario import Scenario, columns_of
from sweep.executors import base

ROOT = Path(__file__).parents[2]
LOADS = """
from engine.run import KERNELS, load, load_compiled
from engine.scenario import Scenario, columns_of
load_compiled(range(4))
print(*(len(k.signatures) for k, _ in KERNELS))
load(columns_of([Scenario(virt=1 << 24, sparsity=0.5, zap=1 << 22)]))
print(*(sum(kernel.stats.cache_misses.values()) for kernel, _ in KERNELS), *(len(k.signatures) for k, _ in KERNELS))
"""


def test_processes_that_want_a_kernel_at_once_compile_it_once(tmp_path: Path) -> None:
    """And only that one: calls of two slots go the way of slots, the second kernel. The next begins with it."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", LOADS], env=env, stdout=subprocess.PIPE, text=True)

    nothing, compiled, found = "0 0 0 0", "0 1 0 0 0 1 0 0", "0 0 0 0 0 1 0 0"
    said = sorted(process.communicate()[0].splitlines() for process in (begin(), begin()))
    assert said == [[nothing, found], [nothing, compiled]]
    assert begin().communicate()[0].splitlines() == ["0 1 0 0", found]


def test_a_batch_finds_its_kernels_loaded_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def clock() -> int:
        asked.append("clock")
        return 0

    monkeypatch.setattr("engine.run.load", lambda columns: asked.append(f"load {len(columns['virt'])}"))
    monkeypatch.setattr("time.thread_time_ns", clock)
    base.run_batch(base.Batch(1, columns_of([Scenario(virt=1 << 21, sparsity=0.5)] * 3)))
    assert asked == ["load 3", "clock", "clock"]


def test_what_cannot_be_compiled_is_reported_by_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(kind: int) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("engine.run.ready", fails)
    done = base.run_batch(base.Batch(1, columns_of([Scenario(virt=1 << 21, sparsity=0.5)] * 2)))
    assert [(i, why.error) for i, why in done.failures] == [(i, "RuntimeError: no compiler") for i in range(2)]


@pytest.mark.parametrize("kind", range(len(KERNELS)))
def test_every_kernel_can_be_called_for_no_point(kind: int) -> None:
    one = encode(columns_of([Scenario(virt=1 << 46, sparsity=0.5)]))
    call(kind, one, one.par, np.zeros(0, np.int64), blank(one))
    assert KERNELS[kind][0].signatures
