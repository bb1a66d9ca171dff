"""Prices of counters, computed from steps measured on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.kernel.microbench import FULL_TABLES, PAGES_PER_CALL, Figure

Figures = Mapping[str, Figure]
At = Callable[[str], float]
"""ns of the figure with this name, in one repeat."""
Rule = Callable[[At], float]
"""A price in ns, computed from the figures of one repeat."""
THREADED_STEPS = ("absent table", "zap one page")
"""Steps that are measured with one thread and with several."""
ONE, FEW, MANY, HALF, MOST = (f"zap {pages} pages, hot" for pages in PAGES_PER_CALL)
ZAP_A_PAGE = [f"zap a page, {2 * tables} MiB resident" for tables in FULL_TABLES]
INSTALL_A_PAGE = [f"install a page, {2 * tables} MiB resident" for tables in FULL_TABLES]
PAGE_BYTES, ENTRIES = 4096, 512
"""Of the machines whose steps can be priced."""
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
