"""Cost tables: what one of each counter costs in ns, and who says so. JSON files, shipped or measured here."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.outcome import WORK
from sweep import schema
from sweep.errors import UserError, unknown

COSTS_SCHEMA = "sweep-costs/1"
SHIPPED = Path(__file__).parent / "costs"
DEFAULT = "published"


@dataclass(frozen=True, slots=True)
class Cost:
    """One counter's price, and what it stands for."""

    counter: str
    ns: float
    covers: str
    source: str
    machine: str
    date: str
    guess: bool


@dataclass(frozen=True, slots=True)
class CostTable:
    """Prices of counters; a counter without one costs nothing, being covered by another."""

    name: str
    about: str
    costs: tuple[Cost, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table `costs`."""
        names = [column.name for column in schema.COSTS if column.name != "name"]
        return [{"name": self.name, **{name: getattr(cost, name) for name in names}} for cost in self.costs]

    @property
    def sql(self) -> str:
        """cost_ns as an expression over a row of outcomes; NULL where a priced counter is."""
        return " + ".join(f"{cost.counter} * {cost.ns:e}" for cost in self.costs) or "0e0"


def load(path: Path) -> CostTable:
    """One file. UserError says what is wrong with it."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict) or tree.get("schema") != COSTS_SCHEMA:
        raise UserError(f"{path}: not a cost table (schema must be {COSTS_SCHEMA!r})")
    counters = tree.get("counters")
    if not isinstance(counters, dict):
        raise UserError(f"{path}: counters: a mapping from counter to ns, covers, source is required")
    costs = tuple(_cost(path, counter, entry) for counter, entry in counters.items())
    return CostTable(str(tree.get("name") or path.stem), str(tree.get("about", "")), costs)


def load_all(measured: Sequence[Path] = ()) -> dict[str, CostTable]:
    """The shipped tables and these, by name; a measured one wins over a shipped one of its name."""
    tables = [load(path) for path in (*sorted(SHIPPED.glob("*.json")), *measured)]
    return {table.name: table for table in tables}


def choose(tables: dict[str, CostTable], wanted: str) -> CostTable:
    """By name, or by the path of a JSON file."""
    if wanted in tables:
        return tables[wanted]
    if wanted.endswith(".json"):
        return load(Path(wanted))
    raise UserError(unknown("cost table", wanted, sorted(tables)))


def _cost(path: Path, counter: str, entry: Any) -> Cost:
    where = f"{path}: counters.{counter}"
    if counter not in WORK:
        raise UserError(f"{path}: {unknown('counter', str(counter), WORK)}")
    ns = entry.get("ns") if isinstance(entry, dict) else None
    if isinstance(ns, bool) or not isinstance(ns, int | float) or not math.isfinite(ns) or ns < 0:
        raise UserError(f"{where}.ns: a number of nanoseconds, 0 or more, is required")
    covers, source, machine, date = (str(entry.get(word, "")) for word in ("covers", "source", "machine", "date"))
    return Cost(counter, float(ns), covers, source, machine, date, guess=bool(entry.get("guess")))
