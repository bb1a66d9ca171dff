"""The advice for a person: what comes back, on which kernel, on what it depends, and what to measure next.

Every figure is also among the facts of sweep.process.advice, with its source.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.model.arch import ARCHES, Arch
from engine.model.closed_form import aligned_reach, empty_share, unaligned_reach
from engine.model.policy import BUILT_IN
from engine.traces.trace_rules import trace_rule
from sweep.common.units import format_size, human_size
from sweep.process.advice import Footprint
from sweep.process.huge_page_refill import AddedRes
from sweep.process.kernels import running_kernel
from sweep.process.reclaim_estimate import estimate_reclaim
from sweep.process.table_census import TableCensus
from sweep.traces.trace_replay import TraceReplay

EXTENTS = (4 << 10, 64 << 10, 2 << 20)


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """Memory of `size` bytes that each of `processes` maps."""

    processes: int
    size: int

    @property
    def table_bytes(self) -> int:
        """The PTE tables of all processes, once each has touched all of the memory."""
        arch = ARCHES[0]
        return self.processes * -(-self.size // arch.span_bytes) * arch.page_bytes


def verdict(
    footprint: Footprint | None,
    census: TableCensus | None,
    replay: TraceReplay | None,
    shared: SharedMemory | None,
    zaps: tuple[int, ...],
    process: str = "PID",
    added_res: AddedRes | None = None,
) -> Iterator[str]:
    """Yield sentences and short lines, each a paragraph of its own. The last ones say what to measure next.

    added_res: the RES that reclaim may cost. A sentence on it then replaces the one on sizes of calls.
    """
    arch = footprint.arch if footprint else ARCHES[0]
    can_come_back, least, most = True, 0, 0
    if footprint is not None:
        least, most, of_what = _empty_bytes(footprint, census)
        can_come_back = most > 0
        yield f"Of {of_what} of page tables at least {human_size(least)} and at most {human_size(most)} can come back."
        if can_come_back:
            yield from _kernel_lines(human_size(least), human_size(most))
        else:
            yield "All are in use: no kernel frees a table that maps a page. Denser memory or huge pages need fewer."
    if footprint is not None and can_come_back:
        yield _dependence(footprint, census, zaps)
    if replay is not None:
        yield _recorded(replay)
    if can_come_back and (footprint or replay):
        yield _calls(zaps, arch) if added_res is None else _res_cost(added_res, human_size(most), arch)
    if shared is not None:
        yield from _shared_lines(shared)
    if can_come_back:
        yield from _next_steps(footprint, census, replay, process)


def _empty_bytes(footprint: Footprint, census: TableCensus | None) -> tuple[int, int, str]:
    """Least and most bytes of empty tables, and the size of all tables as text."""
    if census is not None:
        table_bytes = census.table_kib << 10
        return census.empty[0] * table_bytes, census.empty[1] * table_bytes, human_size(census.sizes.vm_pte_kib << 10)
    page = footprint.arch.page_bytes
    return footprint.empty[0] * page, footprint.empty[1] * page, human_size(footprint.vmpte)


def _kernel_lines(least: str, most: str) -> Iterator[str]:
    bounds = least if least == most else f"{least} to {most}"
    yield f"  Linux 7.0 and later   {bounds}, on x86-64 and arm64"
    yield f"  Linux 6.14 to 6.19    {bounds}, on x86-64 with CONFIG_PT_RECLAIM=y"
    yield "  Linux before 6.14     nothing, but by munmap or when the process exits"
    yield f"  this machine          {running_kernel()}"


def _dependence(footprint: Footprint, census: TableCensus | None, zaps: tuple[int, ...]) -> str:
    """How much comes back: by the size of the calls if the empty tables were counted, else by where the pages lie."""
    if census is not None:
        most = {row.zap: row.most * census.table_kib << 10 for row in estimate_reclaim(census, zaps, ("merged",))}
        by_size = ", ".join(f"{human_size(freed)} with {format_size(zap)}" for zap, freed in most.items())
        return f"It depends on the size of aligned madvise calls over them: {by_size}."
    span, tables = footprint.arch.span_bytes, footprint.pte_tables[1]
    sparsity = max(0.0, 1 - footprint.res / (tables * span)) if tables else 0.0
    by_extent = ", ".join(
        f"{human_size(empty_share(sparsity, size, span) * tables * footprint.arch.page_bytes)} in {format_size(size)}"
        for size in EXTENTS
    )
    resident = human_size(footprint.res)
    return f"It depends on where the {resident} resident lie. At random in extents of one size: {by_extent}."


def _calls(zaps: tuple[int, ...], arch: Arch) -> str:
    """The line on calls of the sizes `zaps`, in bytes: what share of the tables that they meet each of them frees."""
    span = arch.span_bytes
    shares = "; ".join(f"of {format_size(zap)} {_reach(zap, span)}" for zap in zaps)
    return (
        f"A madvise call frees the tables whose whole {format_size(span)} it covers, also of memory given back before. "
        f"Calls {shares} (from unaligned to aligned)."
    )


def _res_cost(added: AddedRes, table_size: str, arch: Arch) -> str:
    """What the next write in a slot brings whose table is gone."""
    span, page = format_size(arch.span_bytes), format_size(arch.page_bytes)
    frees = f"A madvise call over a whole {span} frees its table."
    if not added.most:
        return f"{frees} No huge pages are allowed there: the next write brings {page} either way, no more RES."
    where = "In memory under MADV_HUGEPAGE" if added.setting == "madvise" else "Where huge pages are allowed"
    return (
        f"{frees} {where} the next write then brings {span}, not {page}: reclaim may save up to {table_size} of VmPTE "
        f"and cost up to {human_size(added.most)} of RES."
    )


def _reach(zap: int, span: int) -> str:
    low, high = unaligned_reach(zap, span), aligned_reach(zap, span)
    return f"{low:.0%} to {high:.0%}" if high else "none"


def _recorded(replay: TraceReplay) -> str:
    total, (calls, _, reached) = (
        replay.histogram.zap_totals(),
        replay.histogram.acting_calls(trace_rule(BUILT_IN["merged"])),
    )
    share = f"{reached / total.bytes:.0%}" if total.bytes else "none"
    return (
        f"{replay.name} gives back {human_size(total.bytes)} in {total.calls:,} calls. Linux can free the tables of "
        f"{share} of it, the whole slots in {calls:,} of these calls."
    )


def _shared_lines(shared: SharedMemory) -> Iterator[str]:
    """Page tables of memory that many processes map: each has its own, and they are in use."""
    arch = ARCHES[0]
    gib = -(-shared.size // (arch.span_bytes * arch.entries))
    pmd_bytes = shared.processes * gib * arch.page_bytes
    yield (
        f"{shared.processes:,} processes mapping the same {human_size(shared.size)} have own page tables for it, "
        f"{human_size(shared.table_bytes)} in all once each has touched it. They hold entries: no reclaim frees them."
    )
    yield (
        f"Huge pages of 2 MiB need {human_size(pmd_bytes)} instead: hugetlb (MAP_HUGETLB, SHM_HUGETLB; for PostgreSQL "
        "huge_pages=on), or tmpfs and shmem with huge=always (/sys/kernel/mm/transparent_hugepage/shmem_enabled)."
    )


def _next_steps(
    footprint: Footprint | None, census: TableCensus | None, replay: TraceReplay | None, process: str
) -> Iterator[str]:
    """The one thing to measure next, and its command on lines of their own."""
    if replay is not None:
        yield "Next: the settings of an allocator that make its calls larger:"
        yield "  sweep advise --allocator NAME"
    elif census is not None:
        yield "Measure next which calls the program makes:"
        yield f"  sweep record -o calls.rec.gz --pid {process} --seconds 60"
        yield "  sweep replay calls.rec.gz"
    elif footprint is not None:
        yield "Measure next how many tables are empty; this only reads the process:"
        yield "  sweep inspect PID"
