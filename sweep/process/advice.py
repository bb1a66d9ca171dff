"""What reclaim can give back of VIRT, RES and VmPTE, at best and at worst, and which purges get there.

Bounds hold for any process with these three figures; what lies between is the closed form, for resident pages that
lie at random in extents of one size.
"""

import gzip
import platform
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.model.arch import ARCHES, Arch
from engine.model.closed_form import aligned_reach, empty_share, most_pte_tables, tables_for, unaligned_reach
from sweep.common.errors import UserError
from sweep.common.units import format_size, human_size
from sweep.process.table_census import Census
from sweep.traces.trace_replay import TraceReplay

ENGINE, PROCESS, TRACE, REFERENCE = "engine: closed form", "process", "trace", "reference"
GIVEN = "given"
CLUSTERS = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20)
MOST_MAPPINGS = 65_530  # vm.max_map_count as shipped
PLACES = 64
"""How many regions far apart a process is taken to have: program, heap, libraries, stacks, arenas."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of advice: `least` and `most` in `unit`, and where the numbers come from."""

    topic: str
    what: str
    least: float | None
    most: float | None
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """A process as top shows it, and its VmPTE. Bytes."""

    virt: int
    res: int
    vmpte: int
    arch: Arch = ARCHES[0]

    def __post_init__(self) -> None:
        """Raises UserError for figures that no process has together."""
        if not self.virt:
            raise UserError("--virt 0B: a process has some address space")
        if self.res > self.virt:
            raise UserError(f"--res {format_size(self.res)} is more than --virt {format_size(self.virt)}")
        least_table = self.arch.page_bytes
        if self.vmpte < least_table:
            raise UserError(f"--vmpte {format_size(self.vmpte)} is less than one table of {format_size(least_table)}")
        # A mapping may need a table more at each level than its size says.
        most = tables_for(-(-self.virt // self.arch.span_bytes), self.arch)[1] + 3 * MOST_MAPPINGS
        if self.vmpte > most * self.arch.page_bytes:
            raise UserError(
                f"--vmpte {format_size(self.vmpte)} is more than the tables of {format_size(self.virt)} can be, "
                f"about {human_size(self.virt / self.arch.entries)}"
            )

    @property
    def tables(self) -> int:
        return self.vmpte // self.arch.page_bytes

    @property
    def pte_tables(self) -> tuple[int, int]:
        """At least: all upper tables exist that VIRT can have in PLACES. At most: as few as these PTE tables need."""
        spans = -(-self.virt // self.arch.span_bytes)
        uppers = tables_for(spans, self.arch)[1] - spans + 2 * PLACES
        return max(-(-self.tables // 3), self.tables - uppers), most_pte_tables(self.tables, self.arch)

    @property
    def needed(self) -> tuple[int, int]:
        """PTE tables with an entry: resident pages as dense as can be, and a page in each table."""
        pages = -(-self.res // self.arch.page_bytes)
        dense = -(-pages // self.arch.entries)
        return min(dense, self.pte_tables[1]), min(pages, self.pte_tables[1])

    @property
    def empty(self) -> tuple[int, int]:
        """PTE tables without an entry, whatever lies where."""
        (least, most), (dense, spread) = self.pte_tables, self.needed
        return max(0, least - spread), max(0, most - dense)


def bounds(footprint: Footprint, source: str) -> Iterator[Fact]:
    """Best and worst over all ways in which the resident pages may lie."""
    page = footprint.arch.page_bytes
    yield Fact("now", "VmPTE", footprint.vmpte, footprint.vmpte, "bytes", source)
    yield Fact("now", "PTE tables", *footprint.pte_tables, "tables", "engine: arithmetic on VIRT and VmPTE")
    yield Fact("bounds", "PTE tables with an entry", *footprint.needed, "tables", "engine: arithmetic on RES")
    least, most = footprint.empty
    yield Fact("bounds", "reclaim can give back", least * page, most * page, "bytes", "engine: arithmetic on RES")


def between(footprint: Footprint) -> Iterator[Fact]:
    """What lies between the bounds, where nobody has looked."""
    page, span = footprint.arch.page_bytes, footprint.arch.span_bytes
    tables = footprint.pte_tables[1]
    sparsity = max(0.0, 1 - footprint.res / (tables * span)) if tables else 0.0
    for cluster in CLUSTERS:
        share = empty_share(sparsity, cluster, span)
        given = share * tables * page
        what = f"if resident pages lie at random in extents of {format_size(cluster)}"
        yield Fact("bounds", what, given, given, "bytes", ENGINE)


def counted(census: Census) -> Iterator[Fact]:
    """What a process's page map says, where the bounds only say what may be."""
    kib = census.table_kib
    least, most = census.empty
    yield Fact("bounds", "PTE tables with an entry", census.needed, census.needed, "tables", f"{PROCESS}: page map")
    what = "reclaim can give back (its empty tables)"
    yield Fact("bounds", what, least * kib * 1024, most * kib * 1024, "bytes", f"{PROCESS}: VmPTE and page map")


def purges(zaps: tuple[int, ...], arch: Arch = ARCHES[0]) -> Iterator[Fact]:
    """Which share of the empty slots a policy frees, by size of call: edges anywhere, and edges on slots.

    Raises UserError for a size that no call has.
    """
    span = arch.span_bytes
    for zap in zaps:
        if not zap or zap % arch.page_bytes:
            raise UserError(f"--zap {format_size(zap)}: a purge is whole pages of {format_size(arch.page_bytes)}")
    for policies, why in ALIKE.items():
        if "merged" in policies:
            for zap in zaps:
                low, high = unaligned_reach(zap, span), aligned_reach(zap, span)
                what = f"{policies}: purges of {format_size(zap)}, unaligned to aligned"
                yield Fact("purge", what, low, high, "share of empty tables", ENGINE)
        else:
            share = 0.0 if policies == "none" else 1.0
            what = f"{policies}: purges of any size"
            yield Fact("purge", what, share, share, "share of empty tables", f"{REFERENCE}: {why}")
    yield Fact("purge", "whole-slot rules: smallest aligned purge that frees a table", span, span, "bytes", REFERENCE)
    anywhere = 2 * span - arch.page_bytes
    yield Fact("purge", "whole-slot rules: smallest that does wherever it starts", anywhere, anywhere, "bytes", ENGINE)


def asked(play: TraceReplay) -> Iterator[Fact]:
    """The share of a trace's purges, by bytes, that each policy reaches: those whose table it may free."""
    total = play.histogram.purge_totals()
    for policies in ALIKE:
        calls, _, reached = play.histogram.acting_calls(policies.partition(",")[0])
        share = reached / total.bytes if total.bytes else None
        what = f"{policies}: {calls:,} of {total.calls:,} purges reach"
        yield Fact("asked", what, share, share, "share of purged bytes", f"{TRACE}: {play.name}")


def answer(
    footprint: Footprint | None, census: Census | None, play: TraceReplay | None, zaps: tuple[int, ...]
) -> Iterator[str]:
    """What the facts come to, in sentences; no number that is not among them."""
    if census is not None:
        kib, (least, most) = census.table_kib << 10, census.empty
        tables = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        yield (
            f"Of its PTE tables {census.needed:,} are in use and {tables} hold nothing: {human_size(most * kib)} of "
            f"{human_size(census.sizes.vm_pte_kib << 10)} of page tables can come back."
        )
    elif footprint is not None:
        worst, best = (human_size(tables * footprint.arch.page_bytes) for tables in footprint.empty)
        yield (
            f"Of {human_size(footprint.vmpte)} of page tables "
            f"reclaim can give back {best} at best and {worst} at worst: it "
            f"hangs on how the {human_size(footprint.res)} lie. "
            "`sweep advise --pid PID` looks, in seconds; it only reads."
        )
    span = footprint.arch.span_bytes if footprint else ARCHES[0].span_bytes
    shares = [(zap, unaligned_reach(zap, span), aligned_reach(zap, span)) for zap in zaps]
    told = [
        f"{f'{low:.0%} to {high:.0%}' if high else 'none'} by purges of {format_size(z)}" for z, low, high in shares
    ]
    yield (
        f"merged, the rule of Linux 6.14 on, frees of the empty tables {', '.join(told)} (unaligned to aligned). "
        "Older kernels free none but by munmap."
    )
    if play is not None:
        total, (calls, _, reached) = play.histogram.purge_totals(), play.histogram.acting_calls("merged")
        share = f"{reached / total.bytes:.0%}" if total.bytes else "none"
        yield (
            f"{play.name} gives back {human_size(total.bytes)} in {total.calls:,} purges. Merged can act on {share} "
            f"of it, the whole slots in {calls:,} of these calls."
        )
    yield (
        "Such a purge frees the table of each slot that it covers within one VMA, also if the slot was emptied before: "
        "what is empty now goes with one, with munmap, or with the process."
    )
    yield f"Here runs {this_kernel()}."


def this_kernel() -> str:
    """Release of the running kernel, and what its configuration, where it can be read, says of PT_RECLAIM."""
    release = platform.release()
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{release}")):
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
        except (OSError, EOFError, zlib.error):
            continue
        has = b"\nCONFIG_PT_RECLAIM=y\n" in text
        return f"Linux {release}, CONFIG_PT_RECLAIM={'y: merged' if has else 'n: none'}"
    return f"Linux {release}; its configuration cannot be read"


ALIKE = {
    "none": "a zap never frees a table",
    "refcount, async": "each empty table goes, whatever the size of the call; never merged",
    "second_walk, seed_inline, merged": "",
    "munmap": "the address range is lost to the program",
}
"""Policies that free the same tables, and why where that is not arithmetic."""


RELEASES = (
    ("none", "every Linux before 6.14; later with CONFIG_PT_RECLAIM=n, and off x86-64 up to 6.19"),
    ("merged", "Linux 6.14 on with CONFIG_PT_RECLAIM=y: x86-64; with the series of January 2026 most 64-bit machines"),
    ("munmap", "every Linux"),
    ("refcount", "no Linux: series of 2021"),
    ("async", "no Linux: RFC of June 2024"),
    ("second_walk", "no Linux: RFC v2 of August 2024"),
    ("seed_inline", "no Linux: mail of August 2024, the seed of what was merged"),
)
