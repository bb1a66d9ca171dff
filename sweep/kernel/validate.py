"""Model and live kernel side by side: the same scenario on both, every figure compared.

Memory must agree to the byte at both moments of every round. RES too: entries are counted one by one. Only where the
kernel cannot be asked for them (before Linux 6.7) is it VmRSS, whose counter is kept per CPU in batches.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from engine.kernel.runner import LostError, Observation, RefusedError, TimedOutError
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import FIELD, Scenario, columns_of, row
from engine.run import run_batch
from sweep.common.units import format_size, plain_number
from sweep.grid.point_id import id_strings
from sweep.kernel.kernel_driver import MUNMAP, Kernel
from sweep.run.plan import Plan

AGREES, DIFFERS, REFUSED, FAILED = "agrees", "differs", "refused", "failed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure that is not the same. `round` counts from 1; 0: of the point as a whole."""

    column: str
    round: int
    model: int
    kernel: int

    def __str__(self) -> str:
        where = f"round {self.round} " if self.round else ""
        return f"{where}{self.column}: model {self.model:,}, kernel {self.kernel:,}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one scenario under one policy. `error` says why there is nothing to compare."""

    scenario: Scenario
    policy: str
    status: str
    differences: tuple[Difference, ...] = ()
    error: str = ""
    seen: Observation | None = None
    point_id: str = ""

    @property
    def size(self) -> tuple[int, ...]:
        """What makes one scenario smaller than another: less to do, then fewer fields off their default."""
        s = self.scenario
        assert s.zap is not None
        odd = sum(FIELD[f.name].default not in (None, getattr(s, f.name)) for f in fields(s) if f.name != "seed")
        return s.rounds * -(-s.virt // s.zap), s.virt, odd, s.threads


def compare_all(plan: Plan, kernel: Kernel, policies: Sequence[str], exact_res: bool) -> Iterator[Verdict]:
    """Every point of a plan under each policy, in order."""
    for block in plan.chunks():
        for place, point_id in enumerate(id_strings(block.ids)):
            yield from compare(row(block.columns, place), kernel, policies, exact_res, point_id)


def compare(
    scenario: Scenario, kernel: Kernel, policies: Sequence[str], exact_res: bool, point_id: str = ""
) -> Iterator[Verdict]:
    """One scenario under each policy; the kernel is asked first, as it may refuse what would cost the model hours."""
    model: Results | None = None
    for policy in policies:
        try:
            seen = kernel.run(scenario, unmap=policy == MUNMAP)
        except RefusedError as error:
            yield Verdict(scenario, policy, REFUSED, error=str(error), point_id=point_id)
            continue
        except (TimedOutError, LostError) as error:
            yield Verdict(scenario, policy, FAILED, error=str(error), point_id=point_id)
            continue
        model = model or run_batch(columns_of([scenario]))
        noise_bytes = 0 if exact_res else rss_noise_pages() * scenario.geometry.page_bytes
        found = tuple(differences(model, POLICIES.index(policy), seen, noise_bytes))
        yield Verdict(scenario, policy, DIFFERS if found else AGREES, found, seen=seen, point_id=point_id)


def differences(model: Results, policy: int, seen: Observation, res_noise_bytes: int = 0) -> Iterator[Difference]:
    """Figures that are not the same, rounds first. `model` holds one point."""
    mine: NDArray[np.int64] = model.rounds[:, policy]
    for number in range(len(mine)):
        for at, column in enumerate(ROUND_COLUMNS):
            wanted, found = int(mine[number, at]), int(seen.rounds[number, at])
            if abs(wanted - found) > (res_noise_bytes if column.startswith("res_") else 0):
                yield Difference(column, number + 1, wanted, found)
    for column, found in seen.values.items():
        wanted = int(model.values[0, policy, COLUMNS.index(column)])
        noisy = res_noise_bytes and column.startswith(("res_", "ptes_"))
        if wanted != found and column not in ROUND_COLUMNS and not noisy:
            yield Difference(column, 0, wanted, found)


def rss_noise_pages() -> int:
    """The most by which VmRSS may stray before Linux 6.16: a batch a CPU (percpu_counter_batch), and our own pages."""
    cpus = os.cpu_count() or 1
    return cpus * max(32, 2 * cpus) + 64


def spelled(scenario: Scenario) -> dict[str, str]:
    """The fields that are off their default, as a grid has them."""
    arch = scenario.geometry
    defaults = {"cluster": arch.page_bytes, "folio": arch.page_bytes, "zap": arch.span_bytes}
    given = {}
    for name, field in FIELD.items():
        value = getattr(scenario, name)
        if value is None or value == defaults.get(name, field.default):
            continue
        text = plain_number(repr(value)) if field.kind == "share" else str(value)
        given[name] = format_size(value) if field.kind == "bytes" else text
    return given


def as_grid(verdict: Verdict) -> str:
    """A grid file of this one point."""
    fixed = ", ".join(f"{name}: {value}" for name, value in spelled(verdict.scenario).items())
    about = "; ".join(map(str, verdict.differences[:3])) or verdict.error
    head = f"schema: sweep/1\nname: disagreement\nabout: {json.dumps(about)}\n"
    return f"{head}policies: [{verdict.policy}]\nfixed: {{{fixed}}}\n"
