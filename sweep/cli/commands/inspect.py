"""sweep inspect: count the page tables of a live process and the empty ones among them. Read-only."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import ZAPS, CallSizes, JsonFormat, OutputFormat, parse_call_sizes
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.process.huge_page_refill import HugePageVmas
    from sweep.process.table_census import TableCensus

TableName = Literal["summary", "policy", "vma", "thp", "slot", "runs"]
TableRows = Iterator[Sequence[Any]]

COLUMNS: dict[str, tuple[str, ...]] = {
    "summary": ("what", "at_least", "at_most", "unit"),
    "policy": ("policy", "zap", "tables_least", "tables_most", "kib_least", "kib_most"),
    "vma": (
        *("start", "end", "rights", "name", "bytes", "present", "zero", "swapped", "guard"),
        *("slots", "slots_with_entry", "whole_without_entry"),
    ),
    "thp": ("start", "end", "name", "slots", "slots_none", "slots_table", "slots_huge", "thp_allowed"),
    "runs": ("pages_from", "pages_to", "runs", "bytes", "bytes_share"),
    "slot": ("slot", "entries", "none"),
}
SEVERAL_COLUMNS = (
    *("pid", "command", "virt_kib", "res_kib", "vm_pte_kib"),
    *("tables_with_entry", "empty_kib_least", "empty_kib_most"),
)
MOST_ROWS = {"vma": 12, "thp": 12, "slot": 1_000}
"""Most rows of these tables; other formats print all rows."""


def inspect(
    pids: Annotated[
        list[int] | None,
        typer.Argument(metavar="PID", min=1, help="Your own processes, or any processes as root.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All processes that may be read, worst first.")] = False,
    cgroup: Annotated[
        str | None,
        typer.Option("--cgroup", metavar="NAME", help="The processes of a cgroup, such as system.slice/a.service."),
    ] = None,
    zap: CallSizes = ZAPS,
    by: Annotated[
        TableName | None,
        typer.Option("--by", help="Print only this table; default: all but slot, in csv only the summary."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", metavar="FILE", help="Write a grid that resembles the process.")
    ] = None,
    format: OutputFormat = "table",  # noqa: A002
    as_json: JsonFormat = False,
) -> int:
    """Count the page tables of a live process, the empty ones, and what each policy would give back. Read-only.

    The kernel shows VmPTE and which entries are set, but not upper tables: empty tables are given as at least and at
    most. The calls of --zap are aligned and cover only memory that is not resident. Several processes get a line each,
    those with the most empty tables first.

    Example: sweep inspect 1234 --zap 2MiB
    """
    from sweep.process import huge_page_refill, table_census

    form, zaps = "json" if as_json else format, parse_call_sizes(zap)
    if every or cgroup is not None or len(pids or ()) > 1:
        if by is not None or grid is not None:
            raise UserError("--by and --grid are for one process; give its PID alone")
        return _print_several(pids or [], every, cgroup, form)
    if not pids:
        raise UserError("inspect: which process? give a PID or several, --all, or --cgroup NAME")
    census = table_census.take_census(pids[0])
    huge_page_vmas = huge_page_refill.read_huge_page_vmas(pids[0])
    tables = _tables(census, huge_page_vmas, zaps)
    if by is not None:
        wanted: tuple[str, ...] = (by,)
    elif form == "csv":
        wanted = ("summary",)
    else:
        wanted = tuple(name for name in COLUMNS if name != "slot")
    _print_tables({name: tables[name] for name in wanted}, form, as_object=by is None)
    for line in _notes(census, huge_page_vmas):
        messages.print_note(f"sweep inspect: {line}")
    if grid is not None:
        _write_grid(census, grid, zaps)
    return 0


def _print_several(pids: list[int], every: bool, cgroup: str | None, form: str) -> int:
    """Print a line for each process."""
    from sweep.process import several

    if sum((bool(pids), every, cgroup is not None)) > 1:
        raise UserError("inspect: give PIDs, --all or --cgroup NAME, only one of the three")
    chosen = several.all_pids() if every else several.cgroup_pids(cgroup) if cgroup is not None else pids
    lines, left_out = several.take_lines(dict.fromkeys(chosen), skip=not pids)
    rows = (
        (
            *(line.pid, line.command, line.vm_size_kib, line.vm_rss_kib, line.vm_pte_kib),
            *(line.tables_with_entry, *line.empty_kib),
        )
        for line in lines
    )
    output_formats.print_rows(SEVERAL_COLUMNS, rows, form)
    for note in several.left_out_notes(left_out):
        messages.print_note(f"sweep inspect: {note}")
    return 0


def _tables(census: "TableCensus", huge_page_vmas: "HugePageVmas", zaps: tuple[int, ...]) -> dict[str, TableRows]:
    """The rows of each table in COLUMNS. Raises UserError for a size that no call can have."""
    from sweep.process.reclaim_estimate import check_call_size

    for zap in zaps:
        check_call_size(census, zap)
    return {
        "summary": _summary_rows(census, huge_page_vmas),
        "policy": _policy_rows(census, zaps),
        "vma": _vma_rows(census),
        "thp": _thp_rows(census, huge_page_vmas),
        "runs": _run_rows(census),
        "slot": _slot_rows(census),
    }


def _summary_rows(census: "TableCensus", huge_page_vmas: "HugePageVmas") -> TableRows:
    from sweep.process.huge_page_refill import refill_bytes

    least, most = census.empty
    kib = census.table_kib
    upper = census.upper_least, census.upper_most
    pte_tables = census.tables - upper[1], census.tables - upper[0]
    yield "VIRT", census.sizes.vm_size_kib, census.sizes.vm_size_kib, "KiB"
    yield "RES", census.sizes.vm_rss_kib, census.sizes.vm_rss_kib, "KiB"
    yield "VmPTE", census.sizes.vm_pte_kib, census.sizes.vm_pte_kib, "KiB"
    yield "upper tables", *upper, "tables"
    yield "PTE tables", *(max(n, census.needed) for n in pte_tables), "tables"
    yield "PTE tables with an entry", census.needed, census.needed, "tables"
    yield "PTE tables without", least, most, "tables"
    yield "what these take", least * kib, most * kib, "KiB"
    yield "once freed, RES of a write in each", *(size >> 10 for size in refill_bytes(census, huge_page_vmas)), "KiB"
    yield "slots mapped, without an entry", census.slots_without_entry, census.slots_without_entry, "slots"
    yield "of these wholly in one VMA", census.whole_without_entry, census.whole_without_entry, "slots"


def _policy_rows(census: "TableCensus", zaps: tuple[int, ...]) -> TableRows:
    from sweep.common.units import format_size
    from sweep.process.reclaim_estimate import estimate_reclaim

    kib = census.table_kib
    for row in estimate_reclaim(census, zaps):
        yield row.policy, format_size(row.zap), row.least, row.most, row.least * kib, row.most * kib


def _vma_rows(census: "TableCensus") -> TableRows:
    """VMAs with the most slots without an entry come first."""
    for vma in sorted(census.vmas, key=lambda vma: vma.slots_with_entry - vma.slots):
        mapping = vma.mapping
        yield (
            *(f"{mapping.start:#x}", f"{mapping.end:#x}", mapping.rights, mapping.name, mapping.end - mapping.start),
            *(vma.present, vma.zero, vma.swapped, vma.guard),
            *(vma.slots, vma.slots_with_entry, vma.whole_without_entry),
        )


def _thp_rows(census: "TableCensus", huge_page_vmas: "HugePageVmas") -> TableRows:
    """VMAs with a whole slot, without which there is no huge page; those with the most huge pages come first."""
    vmas = [vma for vma in census.vmas if vma.whole_slots]
    for vma in sorted(vmas, key=lambda vma: (-vma.slots_huge, -vma.slots_none)):
        mapping = vma.mapping
        yield (
            *(f"{mapping.start:#x}", f"{mapping.end:#x}", mapping.name),
            *(vma.slots, vma.slots_none, vma.slots_table, vma.slots_huge, huge_page_vmas.allow(mapping)),
        )


def _slot_rows(census: "TableCensus") -> TableRows:
    """Slots with an entry, by address: how many of their entries are set, and how many are none."""
    span, entries = census.arch.span_bytes, census.arch.entries
    for number, used in zip(census.slot_numbers.tolist(), census.slot_entries.tolist(), strict=True):
        yield f"{number * span:#x}", used, entries - used


def _run_rows(census: "TableCensus") -> TableRows:
    """Runs of neighbouring present pages, by length in powers of two."""
    total = int(census.runs[1].sum())
    for power, (count, pages) in enumerate(census.runs.T.tolist()):
        if count:
            yield 1 << power, (2 << power) - 1, count, pages * census.arch.page_bytes, round(pages / total, 4)


def _notes(census: "TableCensus", huge_page_vmas: "HugePageVmas") -> Iterator[str]:
    """What limits the accuracy of this census, and why its writes bring no huge pages though the system allows them."""
    if census.vm_pte_kib_before != census.sizes.vm_pte_kib:
        before, after = census.vm_pte_kib_before, census.sizes.vm_pte_kib
        yield f"VmPTE changed from {before:,} to {after:,} KiB while the process was read: the figures are not exact"
    if not census.has_scan:
        yield "this kernel has no PAGEMAP_SCAN (Linux 6.7): zero pages count as present, huge ones as small"
    if not census.shows_guards:
        yield "this kernel does not show guard markers: a table with nothing else counts as empty"
    if census.unseen_slots:
        yield f"{census.unseen_slots:,} slots of device memory cannot be seen; the bounds allow for a table in each"
    if huge_page_vmas.is_disabled and huge_page_vmas.setting != "never":
        yield "the process has PR_SET_THP_DISABLE set: its writes bring no huge pages"


def _print_tables(tables: dict[str, TableRows], form: str, *, as_object: bool) -> None:
    """Print the tables one below the other; in JSON an object of tables, or the rows of the only one."""
    if form == "json" and as_object:
        output_formats.print_json(
            {name: [dict(zip(COLUMNS[name], row, strict=True)) for row in rows] for name, rows in tables.items()}
        )
        return
    for number, (name, rows) in enumerate(tables.items()):
        if number:
            output_formats.print_line()
        most = MOST_ROWS.get(name, 0) if form == "table" else 0
        names = COLUMNS[name]
        if "end" in names and form == "table":  # the end follows from other columns, and a line has 80 columns
            end = names.index("end")
            names, rows = names[:end] + names[end + 1 :], (row[:end] + row[end + 1 :] for row in map(tuple, rows))
        left_out = output_formats.print_rows(names, rows, form, most=most)
        if left_out:
            messages.print_note(f"{left_out:,} more rows; --by {name} --format csv prints all")


def _write_grid(census: "TableCensus", path: Path, zaps: tuple[int, ...]) -> None:
    """Write a grid whose scenario resembles the process. Raises UserError."""
    from sweep.process.similar_scenario import similar_scenario

    like = similar_scenario(census)
    name = "".join(islice(re.sub("[^a-z0-9]+", "-", f"like-{census.sizes.command.lower()}").strip("-"), 40))
    about = (
        f"The writable private anonymous memory of {census.sizes.command!r}: VmPTE was {like.vm_pte_kib:,} KiB, "
        f"and is about {like.similar_vm_pte_kib:,} here at the peak under none"
    )
    try:
        path.write_text(like.yaml(name, json.dumps(about), zaps, census.arch.name), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    messages.print_note(f"sweep inspect: wrote {path}; sweep plan {path} counts its points")
