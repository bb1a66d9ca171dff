"""sweep advise: what reclaim can give back, which calls free tables, which kernels do it, which settings help."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from sweep.cli import output_formats
from sweep.cli.options import ZAPS, JsonFormat, OutputFormat, PurgeSizes, parse_purge_sizes
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.process.advice import Fact, Footprint
    from sweep.process.table_census import TableCensus
    from sweep.traces.trace_replay import TraceReplay

TableName = Literal["facts", "kernels", "knobs"]

FACT_COLUMNS = ("topic", "what", "least", "most", "unit", "from")
KERNEL_COLUMNS = ("policy", "in", "from")
KNOB_COLUMNS = ("allocator", "knob", "default", "effect", "from")


class OutputTable(NamedTuple):
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the options name. `footprint`: from sizes or from a process; `census`: only from a process."""

    footprint: "Footprint | None"
    census: "TableCensus | None"
    trace: "TraceReplay | None"


def advise(
    virt: Annotated[
        str | None, typer.Option("--virt", metavar="SIZE", help="VIRT of the process in top.", show_default=False)
    ] = None,
    res: Annotated[
        str | None, typer.Option("--res", metavar="SIZE", help="RES of the process in top.", show_default=False)
    ] = None,
    vmpte: Annotated[
        str | None, typer.Option("--vmpte", metavar="SIZE", help="VmPTE in /proc/PID/status.", show_default=False)
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option("--pid", metavar="PID", min=1, help="Read the three sizes of this process.", show_default=False),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option("--trace", metavar="FILE", help="Assess the recorded calls of a program.", show_default=False),
    ] = None,
    zap: PurgeSizes = ZAPS,
    by: Annotated[
        TableName | None, typer.Option("--by", help="Print only this table; default: all, in csv the facts.")
    ] = None,
    format: OutputFormat = "table",  # noqa: A002
    as_json: JsonFormat = False,
) -> int:
    """Estimate what reclaim can give back, and list which calls free tables, which kernels do it, which settings help.

    Give --virt, --res and --vmpte, or --pid. Give --trace alone or in addition: a trace tells what was given back,
    not what is mapped. Each row names the source of its numbers: engine, process, trace, reference or documentation.

    Example: sweep advise --virt 55TiB --res 590GiB --vmpte 110GiB
    """
    from sweep.process import advice

    form, zaps = "json" if as_json else format, parse_purge_sizes(zap)
    inputs = _read_inputs(virt, res, vmpte, pid, trace)
    facts = [(f.topic, f.what, f.least, f.most, f.unit, f.source) for f in _facts(inputs, zaps)]
    tables = {
        "facts": OutputTable(FACT_COLUMNS, facts),
        "kernels": OutputTable(KERNEL_COLUMNS, list(_kernel_rows())),
        "knobs": OutputTable(KNOB_COLUMNS, list(_knob_rows())),
    }
    answer = list(advice.summary(inputs.footprint, inputs.census, inputs.trace, zaps))
    wanted = (by,) if by else ("facts",) if form == "csv" else tuple(tables)
    _print_tables({name: tables[name] for name in wanted}, answer, form)
    return 0


def _read_inputs(virt: str | None, res: str | None, vmpte: str | None, pid: int | None, trace: str | None) -> Inputs:
    from sweep.process.advice import Footprint
    from sweep.process.table_census import take_census
    from sweep.traces.trace_replay import replay_calls

    sizes = _parse_sizes(virt, res, vmpte, pid, trace)
    footprint, census = Footprint(*sizes) if sizes else None, take_census(pid) if pid else None
    if census is not None:
        kib = census.sizes
        footprint = Footprint(kib.vm_size_kib << 10, kib.vm_rss_kib << 10, kib.vm_pte_kib << 10, census.arch)
    replay = replay_calls(trace) if trace else None
    for note in replay.notes() if replay else ():
        output_formats.print_note(f"{trace}: {note}")
    return Inputs(footprint, census, replay)


def _parse_sizes(
    virt: str | None, res: str | None, vmpte: str | None, pid: int | None, trace: str | None
) -> tuple[int, int, int] | None:
    """VIRT, RES and VmPTE in bytes, or None if a process or only a trace is given. Raises UserError."""
    from sweep.common.units import parse_size

    texts = {"--virt": virt, "--res": res, "--vmpte": vmpte}
    missing = [option for option, text in texts.items() if text is None]
    if len(missing) == len(texts):
        if pid is None and trace is None:
            raise UserError("advise: needs --virt, --res and --vmpte, or --pid, or --trace; see sweep advise --help")
        return None
    if missing:
        raise UserError(f"advise: {' and '.join(missing)} missing; --virt, --res and --vmpte go together")
    if pid is not None:
        raise UserError("advise: give --pid, or --virt, --res and --vmpte, not both")
    sizes = []
    for option, text in texts.items():
        try:
            sizes.append(parse_size(text or ""))
        except UserError as error:
            raise UserError(f"{option}: {error}") from error
    return sizes[0], sizes[1], sizes[2]


def _facts(inputs: Inputs, zaps: tuple[int, ...]) -> Iterator["Fact"]:
    from engine.model.arch import ARCHES
    from sweep.process import advice

    footprint, census = inputs.footprint, inputs.census
    if footprint is not None:
        yield from advice.footprint_facts(footprint, advice.PROCESS if census else advice.GIVEN)
    if census is not None:
        yield from advice.census_facts(census)
    elif footprint is not None:
        yield from advice.random_placement_facts(footprint)
    yield from advice.purge_facts(zaps, footprint.arch if footprint else ARCHES[0])
    if inputs.trace is not None:
        yield from advice.trace_facts(inputs.trace)


def _kernel_rows() -> Iterator[tuple[str, str, str]]:
    from sweep.process import advice

    for policy, releases in advice.KERNELS_WITH_POLICY:
        yield policy, releases, advice.REFERENCE
    yield "this kernel", advice.running_kernel(), "this machine"


def _knob_rows() -> Iterator[tuple[str, ...]]:
    from sweep.process.allocator_settings import allocator_settings

    for setting in allocator_settings():
        source = f"documentation: {setting.source}"
        yield setting.allocator, setting.setting, setting.default, setting.effect, source


def _print_tables(tables: dict[str, OutputTable], answer: list[str], form: str) -> None:
    """Print the answer in sentences and then the tables; a single table without the answer."""
    if form == "json" and len(tables) > 1:
        objects = {
            name: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for name, table in tables.items()
        }
        output_formats.print_json({"answer": answer, **objects})
        return
    if len(tables) > 1:
        for line in (*answer, ""):
            output_formats.print_line(line)
    for number, (name, table) in enumerate(tables.items()):
        if number:
            output_formats.print_line()
        if name == "knobs" and form == "table":
            _print_knobs(table.rows)
        else:
            rows = map(_with_units, table.rows) if name == "facts" and form == "table" else table.rows
            output_formats.print_rows(table.columns, rows, form)


def _with_units(fact: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of facts with bytes as sizes and shares as per cent, for people."""
    from sweep.common.units import format_size, human_size

    topic, what, least, most, unit, source = fact
    if unit == "bytes":
        size = format_size if topic == "purge" else human_size
        return topic, what, size(least), size(most), "", source
    if unit.startswith("share"):
        percents = (None if share is None else f"{share:.1%}" for share in (least, most))
        return topic, what, *percents, unit.removeprefix("share "), source
    return fact


def _print_knobs(rows: list[tuple[Any, ...]]) -> None:
    """Print three lines per setting: its sentences would make a table too wide."""
    for allocator, knob, default, effect, source in rows:
        for line in (f"{allocator}: {knob} (default: {default})", f"    {effect}", f"    {source}"):
            output_formats.print_line(line)
