"""sweep inspect: a live process's tables, how many hold nothing, what each policy would give back. Read-only."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweep.cli.options import ZAPS, AsJson, HowToPrint, PurgeSizes, purge_sizes
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.process.table_census import TableCensus

Part = Literal["summary", "policy", "vma", "slot", "runs"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "summary": ("what", "at_least", "at_most", "unit"),
    "policy": ("policy", "zap", "tables_least", "tables_most", "kib_least", "kib_most"),
    "vma": (
        *("start", "end", "rights", "name", "bytes", "present", "zero", "swapped", "guard"),
        *("slots", "slots_with_entry", "whole_without_entry"),
    ),
    "slot": ("slot", "entries", "none"),
    "runs": ("pages_from", "pages_to", "runs", "bytes", "bytes_share"),
}
SHOWN = {"vma": 12, "slot": 1_000}
"""Most rows of a table for people; --format csv and json print all."""


def inspect(
    pid: Annotated[int, typer.Argument(metavar="PID", min=1, help="A process of yours, or any if you are root.")],
    zap: PurgeSizes = ZAPS,
    by: Annotated[
        Part | None,
        typer.Option("--by", help="Only this table; default: all but slot, in csv the summary, in json all but slot."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", metavar="FILE", help="Write a grid that resembles the process.")
    ] = None,
    format: HowToPrint = "table",  # noqa: A002
    as_json: AsJson = False,
) -> int:
    """A live process: its page tables, how many are empty, what each policy would give back.

    Read-only. VmPTE is the kernel's; a PTE table is needed where the page map has an entry; upper tables are not seen,
    so that empty tables have an upper and a lower bound. Purges are aligned calls over what is not resident.
    """
    from sweep.process import table_census

    chosen = "json" if as_json else format
    zaps = purge_sizes(zap)
    found = table_census.take_census(pid)
    parts = {name: rows for name, rows in _parts(found, zaps).items() if by in (None, name)}
    if by is None:
        parts = {
            name: rows for name, rows in parts.items() if name != "slot" and (chosen != "csv" or name == "summary")
        }
    _print(parts, chosen, alone=by is not None)
    for line in _remarks(found):
        print(f"sweep inspect: {line}", file=sys.stderr)
    if grid is not None:
        _write_grid(found, grid, zaps, pid)
    return 0


def _parts(found: "TableCensus", zaps: tuple[int, ...]) -> dict[str, Iterator[Sequence[Any]]]:
    from sweep.process.reclaim_estimate import check_purge_size

    for zap in zaps:
        check_purge_size(found, zap)
    return {
        "summary": _summary(found),
        "policy": _policies(found, zaps),
        "vma": _vmas(found),
        "runs": _runs(found),
        "slot": _slots(found),
    }


def _summary(found: "TableCensus") -> Iterator[Sequence[Any]]:
    least, most = found.empty
    kib = found.table_kib
    upper = found.upper_least, found.upper_most
    exist = found.tables - upper[1], found.tables - upper[0]
    yield "VIRT", found.sizes.vm_size_kib, found.sizes.vm_size_kib, "KiB"
    yield "RES", found.sizes.vm_rss_kib, found.sizes.vm_rss_kib, "KiB"
    yield "VmPTE", found.sizes.vm_pte_kib, found.sizes.vm_pte_kib, "KiB"
    yield "upper tables", *upper, "tables"
    yield "PTE tables", *(max(n, found.needed) for n in exist), "tables"
    yield "PTE tables with an entry", found.needed, found.needed, "tables"
    yield "PTE tables without", least, most, "tables"
    yield "what these take", least * kib, most * kib, "KiB"
    yield "slots mapped, without an entry", found.slots_without_entry, found.slots_without_entry, "slots"
    yield "of these wholly in one VMA", found.whole_without_entry, found.whole_without_entry, "slots"


def _policies(found: "TableCensus", zaps: tuple[int, ...]) -> Iterator[Sequence[Any]]:
    from sweep.common.units import format_size
    from sweep.process.reclaim_estimate import estimate_reclaim

    kib = found.table_kib
    for row in estimate_reclaim(found, zaps):
        yield row.policy, format_size(row.zap), row.least, row.most, row.least * kib, row.most * kib


def _vmas(found: "TableCensus") -> Iterator[Sequence[Any]]:
    """Those with the most slots that hold nothing first."""
    for vma in sorted(found.vmas, key=lambda vma: vma.slots_with_entry - vma.slots):
        mapping = vma.mapping
        yield (
            *(f"{mapping.start:#x}", f"{mapping.end:#x}", mapping.rights, mapping.name, mapping.end - mapping.start),
            *(vma.present, vma.zero, vma.swapped, vma.guard),
            *(vma.slots, vma.slots_with_entry, vma.whole_without_entry),
        )


def _slots(found: "TableCensus") -> Iterator[Sequence[Any]]:
    span, entries = found.arch.span_bytes, found.arch.entries
    for number, held in zip(found.slot_numbers.tolist(), found.slot_entries.tolist(), strict=True):
        yield f"{number * span:#x}", held, entries - held


def _runs(found: "TableCensus") -> Iterator[Sequence[Any]]:
    total = int(found.runs[1].sum())
    for power, (count, pages) in enumerate(found.runs.T.tolist()):
        if count:
            yield 1 << power, (2 << power) - 1, count, pages * found.arch.page_bytes, round(pages / total, 4)


def _remarks(found: "TableCensus") -> Iterator[str]:
    if found.vm_pte_kib_before != found.sizes.vm_pte_kib:
        was, now = found.vm_pte_kib_before, found.sizes.vm_pte_kib
        yield f"VmPTE went from {was:,} to {now:,} KiB while the process was read: the figures are of a moving target"
    if not found.has_scan:
        yield "this kernel has no PAGEMAP_SCAN (Linux 6.7): zero pages count as present, huge ones as small"
    if not found.shows_guards:
        yield "this kernel does not show guard markers: a table with nothing else counts as empty"
    if found.unseen_slots:
        yield f"{found.unseen_slots:,} slots of device memory cannot be seen; the bounds allow for a table in each"


def _print(parts: dict[str, Iterator[Sequence[Any]]], chosen: str, *, alone: bool) -> None:
    from sweep.cli import output_formats

    if chosen == "json" and not alone:
        rows = {name: [dict(zip(COLUMNS[name], row, strict=True)) for row in part] for name, part in parts.items()}
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for number, (name, part) in enumerate(parts.items()):
        if number:
            print()
        most = SHOWN.get(name, 0) if chosen == "table" else 0
        left_out = output_formats.write(COLUMNS[name], part, chosen, sys.stdout, most=most)
        if left_out:
            print(f"{left_out:,} more rows; --by {name} --format csv prints all", file=sys.stderr)


def _write_grid(found: "TableCensus", path: Path, zaps: tuple[int, ...], pid: int) -> None:
    from sweep.process.reclaim_estimate import similar_scenario

    like = similar_scenario(found)
    name = "".join(islice(re.sub("[^a-z0-9]+", "-", f"like-{found.sizes.command.lower()}").strip("-"), 40))
    about = (
        f"The writable private anonymous memory of {found.sizes.command!r}: VmPTE was {like.vm_pte_kib:,} KiB, "
        f"and is about {like.similar_vm_pte_kib:,} here at the peak under none"
    )
    arch = found.arch.name
    try:
        path.write_text(like.yaml(name, json.dumps(about), zaps, arch), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    print(f"sweep inspect: wrote {path}; sweep plan {path} says what it asks", file=sys.stderr)
