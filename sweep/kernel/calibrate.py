"""From single steps measured on this machine to a cost table; and how well that table predicts whole points."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.kernel.microbench import FULL_TABLES, PAGES_PER_CALL, Figure
from engine.kernel.runner import LostError, RefusedError, Runner, TimedOutError
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, row
from engine.run import run_batch
from sweep.common import atomic_write, cost_tables
from sweep.common.cost_tables import COSTS_SCHEMA, SHIPPED, Cost, CostTable
from sweep.query import database
from sweep.run.plan import Plan
from sweep.store import arrow_tables

Figures = Mapping[str, Figure]
At = Callable[[str], float]
"""A figure's ns by its name, of one repeat."""
Rule = Callable[[At], float]
CALLS = COLUMNS.index("zap_calls")
PROCESSES = 5
"""A prediction is held against the median of so many."""
TOGETHER = ("absent table", "zap one page")
INSTALL = ("ptes_installed", "pte_tables_allocated", "atomics")
"""Counters of an install, without refaults; zap_ns knows nothing of them."""
ONE, FEW, MANY, HALF, MOST = (f"zap {pages} pages, hot" for pages in PAGES_PER_CALL)
A_PAGE = [f"zap a page, {2 * tables} MiB resident" for tables in FULL_TABLES]
INSTALL_A_PAGE = [f"install a page, {2 * tables} MiB resident" for tables in FULL_TABLES]
PAGE_BYTES, ENTRIES = 4096, 512
WIDE = 32


@dataclass(frozen=True, slots=True)
class Price:
    """What one of a counter costs, and from which figures that follows. low, high: from their quartiles."""

    counter: str
    ns: float
    low: float
    high: float
    covers: str
    how: str


def look(at: At) -> float:
    """One entry that is none."""
    return (at("empty table, less an entry") - at("empty table, one entry")) / (ENTRIES - 2)


def visit(at: At) -> float:
    return at("empty table, one entry") - at("absent table") - look(at)


def page(at: At) -> float:
    return float(np.median([at(name) for name in A_PAGE])) - look(at)


def hot_page(at: At) -> float:
    return (at(MOST) - at(HALF)) / (PAGES_PER_CALL[4] - PAGES_PER_CALL[3])


def invlpg(at: At) -> float:
    return (at(FEW) - at(ONE)) / (PAGES_PER_CALL[1] - PAGES_PER_CALL[0]) - hot_page(at)


def full_flush(at: At) -> float:
    """Where a flush becomes a full one, all INVLPG go."""
    more = PAGES_PER_CALL[2] - PAGES_PER_CALL[1]
    return at(MANY) - at(FEW) - more * hot_page(at) + PAGES_PER_CALL[1] * max(invlpg(at), 0)


def flush(at: At) -> float:
    return at("zap one page") - at("empty table, one entry") - page(at) - max(invlpg(at), 0)


def free(at: At) -> float:
    return at("32 empty tables") - at("absent table") / WIDE - visit(at) - ENTRIES * look(at)


def call_freeing(at: At) -> float:
    return at("zap one page in a table") - at("zap one page in a table less a page") - max(free(at), 0)


def interrupt(at: At) -> float:
    return float(np.median([at(f"{what}, 2 threads") - at(f"{what}, 1 thread") for what in TOGETHER]))


def prices(figures: Figures) -> list[Price]:
    """What this machine can price: each as a difference of figures, so that nothing is counted twice."""
    rules: list[tuple[str, str, str, Rule]] = [
        ("zap_calls", "a call that meets no table", "absent table", lambda at: at("absent table")),
        (
            "tables_absent",
            "one more slot without a table",
            "32 absent tables - absent table / 32",
            lambda at: at("32 absent tables") - at("absent table") / WIDE,
        ),
        ("table_visits", "a way into a table", "empty table, one entry - absent table - ptes_looked_at", visit),
        (
            "ptes_looked_at",
            "looking at one entry",
            "(empty table, less an entry - empty table, one entry) / 510",
            look,
        ),
        (
            "ptes_zapped",
            "clearing an entry and freeing its page",
            "median of: zap a page, 2 to 128 MiB resident; - ptes_looked_at",
            page,
        ),
        (
            "flushes",
            "what ends a call that cleared an entry: a flush, pages to give back",
            "zap one page - empty table, one entry - ptes_zapped - tlb_invlpgs",
            flush,
        ),
        ("tlb_invlpgs", "one INVLPG", "(zap 32 - zap 1) / 31 - (zap 128 - zap 64) / 64, hot", invlpg),
        ("tlb_flushes_full", "a full flush of one's own TLB", "zap 40 - zap 32 - 8 pages + 32 INVLPG, hot", full_flush),
        (
            "pte_tables_freed",
            "what one more freed table adds to a call",
            "32 empty tables - absent table / 32 - table_visits - 512 ptes_looked_at",
            free,
        ),
        (
            "calls_freeing",
            "what the first freed table adds to a call beyond that",
            "zap one page in a table - zap one page in a table less a page - pte_tables_freed",
            call_freeing,
        ),
        (
            "ptes_marked",
            "an entry under MADV_FREE, just written",
            "MADV_FREE, a page - ptes_looked_at",
            lambda at: at("MADV_FREE, a page") - look(at),
        ),
        (
            "ptes_marked_again",
            "the same, not written since",
            "MADV_FREE again, a page - ptes_looked_at",
            lambda at: at("MADV_FREE again, a page") - look(at),
        ),
        ("ptes_rescanned", "reading one entry again", "as ptes_looked_at", look),
        (
            "ptes_installed",
            "one page installed",
            "median of: install a page, 2 to 128 MiB resident",
            lambda at: float(np.median([at(name) for name in INSTALL_A_PAGE])),
        ),
        (
            "pte_tables_allocated",
            "what an install costs more where its table is new",
            "install, table absent - install, table present",
            lambda at: at("install, table absent") - at("install, table present"),
        ),
    ]
    if f"{TOGETHER[0]}, 2 threads" in figures:
        rules.append(
            (
                "interrupts",
                "one interrupt to another CPU, waited for; both CPUs busy with zaps",
                "median of: 2 threads - 1 thread, for absent table and zap one page",
                interrupt,
            )
        )
    return [_price(figures, *rule) for rule in rules]


def _price(figures: Figures, counter: str, covers: str, how: str, rule: Rule) -> Price:
    """The rule's median and quartiles over the repeats: steps of one process are slow or fast together."""
    each = []
    for repeat in range(min(len(figure.values) for figure in figures.values())):
        values = {name: float(figure.values[repeat]) for name, figure in figures.items()}
        each.append(max(rule(values.__getitem__), 0.0))
    low, ns, high = map(float, np.quantile(each, [0.25, 0.5, 0.75]))
    return Price(counter, ns, low, high, covers, how)


def document(
    name: str, runner: Runner, machine: str, load: Sequence[float], figures: Figures, found: Sequence[Price]
) -> dict[str, Any]:
    """The cost table as JSON. Counters that no kernel of today shows keep the published price and its source.

    load: the machine's load averages before anything was measured
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
        if counter != "ipis":  # interrupts has them
            counters.setdefault(counter, _kept(cost))
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


def _kept(cost: Cost) -> dict[str, Any]:
    kept = {"ns": cost.ns, "covers": cost.covers, "source": f"not measured here; published: {cost.source}"}
    return kept | {"machine": cost.machine, "date": cost.date, "guess": cost.guess}


def save(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


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
        """Kinds that are predicted from different counts."""
        advice = {"dontneed": "MADV_DONTNEED", "free": "MADV_FREE"}[self.scenario.advice]
        return f"{advice}, {'1 thread' if self.scenario.threads == 1 else 'more threads'}"


def predictions(plan: Plan, runner: Runner, prices: CostTable) -> Iterator[Prediction]:
    """Every point of a plan that makes a call and that the kernel can show, under the kernel's own policy."""
    prices = prices.without(INSTALL)
    for block in plan.chunks():
        for place in range(len(block.ids)):
            point = block.slice(place, place + 1)
            scenario = row(point.columns, 0)
            try:
                times = [runner.run(scenario).zap_ns for _ in range(PROCESSES)]
            except (RefusedError, TimedOutError, LostError):
                continue
            results, policies = run_batch(point.columns), (runner.policy,)
            if results.values[0, 0, CALLS] and min(times):
                rows = arrow_tables.outcome_table("", point.ids, point.repeat, point.columns, results, policies)
                (predicted_ns,) = database.cost_ns(rows, prices)
                yield Prediction(scenario, predicted_ns, int(np.median(times)))


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
