"""Predicts the times of points from a cost table, and compares them with measured ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.kernel.runner import LostError, RefusedError, Runner, TimedOutError
from engine.model.policy import BUILT_IN
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, row
from engine.run import run_batch
from sweep.common.cost_tables import CostTable
from sweep.query import database
from sweep.run.plan import Plan
from sweep.tables import result_tables

CALLS = COLUMNS.index("zap_calls")
RUNS_PER_POINT = 5
"""Predictions are compared with the median of these."""
INSTALL_COUNTERS = ("ptes_installed", "pte_tables_allocated", "atomics")
"""Counters of an install, without refaults. They are not part of zap_ns."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """zap_ns of a point: by the cost table, and measured."""

    scenario: Scenario
    predicted_ns: float
    measured_ns: int

    @property
    def ratio(self) -> float:
        return self.predicted_ns / self.measured_ns

    @property
    def group(self) -> str:
        """Points whose costs depend on the same counters: by advice, and one thread or more."""
        advice = {"dontneed": "MADV_DONTNEED", "free": "MADV_FREE"}[self.scenario.advice]
        return f"{advice}, {'1 thread' if self.scenario.threads == 1 else 'more threads'}"


def predict_points(plan: Plan, runner: Runner, prices: CostTable) -> Iterator[Prediction]:
    """Predict and measure every point of a plan under the kernel's policy.

    Points without calls, and those that the kernel engine refuses or loses, are left out.
    """
    prices = prices.without(INSTALL_COUNTERS)
    for chunk in plan.chunks():
        for place in range(len(chunk.ids)):
            point = chunk.slice(place, place + 1)
            scenario = row(point.columns, 0)
            try:
                times = [runner.run(scenario).zap_ns for _ in range(RUNS_PER_POINT)]
            except (RefusedError, TimedOutError, LostError):
                continue
            policies = (runner.policy,)
            results = run_batch(point.columns, [BUILT_IN[runner.policy]])
            if results.values[0, 0, CALLS] and min(times):
                rows = result_tables.outcome_table("", point.ids, point.repeat, point.columns, results, policies)
                (predicted_ns,) = database.cost_ns(rows, prices)
                yield Prediction(scenario, predicted_ns, int(np.median(times)))


@dataclass(frozen=True, slots=True)
class Fit:
    """The error of a group's predictions. bias: median of predicted / measured;

    median, p90: median and 90th percentile of the larger of that ratio and its inverse
    """

    group: str
    points: int
    bias: float
    median: float
    p90: float


def fit_predictions(predictions: Sequence[Prediction]) -> list[Fit]:
    """The error of each group, then that of all predictions."""
    names = sorted({prediction.group for prediction in predictions})
    groups = [(name, [p.ratio for p in predictions if p.group == name]) for name in names]
    groups.append(("all", [p.ratio for p in predictions]))
    return [_fit(name, ratios) for name, ratios in groups if ratios]


def _fit(group: str, ratios: Sequence[float]) -> Fit:
    array = np.array(ratios)
    factor = np.maximum(array, 1 / np.maximum(array, 1e-9))
    return Fit(
        group, len(array), float(np.median(array)), float(np.median(factor)), float(np.quantile(factor, 0.9))
    )  # fmt: skip
