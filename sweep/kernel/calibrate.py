"""Computes a cost table from steps measured on this machine, and compares its predictions with measured points."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.kernel.microbench import FULL_TABLES, PAGES_PER_CALL, Figure
from engine.kernel.runner import LostError, RefusedError, Runner, TimedOutError
from engine.model.policy import BUILT_IN
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, row
from engine.run import run_batch
from sweep.common import atomic_write, cost_tables
from sweep.common.cost_tables import COSTS_SCHEMA, SHIPPED, Cost, CostTable
from sweep.query import database
from sweep.run.plan import Plan
from sweep.tables import result_tables

Figures = Mapping[str, Figure]
At = Callable[[str], float]
"""ns of the figure with this name, in one repeat."""
Rule = Callable[[At], float]
"""A price in ns, computed from the figures of one repeat."""
CALLS = COLUMNS.index("zap_calls")
RUNS_PER_POINT = 5
"""Predictions are compared with the median of these."""
THREADED_STEPS = ("absent table", "zap one page")
"""Steps that are measured with one thread and with several."""
INSTALL_COUNTERS = ("ptes_installed", "pte_tables_allocated", "atomics")
"""Counters of an install, without refaults. They are not part of zap_ns."""
ONE, FEW, MANY, HALF, MOST = (f"zap {pages} pages, hot" for pages in PAGES_PER_CALL)
ZAP_A_PAGE = [f"zap a page, {2 * tables} MiB resident" for tables in FULL_TABLES]
INSTALL_A_PAGE = [f"install a page, {2 * tables} MiB resident" for tables in FULL_TABLES]
PAGE_BYTES, ENTRIES = 4096, 512
WIDE = 32


@dataclass(frozen=True, slots=True)
class Price:
    """ns per unit of a counter. low, high: quartiles; covers: what is priced; how: the rule, from which figures."""

    counter: str
    ns: float
    low: float
    high: float
    covers: str
    how: str


def entry_read_ns(at: At) -> float:
    """Reading an entry that is none."""
    return (at("empty table, less an entry") - at("empty table, one entry")) / (ENTRIES - 2)


def table_visit_ns(at: At) -> float:
    return at("empty table, one entry") - at("absent table") - entry_read_ns(at)


def page_zap_ns(at: At) -> float:
    return float(np.median([at(name) for name in ZAP_A_PAGE])) - entry_read_ns(at)


def cached_page_zap_ns(at: At) -> float:
    return (at(MOST) - at(HALF)) / (PAGES_PER_CALL[4] - PAGES_PER_CALL[3])


def invlpg_ns(at: At) -> float:
    return (at(FEW) - at(ONE)) / (PAGES_PER_CALL[1] - PAGES_PER_CALL[0]) - cached_page_zap_ns(at)


def full_flush_ns(at: At) -> float:
    """A full TLB flush, which replaces all INVLPGs of the call."""
    more = PAGES_PER_CALL[2] - PAGES_PER_CALL[1]
    return at(MANY) - at(FEW) - more * cached_page_zap_ns(at) + PAGES_PER_CALL[1] * max(invlpg_ns(at), 0)


def flush_ns(at: At) -> float:
    return at("zap one page") - at("empty table, one entry") - page_zap_ns(at) - max(invlpg_ns(at), 0)


def table_free_ns(at: At) -> float:
    return at("32 empty tables") - at("absent table") / WIDE - table_visit_ns(at) - ENTRIES * entry_read_ns(at)


def first_table_free_ns(at: At) -> float:
    return at("zap one page in a table") - at("zap one page in a table less a page") - max(table_free_ns(at), 0)


def interrupt_ns(at: At) -> float:
    return float(np.median([at(f"{what}, 2 threads") - at(f"{what}, 1 thread") for what in THREADED_STEPS]))


def measured_prices(figures: Figures) -> list[Price]:
    """The prices that follow from the figures: each a difference of figures, so that nothing is counted twice."""
    rules: list[tuple[str, str, str, Rule]] = [
        ("zap_calls", "a call that meets no table", "absent table", lambda at: at("absent table")),
        (
            "tables_absent",
            "one more slot without a table",
            "32 absent tables - absent table / 32",
            lambda at: at("32 absent tables") - at("absent table") / WIDE,
        ),
        ("table_visits", "entering a table", "empty table, one entry - absent table - ptes_looked_at", table_visit_ns),
        (
            "ptes_looked_at",
            "looking at one entry",
            "(empty table, less an entry - empty table, one entry) / 510",
            entry_read_ns,
        ),
        (
            "ptes_zapped",
            "clearing an entry and freeing its page",
            "median of: zap a page, 2 to 128 MiB resident; - ptes_looked_at",
            page_zap_ns,
        ),
        (
            "flushes",
            "the end of a call that cleared an entry: a flush, and returning the pages",
            "zap one page - empty table, one entry - ptes_zapped - tlb_invlpgs",
            flush_ns,
        ),
        ("tlb_invlpgs", "one INVLPG", "(zap 32 - zap 1) / 31 - (zap 128 - zap 64) / 64, hot", invlpg_ns),
        (
            "tlb_flushes_full",
            "a full flush of the CPU's own TLB",
            "zap 40 - zap 32 - 8 pages + 32 INVLPG, hot",
            full_flush_ns,
        ),
        (
            "pte_tables_freed",
            "one more freed table of a call",
            "32 empty tables - absent table / 32 - table_visits - 512 ptes_looked_at",
            table_free_ns,
        ),
        (
            "calls_freeing",
            "what the first freed table of a call adds beyond that",
            "zap one page in a table - zap one page in a table less a page - pte_tables_freed",
            first_table_free_ns,
        ),
        (
            "ptes_marked",
            "an entry under MADV_FREE, just written",
            "MADV_FREE, a page - ptes_looked_at",
            lambda at: at("MADV_FREE, a page") - entry_read_ns(at),
        ),
        (
            "ptes_marked_again",
            "an entry under MADV_FREE, not written since the last",
            "MADV_FREE again, a page - ptes_looked_at",
            lambda at: at("MADV_FREE again, a page") - entry_read_ns(at),
        ),
        ("ptes_rescanned", "reading one entry again", "as ptes_looked_at", entry_read_ns),
        (
            "ptes_installed",
            "one page installed",
            "median of: install a page, 2 to 128 MiB resident",
            lambda at: float(np.median([at(name) for name in INSTALL_A_PAGE])),
        ),
        (
            "pte_tables_allocated",
            "a new table of an install",
            "install, table absent - install, table present",
            lambda at: at("install, table absent") - at("install, table present"),
        ),
    ]
    if f"{THREADED_STEPS[0]}, 2 threads" in figures:
        rules.append(
            (
                "interrupts",
                "one interrupt to another CPU, waited for; both CPUs busy with zaps",
                "median of: 2 threads - 1 thread, for absent table and zap one page",
                interrupt_ns,
            )
        )
    return [_price(figures, *rule) for rule in rules]


def _price(figures: Figures, counter: str, covers: str, how: str, rule: Rule) -> Price:
    """Median and quartiles of the rule over the repeats. The steps of one process are slow or fast together."""
    values_ns = []
    for repeat in range(min(len(figure.values) for figure in figures.values())):
        values = {name: float(figure.values[repeat]) for name, figure in figures.items()}
        values_ns.append(max(rule(values.__getitem__), 0.0))
    low, ns, high = map(float, np.quantile(values_ns, [0.25, 0.5, 0.75]))
    return Price(counter, ns, low, high, covers, how)


def cost_table_document(
    name: str, runner: Runner, machine: str, load: Sequence[float], figures: Figures, found: Sequence[Price]
) -> dict[str, Any]:
    """The cost table as JSON. Counters that cannot be measured keep the published price and its source.

    machine: CPU model and number; load: load averages before the measurements; found: the measured prices
    """
    date, release = datetime.now(UTC).date().isoformat(), runner.machine.release
    published = {cost.counter: cost for cost in cost_tables.load(SHIPPED / "published.json").costs}
    counters: dict[str, Any] = {}
    where = {"machine": f"{machine}, Linux {release}", "date": date, "guess": False}
    for price in found:
        spread = {"low_ns": round(price.low, 2), "high_ns": round(price.high, 2)}
        counters[price.counter] = {"ns": round(price.ns, 2), **spread, "covers": price.covers}
        counters[price.counter] |= {"source": f"measured: {price.how}", **where}
    for counter, cost in published.items():
        if counter != "ipis":  # priced by `interrupts` instead
            counters.setdefault(counter, _published_entry(cost))
    return {
        "schema": COSTS_SCHEMA,
        "name": name,
        "about": f"Measured by sweep calibrate on {machine}, Linux {release}, {date}; CPU time, medians and quartiles.",
        "machine": machine,
        "kernel": release,
        "pt_reclaim": runner.pt_reclaim,
        "date": date,
        "cpus": runner.machine.cpus,
        "load": [round(average, 2) for average in load],
        "loop_ns": round(runner.info.loop_ns, 2),
        "counters": counters,
        "figures": {
            figure.name: {
                "ns": round(figure.ns, 1),
                "low_ns": round(figure.quartiles[0], 1),
                "high_ns": round(figure.quartiles[1], 1),
                "processes": len(figure.values),
                "how": figure.how,
            }
            for figure in figures.values()
        },
    }


def _published_entry(cost: Cost) -> dict[str, Any]:
    entry = {"ns": cost.ns, "covers": cost.covers, "source": f"not measured here; published: {cost.source}"}
    return entry | {"machine": cost.machine, "date": cost.date, "guess": cost.guess}


def save(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


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
