"""sweep advise: what reclaim can give back, which purges get there, which kernel has it, what to change."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweep.cli.options import ZAPS, AsJson, HowToPrint, PurgeSizes, purge_sizes
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.process.advice import Fact, Footprint
    from sweep.process.table_census import TableCensus
    from sweep.traces.trace_replay import TraceReplay

Part = Literal["facts", "kernels", "knobs"]

FACTS = ("topic", "what", "least", "most", "unit", "from")
KERNELS = ("policy", "in", "from")
KNOBS = ("allocator", "knob", "default", "effect", "from")


def advise(
    virt: Annotated[str | None, typer.Option("--virt", metavar="SIZE", help="VIRT of top.", show_default=False)] = None,
    res: Annotated[str | None, typer.Option("--res", metavar="SIZE", help="RES of top.", show_default=False)] = None,
    vmpte: Annotated[
        str | None, typer.Option("--vmpte", metavar="SIZE", help="VmPTE of /proc/PID/status.", show_default=False)
    ] = None,
    pid: Annotated[
        int | None, typer.Option("--pid", metavar="PID", min=1, help="Read them of a process.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--trace", metavar="FILE", help="What a program asks for.", show_default=False)
    ] = None,
    zap: PurgeSizes = ZAPS,
    by: Annotated[Part | None, typer.Option("--by", help="Only this table; default: all, in csv the facts.")] = None,
    format: HowToPrint = "table",  # noqa: A002
    as_json: AsJson = False,
) -> int:
    """What reclaim can give back at best and at worst, which purges get there, which kernel has it, what to change.

    Give --virt, --res and --vmpte, or --pid, or --trace (which says what is asked, not what is there; it goes with
    either). Every line says where its numbers come from: engine, process, trace, reference, documentation.
    """
    from sweep.process import advice

    chosen = "json" if as_json else format
    found = _read(virt, res, vmpte, pid, trace)
    facts = list(_facts(found, purge_sizes(zap)))
    tables: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {
        "facts": (FACTS, [(f.topic, f.what, f.least, f.most, f.unit, f.source) for f in facts]),
        "kernels": (KERNELS, list(_kernels())),
        "knobs": (KNOBS, list(_knobs())),
    }
    short = list(advice.summary(found.footprint, found.census, found.play, purge_sizes(zap)))
    _print({name: table for name, table in tables.items() if name in _wanted(by, chosen)}, short, chosen)
    return 0


@dataclass(frozen=True, slots=True)
class Found:
    """What advice is asked for; a process has a footprint too."""

    footprint: "Footprint | None"
    census: "TableCensus | None"
    play: "TraceReplay | None"


def _read(virt: str | None, res: str | None, vmpte: str | None, pid: int | None, trace: str | None) -> Found:
    from sweep.process.advice import Footprint
    from sweep.process.table_census import take_census
    from sweep.traces.trace_replay import replay_calls

    sizes = _sizes(virt, res, vmpte, pid, trace)
    footprint, census = Footprint(*sizes) if sizes else None, take_census(pid) if pid else None
    if census is not None:
        kib = census.sizes
        footprint = Footprint(kib.vm_size_kib << 10, kib.vm_rss_kib << 10, kib.vm_pte_kib << 10, census.arch)
    play = replay_calls(trace) if trace else None
    for note in play.notes() if play else ():
        print(f"{trace}: {note}", file=sys.stderr)
    return Found(footprint, census, play)


def _wanted(by: str | None, chosen: str) -> tuple[str, ...]:
    return (by,) if by else ("facts",) if chosen == "csv" else ("facts", "kernels", "knobs")


def _sizes(
    virt: str | None, res: str | None, vmpte: str | None, pid: int | None, trace: str | None
) -> tuple[int, int, int] | None:
    """VIRT, RES, VmPTE in bytes as given, or nothing. Raises UserError for half of them, or too much."""
    from sweep.common.units import parse_size

    given = {"--virt": virt, "--res": res, "--vmpte": vmpte}
    missing = [name for name, text in given.items() if text is None]
    if len(missing) == len(given):
        if pid is None and trace is None:
            raise UserError("advise: needs --virt, --res and --vmpte, or --pid, or --trace; see sweep advise --help")
        return None
    if missing:
        raise UserError(f"advise: {' and '.join(missing)} missing; --virt, --res and --vmpte go together")
    if pid is not None:
        raise UserError("advise: give --pid, or --virt, --res and --vmpte, not both")
    sizes = []
    for name, text in given.items():
        try:
            sizes.append(parse_size(text or ""))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return sizes[0], sizes[1], sizes[2]


def _facts(found: Found, zaps: tuple[int, ...]) -> Iterator["Fact"]:
    from engine.model.arch import ARCHES
    from sweep.process import advice

    if found.footprint is not None:
        yield from advice.footprint_facts(found.footprint, advice.PROCESS if found.census else advice.GIVEN)
    if found.census is not None:
        yield from advice.census_facts(found.census)
    elif found.footprint is not None:
        yield from advice.random_placement_facts(found.footprint)
    yield from advice.purge_facts(zaps, found.footprint.arch if found.footprint else ARCHES[0])
    if found.play is not None:
        yield from advice.trace_facts(found.play)


def _kernels() -> Iterator[tuple[str, str, str]]:
    from sweep.process import advice

    for policy, where in advice.KERNELS_WITH_POLICY:
        yield policy, where, advice.REFERENCE
    yield "this kernel", advice.running_kernel(), "this machine"


def _knobs() -> Iterator[tuple[str, ...]]:
    from sweep.process.allocator_settings import allocator_settings

    for setting in allocator_settings():
        source = f"documentation: {setting.source}"
        yield setting.allocator, setting.setting, setting.default, setting.effect, source


def _print(tables: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]], short: list[str], chosen: str) -> None:
    """All tables after the answer in words; one alone without."""
    from sweep.cli import output_formats

    if chosen == "json" and len(tables) > 1:
        rows = {
            name: [dict(zip(columns, row, strict=True)) for row in part] for name, (columns, part) in tables.items()
        }
        print(json.dumps({"answer": short, **rows}, indent=1, ensure_ascii=False))
        return
    if len(tables) > 1:
        print(*short, "", sep="\n")
    for number, (name, (columns, part)) in enumerate(tables.items()):
        if number:
            print()
        if name == "knobs" and chosen == "table":
            _words(part)
        else:
            output_formats.write(
                columns, [_readable(row) for row in part] if chosen == "table" else part, chosen, sys.stdout
            )


def _readable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Bytes as sizes, shares as per cent; the other formats keep the numbers."""
    from sweep.common.units import format_size, human_size

    if len(row) != len(FACTS):
        return row
    topic, what, least, most, unit, source = row
    if unit == "bytes":
        shown = format_size if topic == "purge" else human_size
        return topic, what, shown(least), shown(most), "", source
    if unit.startswith("share"):
        return topic, what, *(None if n is None else f"{n:.1%}" for n in (least, most)), unit[6:], source
    return row


def _words(knobs: list[tuple[Any, ...]]) -> None:
    """A knob is two lines and its source: a table of sentences would be too wide."""
    for allocator, knob, default, effect, source in knobs:
        print(f"{allocator}: {knob} (default: {default})\n    {effect}\n    {source}")
