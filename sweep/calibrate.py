"""From single steps measured on this machine to a cost table; and how well that table predicts whole points."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.kernel.measure import FLUSHED, SIZES, Figure
from engine.kernel.runner import LostError, RefusedError, Runner, TimedOutError
from engine.outcome import COLUMNS
from engine.policy import POLICIES
from engine.run import run_batch
from engine.scenario import Scenario, columns_of, row
from sweep import costtable, files
from sweep.costtable import COSTS_SCHEMA, SHIPPED, Cost
from sweep.plan import Plan

Figures = Mapping[str, Figure]
At = Callable[[str], float]
"""A figure's ns by its name: its median, or the value of one repeat."""
Rule = Callable[[At], float]
COSTS = "costs"
"""The folder of the store where sweep query looks for cost tables (Store.cost_files)."""
CALLS = COLUMNS.index("zap_calls")
PROCESSES = 3
"""A prediction is held against the median of so many."""
INSTALL = ("ptes_installed", "pte_tables_allocated", "atomics")
"""Counters of an install, without refaults; zap_ns knows nothing of them."""
FEW, MANY = f"zap {FLUSHED[1]} pages, hot", f"zap {FLUSHED[2]} pages, hot"
HALF, MOST = f"zap {FLUSHED[3]} pages, hot", f"zap {FLUSHED[4]} pages, hot"
ONE = f"zap {FLUSHED[0]} pages, hot"
A_PAGE = [f"zap a page, {2 * tables} MiB resident" for tables in SIZES]


@dataclass(frozen=True, slots=True)
class Price:
    """What one of a counter costs, and from which figures that follows. low, high: from their quartiles."""

    counter: str
    ns: float
    low: float
    high: float
    covers: str
    how: str


def prices(figures: Figures) -> list[Price]:
    """The counters that this machine can price."""

    def page(at: At) -> float:
        return float(np.median([at(name) for name in A_PAGE]))

    def hot(at: At) -> float:
        return (at(MOST) - at(HALF)) / (FLUSHED[4] - FLUSHED[3])

    def invlpg(at: At) -> float:
        return (at(FEW) - at(ONE)) / (FLUSHED[1] - FLUSHED[0]) - hot(at)

    def full(at: At) -> float:
        more = FLUSHED[2] - FLUSHED[1]
        return at(MANY) - at(FEW) - more * hot(at) + FLUSHED[1] * max(invlpg(at), 0)

    rules: list[tuple[str, str, str, Rule]] = [
        ("zap_calls", "a call that meets no table", "call over nothing", lambda at: at("call over nothing")),
        (
            "table_visits",
            "the zap's own look at a table's none entries, all but one of them",
            "empty table, less an entry - call over nothing",
            lambda at: at("empty table, less an entry") - at("call over nothing"),
        ),
        ("ptes_zapped", "clearing an entry and freeing its page", "median of: zap a page, 2 to 128 MiB resident", page),
        (
            "pte_tables_freed",
            "what freeing adds where one call frees one table; figures has the share in a call over 32",
            "empty table - empty table, less an entry",
            lambda at: at("empty table") - at("empty table, less an entry"),
        ),
        (
            "ptes_rescanned",
            "reading one entry again",
            "(empty table, less an entry - empty table, one entry) / 510",
            lambda at: (at("empty table, less an entry") - at("empty table, one entry")) / 510,
        ),
        ("tlb_invlpgs", "one INVLPG", "(zap 32 - zap 1) / 31 - (zap 128 - zap 64) / 64, hot", invlpg),
        ("tlb_flushes_full", "a full flush of one's own TLB", "zap 40 - zap 32 - 8 pages + 32 INVLPG, hot", full),
        ("ptes_installed", "one page installed", "median of: install a page, 2 to 128 MiB resident", installs),
        (
            "pte_tables_allocated",
            "what an install costs more where its table is new",
            "install, table absent - install, table present",
            lambda at: at("install, table absent") - at("install, table present"),
        ),
    ]
    if "zap one page, 2 threads" in figures:
        rules.append(
            (
                "ipis",
                "one interrupt to another CPU, waited for; both CPUs busy with zaps",
                "zap one page, 2 threads - zap one page, 1 thread",
                lambda at: at("zap one page, 2 threads") - at("zap one page, 1 thread"),
            )
        )
    return [_price(figures, *rule) for rule in rules]


def installs(at: At) -> float:
    return float(np.median([at(f"install a page, {2 * tables} MiB resident") for tables in SIZES]))


def _price(figures: Figures, counter: str, covers: str, how: str, rule: Rule) -> Price:
    """The rule at the medians, and its quartiles over the repeats."""
    each = []
    for repeat in range(min(len(figure.values) for figure in figures.values())):
        values = {name: float(figure.values[repeat]) for name, figure in figures.items()}
        each.append(max(rule(values.__getitem__), 0.0))
    low, high = np.quantile(each, [0.25, 0.75])
    return Price(counter, max(rule(lambda name: figures[name].ns), 0.0), float(low), float(high), covers, how)


def document(name: str, runner: Runner, machine: str, figures: Figures, found: Sequence[Price]) -> dict[str, Any]:
    """The cost table as JSON. Counters that no kernel of today shows keep the published price and its source."""
    date, release = datetime.now(UTC).date().isoformat(), runner.machine.release
    published = {cost.counter: cost for cost in costtable.load(SHIPPED / "published.json").costs}
    counters: dict[str, Any] = {}
    where = {"machine": f"{machine}, Linux {release}", "date": date, "guess": False}
    for price in found:
        spread = {"low_ns": round(price.low, 2), "high_ns": round(price.high, 2)}
        counters[price.counter] = {"ns": round(price.ns, 2), **spread, "covers": price.covers}
        counters[price.counter] |= {"source": f"measured: {price.how}", **where}
    for counter, cost in published.items():
        counters.setdefault(counter, _kept(cost))
    return {
        "schema": COSTS_SCHEMA,
        "name": name,
        "about": f"Measured by sweep calibrate on {machine}, Linux {release}, {date}; CPU time, medians and quartiles.",
        "machine": machine,
        "kernel": release,
        "pt_reclaim": runner.pt_reclaim,
        "date": date,
        "loop_ns": round(runner.hello.loop_ns, 2),
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


def _kept(cost: Cost) -> dict[str, Any]:
    kept = {"ns": cost.ns, "covers": cost.covers, "source": f"not measured here; published: {cost.source}"}
    return kept | {"machine": cost.machine, "date": cost.date, "guess": cost.guess}


def save(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A point's zaps: what the cost table says and what was measured, ns."""

    scenario: Scenario
    predicted_ns: float
    measured_ns: int

    @property
    def ratio(self) -> float:
        return self.predicted_ns / self.measured_ns

    @property
    def kind(self) -> str:
        """What the model's counters can know about: they count no pages under MADV_FREE and no nested flushes."""
        advice = {"dontneed": "MADV_DONTNEED", "free": "MADV_FREE"}[self.scenario.advice]
        return f"{advice}, {'1 thread' if self.scenario.threads == 1 else 'more threads'}"


def predictions(plan: Plan, runner: Runner, counters: Mapping[str, Any]) -> Iterator[Prediction]:
    """Every point of a plan that makes a call and that the kernel can show, under the kernel's own policy."""
    policy = POLICIES.index(runner.policy)
    weights = np.array([0 if c in INSTALL else counters.get(c, {}).get("ns", 0) for c in COLUMNS], np.float64)
    for block in plan.points():
        for place in range(len(block.ids)):
            scenario = row(block.columns, place)
            try:
                times = [runner.run(scenario).zap_ns for _ in range(PROCESSES)]
            except (RefusedError, TimedOutError, LostError):
                continue
            values = run_batch(columns_of([scenario])).values[0, policy]
            if values[CALLS] and min(times):
                yield Prediction(scenario, float(values @ weights), int(np.median(times)))


@dataclass(frozen=True, slots=True)
class Fit:
    """How far predictions of one kind are off: the factor's median and 90th percentile; bias: the median ratio."""

    kind: str
    points: int
    bias: float
    median: float
    p90: float


def fits(found: Sequence[Prediction]) -> list[Fit]:
    """One a kind, then all."""
    kinds = sorted({prediction.kind for prediction in found})
    groups = [(kind, [p.ratio for p in found if p.kind == kind]) for kind in kinds]
    return [_fit(kind, ratios) for kind, ratios in [*groups, ("all", [p.ratio for p in found])] if ratios]


def _fit(kind: str, ratios: Sequence[float]) -> Fit:
    array = np.array(ratios)
    factor = np.maximum(array, 1 / np.maximum(array, 1e-9))
    return Fit(
        kind, len(array), float(np.median(array)), float(np.median(factor)), float(np.quantile(factor, 0.9))
    )  # fmt: skip
