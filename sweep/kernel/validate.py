"""Runs scenarios on the model and on kernels, and compares all figures.

VmPTE must agree to the byte after the installs and after the zaps of every round. So must RES, which is counted entry
by entry. Before Linux 6.7, which lacks PAGEMAP_SCAN, RES is VmRSS, a counter that is kept per CPU in batches.
"""

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.kernel.feasibility import RefusedError
from engine.kernel.host import HOST
from engine.kernel.outcome import Observation
from engine.kernel.server import PointError
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import FIELD, Scenario, columns_of, row
from engine.run import run_batch
from sweep.common.units import format_size, plain_number
from sweep.grid.point_id import id_strings
from sweep.kernel.open_kernels import Kernel
from sweep.kernel.targets import MUNMAP, LocalTarget
from sweep.run.plan import Plan

AGREES, DIFFERS, REFUSED, FAILED = "agrees", "differs", "refused", "failed"
RESCHEDULED = {"slow_paths": 1, "fast_paths": -1, "pmd_trylocks": -1}
"""What changes by one when a zap meets need_resched(): it drops the PTE lock, and the table is scanned."""
FLUSHES = ("tlb_flushes_full", "tlb_invlpgs")
TABLES_IN_BATCHES = (6, 13)
"""The Linux release from which x86 keeps freed tables in batches of their own, no longer among the pages."""
OF_ONE_THREAD = (*FLUSHES, *RESCHEDULED, "pmd_trylocks_failed")
"""Counters that a kernel shows and the model knows exactly for one thread only (docs/method.md, section 6)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that differs. `round` is numbered from 1; 0: a column of the whole point."""

    column: str
    round: int
    model: int
    kernel: int

    def __str__(self) -> str:
        where = f"round {self.round} " if self.round else ""
        return f"{where}{self.column}: model {self.model:,}, kernel {self.kernel:,}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The comparison of one scenario on one kernel under one policy. `error`: why there is nothing to compare.

    rescheduled: slow paths that the kernel took because of need_resched()
    """

    scenario: Scenario
    policy: str
    status: str
    differences: tuple[Difference, ...] = ()
    error: str = ""
    observation: Observation | None = None
    point_id: str = ""
    release: str = ""
    rescheduled: int = 0

    @property
    def size(self) -> tuple[int, ...]:
        """A sort key: number of calls, size, number of fields that differ from their default, threads."""
        s = self.scenario
        assert s.zap is not None
        changed = sum(FIELD[f.name].default not in (None, getattr(s, f.name)) for f in fields(s) if f.name != "seed")
        return s.rounds * -(-s.virt // s.zap), s.virt, changed, s.threads


class Comparer:
    """Compares scenarios on all targets. A context manager: kernels in guests run at the same time."""

    def __init__(self, targets: Sequence[LocalTarget]) -> None:
        self._targets = targets
        self._threads = {i: ThreadPoolExecutor(1) for i, t in enumerate(targets) if t.kernel.accel != HOST}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads.values():
            thread.shutdown()

    def compare_all(self, plan: Plan) -> Iterator[Verdict]:
        """Compare every point of a plan, in order."""
        for chunk in plan.chunks():
            for place, point_id in enumerate(id_strings(chunk.ids)):
                yield from self.compare(row(chunk.columns, place), point_id)

    def compare(self, scenario: Scenario, point_id: str = "") -> list[Verdict]:
        """Compare one scenario on the kernels of its arch, under each of their policies."""
        chosen = [i for i, t in enumerate(self._targets) if t.kernel.machine.arch == scenario.arch]
        chosen = chosen or list(range(len(self._targets)))  # each refuses it, with the reason

        def verdicts(i: int) -> list[Verdict]:
            target = self._targets[i]
            return list(compare(scenario, target.kernel, target.policies, target.kernel.counts_pages, point_id))

        calls = {i: self._threads[i].submit(verdicts, i) for i in chosen if i in self._threads}
        return [verdict for i in chosen for verdict in (calls[i].result() if i in calls else verdicts(i))]


_model_lock = threading.Lock()


@lru_cache(maxsize=1)
def _model_results(scenario: Scenario) -> Results:
    return run_batch(columns_of([scenario]))


def compare(
    scenario: Scenario, kernel: Kernel, policies: Sequence[str], exact_res: bool, point_id: str = ""
) -> Iterator[Verdict]:
    """Compare one scenario under each policy. exact_res: the kernel engine counts RES exactly.

    The kernel runs first, as it may refuse a scenario that would take the model hours.
    """
    for policy in policies:
        verdict = Verdict(scenario, policy, AGREES, point_id=point_id, release=kernel.machine.release)
        try:
            observation = kernel.run(scenario, unmap=policy == MUNMAP)
        except RefusedError as error:
            yield replace(verdict, status=REFUSED, error=str(error))
            continue
        except PointError as error:
            yield replace(verdict, status=FAILED, error=str(error))
            continue
        with _model_lock:  # of several kernels, the first to need the model's results computes them
            model = _model_results(scenario)
        noise_bytes = 0 if exact_res else rss_noise_pages() * scenario.geometry.page_bytes
        skipped = skipped_columns(scenario, policy, kernel.machine.release)
        found = tuple(differences(model, POLICIES.index(policy), observation, noise_bytes, skipped))
        rescheduled = slow_paths_by_reschedule(model, POLICIES.index(policy), observation)
        verdict = replace(verdict, observation=observation, rescheduled=rescheduled)
        yield replace(verdict, status=DIFFERS if found else AGREES, differences=found)


def differences(
    model: Results, policy: int, observation: Observation, res_noise_bytes: int = 0, skipped: Sequence[str] = ()
) -> Iterator[Difference]:
    """Figures that differ between model and kernel, those of rounds first.

    model: results of one point; policy: position in POLICIES; res_noise_bytes: by how much RES may differ;
    skipped: columns that are not compared
    """
    model_rounds: NDArray[np.int64] = model.rounds[:, policy]
    for number in range(len(model_rounds)):
        for at, column in enumerate(ROUND_COLUMNS):
            expected, observed = int(model_rounds[number, at]), int(observation.rounds[number, at])
            if abs(expected - observed) > (res_noise_bytes if column.startswith("res_") else 0):
                yield Difference(column, number + 1, expected, observed)
    several_threads = int(model.values[0, policy, COLUMNS.index("ipis")]) > 0
    rescheduled = slow_paths_by_reschedule(model, policy, observation)
    for column, observed in observation.values.items():
        expected = int(model.values[0, policy, COLUMNS.index(column)]) + rescheduled * RESCHEDULED.get(column, 0)
        is_noisy = res_noise_bytes and column.startswith(("res_", "ptes_"))
        is_guess = (several_threads and column in OF_ONE_THREAD) or column in skipped
        if expected != observed and column not in ROUND_COLUMNS and not is_noisy and not is_guess:
            yield Difference(column, 0, expected, observed)


def skipped_columns(scenario: Scenario, policy: str, release: str) -> Sequence[str]:
    """Columns that the model leaves out of a comparison: flushes of some munmap calls (docs/method.md, section 5)."""
    arch, numbers = scenario.geometry, re.findall(r"\d+", release)
    assert scenario.zap is not None
    is_old = tuple(map(int, numbers[:2])) < TABLES_IN_BATCHES
    fills_batch = min(scenario.zap, scenario.virt) // arch.span_bytes + 4 >= arch.table_batch
    return FLUSHES if policy == MUNMAP and (scenario.thp == "always" or (is_old and fills_batch)) else ()


def slow_paths_by_reschedule(model: Results, policy: int, observation: Observation) -> int:
    """Slow paths beyond the model's that the kernel took because need_resched() was set, which the model leaves out.

    0 if the kernel does not show paths, or was not preempted that often.
    """
    if "slow_paths" not in observation.values:
        return 0
    extra = observation.values["slow_paths"] - int(model.values[0, policy, COLUMNS.index("slow_paths")])
    return extra if 0 < extra <= observation.reschedules else 0


def rss_noise_pages() -> int:
    """Most pages by which VmRSS is off before Linux 6.16: a batch per CPU (percpu_counter_batch), and our own pages."""
    cpus = os.cpu_count() or 1
    return cpus * max(32, 2 * cpus) + 64


def grid_fields(scenario: Scenario) -> dict[str, str]:
    """The fields that differ from their default, as text for a grid file, by name."""
    arch = scenario.geometry
    defaults = {"cluster": arch.page_bytes, "folio": arch.page_bytes, "zap": arch.span_bytes}
    texts = {}
    for name, field in FIELD.items():
        value = getattr(scenario, name)
        if value is None or value == defaults.get(name, field.default):
            continue
        text = plain_number(repr(value)) if field.kind == "share" else str(value)
        texts[name] = format_size(value) if field.kind == "bytes" else text
    return texts


def as_grid(verdict: Verdict) -> str:
    """The text of a grid file with this point alone."""
    fixed = ", ".join(f"{name}: {value}" for name, value in grid_fields(verdict.scenario).items())
    about = "; ".join(map(str, verdict.differences[:3])) or verdict.error
    head = f"schema: sweep/1\nname: disagreement\nabout: {json.dumps(about)}\n"
    return f"{head}policies: [{verdict.policy}]\nfixed: {{{fixed}}}\n"
