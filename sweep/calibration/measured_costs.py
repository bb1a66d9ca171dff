"""The cost table of measured prices, as JSON."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.kernel.runner import Runner
from sweep.calibration.measured_prices import Figures, Price
from sweep.common import atomic_write, cost_tables
from sweep.common.cost_tables import COSTS_SCHEMA, SHIPPED, Cost


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
