"""What reclaim can give back of a process's VmPTE, from VIRT, RES and VmPTE alone, and which sizes of calls achieve it.

The bounds hold for any process with these three figures. Between them lie the values of the closed form, for resident
pages placed at random in extents of one size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.model.arch import ARCHES, Arch
from engine.model.closed_form import aligned_reach, empty_share, most_pte_tables, tables_for, unaligned_reach
from engine.model.policy import BUILT_IN
from engine.traces.trace_rules import trace_rule
from sweep.common.errors import UserError
from sweep.common.units import format_size, human_size
from sweep.process.table_census import TableCensus
from sweep.traces.trace_replay import TraceReplay

ENGINE, PROCESS, TRACE, REFERENCE, GIVEN = "engine: closed form", "process", "trace", "reference", "given"
"""Where a number comes from."""
CLUSTERS = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20)
MAX_MAPPINGS = 65_530
"""Default of vm.max_map_count."""
SEPARATE_REGIONS = 64
"""Assumed number of regions of a process that are far apart: program, heap, libraries, stacks, arenas."""

POLICY_GROUPS = {
    "none": "a call never frees a table",
    "refcount, async": "each empty table goes, whatever the size of the call; never merged",
    "second_walk, seed_inline, merged": "",
    "munmap": "the address range is lost to the program",
}
"""Policies that free the same tables, and why, unless the reason is the arithmetic of whole slots."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of advice: the range [least, most] of a figure, its unit, and where it comes from."""

    topic: str
    what: str
    least: float | None
    most: float | None
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """VIRT, RES and VmPTE of a process, in bytes."""

    virt: int
    res: int
    vmpte: int
    arch: Arch = ARCHES[0]

    def __post_init__(self) -> None:
        """Raise UserError for figures that no process can have together."""
        if not self.virt:
            raise UserError("--virt 0B: a process has some address space")
        if self.res > self.virt:
            raise UserError(f"--res {format_size(self.res)} is more than --virt {format_size(self.virt)}")
        table_bytes = self.arch.page_bytes
        if self.vmpte < table_bytes:
            raise UserError(f"--vmpte {format_size(self.vmpte)} is less than one table of {format_size(table_bytes)}")
        # Each mapping may need one more table at each level than its size requires.
        max_tables = tables_for(-(-self.virt // self.arch.span_bytes), self.arch)[1] + 3 * MAX_MAPPINGS
        if self.vmpte > max_tables * table_bytes:
            raise UserError(
                f"--vmpte {format_size(self.vmpte)} is more than the tables of {format_size(self.virt)} can be, "
                f"about {human_size(self.virt / self.arch.entries)}"
            )

    @property
    def tables(self) -> int:
        """Page tables of all levels."""
        return self.vmpte // self.arch.page_bytes

    @property
    def pte_tables(self) -> tuple[int, int]:
        """Least and most PTE tables.

        Least: all upper tables exist that VIRT can have in SEPARATE_REGIONS. Most: only the upper tables that so many
        PTE tables need.
        """
        slots = -(-self.virt // self.arch.span_bytes)
        upper_tables = tables_for(slots, self.arch)[1] - slots + 2 * SEPARATE_REGIONS
        most = most_pte_tables(self.tables, self.arch)
        return min(max(-(-self.tables // 3), self.tables - upper_tables), most), most

    @property
    def needed(self) -> tuple[int, int]:
        """Least and most PTE tables with an entry: resident pages as dense as possible, and one page in each table."""
        pages = -(-self.res // self.arch.page_bytes)
        dense = -(-pages // self.arch.entries)
        return min(dense, self.pte_tables[1]), min(pages, self.pte_tables[1])

    @property
    def empty(self) -> tuple[int, int]:
        """Least and most PTE tables without an entry, over all placements of the resident pages."""
        (least, most), (dense, spread) = self.pte_tables, self.needed
        return max(0, least - spread), max(0, most - dense)


def footprint_facts(footprint: Footprint, source: str) -> Iterator[Fact]:
    """Bounds that hold for every placement of the resident pages."""
    page = footprint.arch.page_bytes
    yield Fact("now", "VmPTE", footprint.vmpte, footprint.vmpte, "bytes", source)
    yield Fact("now", "PTE tables", *footprint.pte_tables, "tables", "engine: arithmetic on VIRT and VmPTE")
    yield Fact("bounds", "PTE tables with an entry", *footprint.needed, "tables", "engine: arithmetic on RES")
    least, most = footprint.empty
    yield Fact("bounds", "reclaim can give back", least * page, most * page, "bytes", "engine: arithmetic on RES")


def random_placement_facts(footprint: Footprint) -> Iterator[Fact]:
    """What reclaim gives back if the resident pages are placed at random, for several sizes of extents."""
    page, span = footprint.arch.page_bytes, footprint.arch.span_bytes
    tables = footprint.pte_tables[1]
    sparsity = max(0.0, 1 - footprint.res / (tables * span)) if tables else 0.0
    for cluster in CLUSTERS:
        empty_bytes = empty_share(sparsity, cluster, span) * tables * page
        what = f"if resident pages lie at random in extents of {format_size(cluster)}"
        yield Fact("bounds", what, empty_bytes, empty_bytes, "bytes", ENGINE)


def census_facts(census: TableCensus) -> Iterator[Fact]:
    """What the page map of a live process shows."""
    table_bytes = census.table_kib * 1024
    least, most = census.empty
    yield Fact("bounds", "PTE tables with an entry", census.needed, census.needed, "tables", f"{PROCESS}: page map")
    what = "reclaim can give back (its empty tables)"
    yield Fact("bounds", what, least * table_bytes, most * table_bytes, "bytes", f"{PROCESS}: VmPTE and page map")


def call_facts(zaps: tuple[int, ...], arch: Arch = ARCHES[0]) -> Iterator[Fact]:
    """For each policy and size of a call: the share of empty tables that it frees, from unaligned to aligned calls.

    zaps: sizes in bytes. Raises UserError for a size that is not whole pages.
    """
    span = arch.span_bytes
    for zap in zaps:
        if not zap or zap % arch.page_bytes:
            raise UserError(f"--zap {format_size(zap)}: a call is whole pages of {format_size(arch.page_bytes)}")
    for policies, why in POLICY_GROUPS.items():
        if "merged" in policies:
            for zap in zaps:
                low, high = unaligned_reach(zap, span), aligned_reach(zap, span)
                what = f"{policies}: calls of {format_size(zap)}, unaligned to aligned"
                yield Fact("calls", what, low, high, "share of empty tables", ENGINE)
        else:
            share = 0.0 if policies == "none" else 1.0
            what = f"{policies}: calls of any size"
            yield Fact("calls", what, share, share, "share of empty tables", f"{REFERENCE}: {why}")
    yield Fact("calls", "whole-slot rules: smallest aligned call that frees a table", span, span, "bytes", REFERENCE)
    always = 2 * span - arch.page_bytes
    yield Fact("calls", "whole-slot rules: smallest call that does at any address", always, always, "bytes", ENGINE)


def trace_facts(replay: TraceReplay) -> Iterator[Fact]:
    """Yield for each policy the share of the bytes given back that lies in slots whose tables it may free."""
    total = replay.histogram.zap_totals()
    for policies in POLICY_GROUPS:
        calls, _, reached = replay.histogram.acting_calls(trace_rule(BUILT_IN[policies.partition(",")[0]]))
        share = reached / total.bytes if total.bytes else None
        what = f"{policies}: {calls:,} of {total.calls:,} calls reach"
        yield Fact("trace", what, share, share, "share of their bytes", f"{TRACE}: {replay.name}")
