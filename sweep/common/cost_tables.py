"""Cost tables: nanoseconds for one of each counter, with the source of each figure.

JSON files: those in sweep/common/costs are shipped, `sweep calibrate` writes others into a store. A table has prices
for counters of the outcomes, and for counts that are derived from them (DERIVED).
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.model.arch import ARCHES
from engine.model.results import WORK
from sweep.common import schema
from sweep.common.errors import UserError, one_line, unknown_name
from sweep.common.text_lines import open_regular_file

COSTS_SCHEMA = "sweep-costs/1"
SHIPPED = Path(__file__).parent / "costs"
DEFAULT = "published"
MEASURED = "measured"
"""The name that `sweep calibrate` gives its table by default."""
MAX_BYTES, MAX_CPUS, MAX_NS = 1 << 20, 1 << 16, 1e18


def _by_arch(values: Mapping[str, int]) -> str:
    cases = " ".join(f"WHEN '{arch}' THEN {value}" for arch, value in values.items())
    return f"(CASE arch {cases} END)"


_PAGE = _by_arch({arch.name: arch.page_bytes for arch in ARCHES})
_ENTRIES = _by_arch({arch.name: arch.entries for arch in ARCHES})
_CALL_PAGES = f"(least(zap, virt) / {_PAGE})"
_FREES = "(advice = 'free' AND NOT {unmaps})"
_COVERED = "least(zap_calls * (least(zap, virt) / virt) / rounds, 1)"
"""Share of the VMA that the calls of one round cover."""
_KEPT_ROUNDS = (
    "(CASE WHEN sparsity IN (0, 1) THEN rounds"
    " ELSE (rounds - sparsity * (1 - pow(sparsity, rounds)) / (1 - sparsity)) / (1 - pow(sparsity, rounds)) END)"
)
"""Resident pages summed over all rounds, divided by those of the last round, if no round removes pages: round r leaves
1 - sparsity^r of all pages resident."""
_MARKED = f"(CASE WHEN {_FREES} THEN ptes_installed * {_COVERED} ELSE 0 END)"
_FLUSHES = (
    "(CASE WHEN ipis > 0 THEN ipis / (threads - 1) ELSE"
    f" least(zap_calls + force_breaks, (ptes_zapped + {_MARKED}) / (least(cluster, zap, virt) / {_PAGE}),"
    " table_visits + force_breaks) END)"
)
"""With one thread: calls that clear an entry. They are at most as many as extents, or pieces of extents, are zapped."""

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
"""Counts derived from a row of outcomes, as SQL; `{cpus}` is the number of CPUs, `{unmaps}` the condition of
CostTable.sql. Exact for one thread and calls of whole slots, otherwise the best bound.

ptes_looked_at: entries in the tables that calls visit. tables_absent: slots without a table that calls walk over.
calls_freeing: calls that free a table. flushes: TLB flushes of any size. interrupts: CPUs interrupted; a call that ends
while another thread's is running flushes everything (mm_tlb_flush_nested). ptes_marked, ptes_marked_again: present
entries under MADV_FREE, the first time and later.
"""
PRICED = (*WORK, *DERIVED)


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of one counter, and where it comes from."""

    counter: str
    ns: float
    covers: str
    source: str
    machine: str
    date: str
    guess: bool

    @property
    def is_measured(self) -> bool:
        return not self.guess and self.source.startswith("measured")


@dataclass(frozen=True, slots=True)
class CostTable:
    """Prices of counters. A counter without a price costs nothing: another one covers it.

    cpus: CPUs of the machine that the table describes; None: one for each thread of the scenario.
    """

    name: str
    about: str
    costs: tuple[Cost, ...]
    cpus: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the view `costs`."""
        names = [column.name for column in schema.COSTS if column.name != "name"]
        return [{"name": self.name, **{name: getattr(cost, name) for name in names}} for cost in self.costs]

    def sql(self, unmaps: str = "policy = 'munmap'") -> str:
        """SQL expression for cost_ns over a row of outcomes; NULL if a counter with a price is NULL.

        `unmaps`: SQL condition for the rows of policies whose calls unmap their range
        """
        cpus = "threads" if self.cpus is None else self.cpus
        # least() ignores NULL, but a counter that the live kernel does not show must give NULL: + 0 * table_visits.
        counts = {name: f"({sql.format(cpus=cpus, unmaps=unmaps)} + 0 * table_visits)" for name, sql in DERIVED.items()}
        return " + ".join(f"{counts.get(cost.counter, cost.counter)} * {cost.ns:e}" for cost in self.costs) or "0e0"

    @property
    def sources(self) -> str:
        """Where the prices come from, in words: `3 published, 6 measured, 7 guessed`."""
        kinds = Counter("guessed" if c.guess else "measured" if c.is_measured else "published" for c in self.costs)
        return ", ".join(f"{kinds[kind]} {kind}" for kind in ("published", "measured", "guessed") if kinds[kind])

    def without(self, counters: Collection[str]) -> "CostTable":
        """This table without the prices of these counters."""
        return replace(self, costs=tuple(cost for cost in self.costs if cost.counter not in counters))


def load(path: Path) -> CostTable:
    """Read one file. UserError names the file and what is wrong with it."""
    try:
        with open_regular_file(str(path)) as file:
            tree = json.loads(file.read(MAX_BYTES))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except (ValueError, RecursionError) as error:  # RecursionError: a hundred thousand brackets
        raise UserError(f"{path}: not JSON ({one_line(str(error))})") from error
    return parse(path, tree)


def parse(path: Path, tree: Any) -> CostTable:
    """A cost table from parsed JSON; `path` is for errors, and names the table if it has no name."""
    if not isinstance(tree, dict) or tree.get("schema") != COSTS_SCHEMA:
        raise UserError(f"{path}: not a cost table (schema must be {COSTS_SCHEMA!r})")
    counters = tree.get("counters")
    if not isinstance(counters, dict):
        raise UserError(f"{path}: counters: a mapping from counter to ns, covers, source is required")
    costs = tuple(_cost(path, counter, entry) for counter, entry in counters.items())
    cpus = tree.get("cpus")
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, int) or not 1 <= cpus <= MAX_CPUS):
        raise UserError(f"{path}: cpus: a whole number, 1 or more, is required")
    return CostTable(_text(path, tree, "name") or path.stem, _text(path, tree, "about"), costs, cpus)


def load_all(measured: Sequence[Path] = (), problems: list[str] | None = None) -> dict[str, CostTable]:
    """The shipped tables and the measured ones by name; a measured one replaces a shipped one of the same name.

    `problems`: gets a line for each measured table that cannot be read; if None, that is a UserError.
    """
    tables = [load(path) for path in sorted(SHIPPED.glob("*.json"))]
    for path in measured:
        try:
            tables.append(load(path))
        except UserError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return {table.name: table for table in tables}


def choose(tables: dict[str, CostTable], wanted: str) -> CostTable:
    """The table of this name, else the one in the JSON file of this path. UserError names the nearest name."""
    if wanted in tables:
        return tables[wanted]
    if wanted.endswith(".json"):
        return load(Path(wanted))
    hint = "; sweep calibrate measures this machine and writes `measured`" if MEASURED not in tables else ""
    raise UserError(unknown_name("cost table", wanted, sorted(tables)) + hint)


def _cost(path: Path, counter: str, entry: Any) -> Cost:
    where = f"{path}: counters.{counter}"
    if counter not in PRICED:
        raise UserError(f"{path}: {unknown_name('counter', str(counter), PRICED)}")
    ns = entry.get("ns") if isinstance(entry, dict) else None
    if isinstance(ns, bool) or not isinstance(ns, int | float) or not 0 <= ns <= MAX_NS:
        raise UserError(f"{where}.ns: a number of nanoseconds, 0 or more, is required")
    covers, source, machine, date = (_text(where, entry, key) for key in ("covers", "source", "machine", "date"))
    return Cost(counter, float(ns), covers, source, machine, date, guess=bool(entry.get("guess")))


def _text(where: object, mapping: Mapping[str, Any], key: str) -> str:
    text = mapping.get(key) or ""
    try:
        str(text).encode()
    except ValueError:  # a lone surrogate, which neither Arrow nor a terminal can hold
        text = None
    if not isinstance(text, str):
        raise UserError(f"{where}: {key}: a text is required")
    return text
