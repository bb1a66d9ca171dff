"""Cost tables: what one of each counter costs in ns, and who says so. JSON files, shipped or measured here.

A table prices counters of the outcomes, and counts that follow from them (DERIVED).
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.model.arch import ARCHES
from engine.model.results import WORK
from sweep.common import schema
from sweep.common.errors import UserError, unknown_name

COSTS_SCHEMA = "sweep-costs/1"
SHIPPED = Path(__file__).parent / "costs"
DEFAULT = "published"


def _by_arch(values: Mapping[str, int]) -> str:
    cases = " ".join(f"WHEN '{arch}' THEN {value}" for arch, value in values.items())
    return f"(CASE arch {cases} END)"


_PAGE = _by_arch({arch.name: arch.page_bytes for arch in ARCHES})
_ENTRIES = _by_arch({arch.name: arch.entries for arch in ARCHES})
_CALL_PAGES = f"(least(zap, virt) / {_PAGE})"
_FREES = "(advice = 'free' AND policy <> 'munmap')"
_COVERED = "least(zap_calls * (least(zap, virt) / virt) / rounds, 1)"
"""Share of the VMA that a round's calls cover."""
_KEPT_ROUNDS = (
    "(CASE WHEN sparsity IN (0, 1) THEN rounds"
    " ELSE (rounds - sparsity * (1 - pow(sparsity, rounds)) / (1 - sparsity)) / (1 - pow(sparsity, rounds)) END)"
)
"""Pages at all peaks over those at the last, where every round adds pages and none goes: the sum of 1 - sparsity^r."""
_MARKED = f"(CASE WHEN {_FREES} THEN ptes_installed * {_COVERED} ELSE 0 END)"
_FLUSHES = (
    "(CASE WHEN ipis > 0 THEN ipis / (threads - 1) ELSE"
    f" least(zap_calls + force_breaks, (ptes_zapped + {_MARKED}) / (least(cluster, zap, virt) / {_PAGE}),"
    " table_visits + force_breaks) END)"
)
"""With one thread: calls that clear an entry, of which there are no more than extents, or parts of extents."""

DERIVED = {
    "ptes_looked_at": f"least(table_visits * least({_CALL_PAGES}, {_ENTRIES}), zap_calls * {_CALL_PAGES})",
    "tables_absent": f"greatest(zap_calls * {_CALL_PAGES} / {_ENTRIES} - table_visits, 0)",
    "calls_freeing": "least(zap_calls, pte_tables_freed)",
    "flushes": _FLUSHES,
    "interrupts": f"greatest({_FLUSHES}, zap_calls) * (least(threads, {{cpus}}) - 1)",
    "ptes_marked": _MARKED,
    "ptes_marked_again": (
        f"(CASE WHEN {_FREES} THEN greatest(res_bytes_peak / {_PAGE} * {_KEPT_ROUNDS} - ptes_installed, 0)"
        f" * {_COVERED} ELSE 0 END)"
    ),
}
"""Counts that follow from a row of outcomes, in SQL. Exact where calls are whole and threads one, else the best bound.

ptes_looked_at: entries in the tables that calls meet. tables_absent: slots that calls walk over without a table.
calls_freeing: calls that free a table. flushes: TLB flushes of any size. interrupts: CPUs interrupted, as each call
that ends while another thread's is under way flushes all (mm_tlb_flush_nested), on a machine with so many CPUs.
ptes_marked, ptes_marked_again: present entries under MADV_FREE, for the first time and later.
"""
PRICED = (*WORK, *DERIVED)


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
    """Prices of counters; a counter without one costs nothing, being covered by another.

    cpus: of the machine it stands for; None: as many as there are threads
    """

    name: str
    about: str
    costs: tuple[Cost, ...]
    cpus: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table `costs`."""
        names = [column.name for column in schema.COSTS if column.name != "name"]
        return [{"name": self.name, **{name: getattr(cost, name) for name in names}} for cost in self.costs]

    @property
    def sql(self) -> str:
        """cost_ns as an expression over a row of outcomes; NULL where a priced counter is."""
        cpus = "threads" if self.cpus is None else self.cpus
        # least() passes over NULL, and what the live kernel does not show is to have no cost
        counts = {name: f"({sql.format(cpus=cpus)} + 0 * table_visits)" for name, sql in DERIVED.items()}
        return " + ".join(f"{counts.get(cost.counter, cost.counter)} * {cost.ns:e}" for cost in self.costs) or "0e0"

    def without(self, counters: Collection[str]) -> "CostTable":
        """The same, these at no cost."""
        return replace(self, costs=tuple(cost for cost in self.costs if cost.counter not in counters))


def load(path: Path) -> CostTable:
    """One file. UserError says what is wrong with it."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]})") from error
    return parse(path, tree)


def parse(path: Path, tree: Any) -> CostTable:
    """The same from parsed JSON."""
    if not isinstance(tree, dict) or tree.get("schema") != COSTS_SCHEMA:
        raise UserError(f"{path}: not a cost table (schema must be {COSTS_SCHEMA!r})")
    counters = tree.get("counters")
    if not isinstance(counters, dict):
        raise UserError(f"{path}: counters: a mapping from counter to ns, covers, source is required")
    costs = tuple(_cost(path, counter, entry) for counter, entry in counters.items())
    cpus = tree.get("cpus")
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, int) or cpus < 1):
        raise UserError(f"{path}: cpus: a whole number, 1 or more, is required")
    return CostTable(str(tree.get("name") or path.stem), str(tree.get("about", "")), costs, cpus)


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
    raise UserError(unknown_name("cost table", wanted, sorted(tables)))


def _cost(path: Path, counter: str, entry: Any) -> Cost:
    where = f"{path}: counters.{counter}"
    if counter not in PRICED:
        raise UserError(f"{path}: {unknown_name('counter', str(counter), PRICED)}")
    ns = entry.get("ns") if isinstance(entry, dict) else None
    if isinstance(ns, bool) or not isinstance(ns, int | float) or not math.isfinite(ns) or ns < 0:
        raise UserError(f"{where}.ns: a number of nanoseconds, 0 or more, is required")
    covers, source, machine, date = (str(entry.get(word, "")) for word in ("covers", "source", "machine", "date"))
    return Cost(counter, float(ns), covers, source, machine, date, guess=bool(entry.get("guess")))
