"""sweep advise: what reclaim can give back, which calls free tables, which kernels do it, which settings help."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.cli import messages, output_formats
from sweep.cli.command_output.advice_tables import advice_tables, print_tables
from sweep.cli.options import ZAPS, CallSizes, JsonFormat, OutputFormat, parse_call_sizes
from sweep.common.errors import UserError, unknown_name

if TYPE_CHECKING:
    from sweep.process.advice import Fact, Footprint
    from sweep.process.allocator_settings import AllocatorSetting
    from sweep.process.huge_page_refill import AddedRes
    from sweep.process.table_census import TableCensus
    from sweep.process.verdict import SharedMemory
    from sweep.traces.trace_replay import TraceReplay

TableName = Literal["facts", "kernels", "knobs"]


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
    zap: CallSizes = ZAPS,
    thp: Annotated[
        Literal["always", "madvise", "never"] | None,
        typer.Option("--thp", help="Say what reclaim may cost in RES under this setting of huge pages."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="N", min=1, help="With --shared: this many processes map the same memory."),
    ] = None,
    shared: Annotated[
        str | None, typer.Option("--shared", metavar="SIZE", help="The memory that they share.", show_default=False)
    ] = None,
    allocator: Annotated[
        str | None,
        typer.Option("--allocator", metavar="NAME", help="Add the settings of this allocator: jemalloc, glibc, Go ..."),
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Add the tables of facts, kernels and settings.")] = False,
    by: Annotated[
        TableName | None, typer.Option("--by", help="Print only this table; in csv the facts are the default.")
    ] = None,
    format: OutputFormat = "table",  # noqa: A002
    as_json: JsonFormat = False,
) -> int:
    """Say what reclaim can give back of a process's page tables, on which kernel, and what to measure next.

    Give --virt, --res and --vmpte as top, ps and /proc print them, or --pid. Give --trace alone or in addition: a trace
    tells what was given back, not what is mapped. --details: each figure with its source.

    Example: sweep advise --virt 55t --res 590g --vmpte 110g
    """
    from sweep.process.verdict import verdict

    form, zaps = "json" if as_json else format, parse_call_sizes(zap)
    same_memory = _parse_shared(processes, shared)
    inputs = _read_inputs(virt, res, vmpte, pid, trace, is_optional=bool(same_memory or allocator or by == "knobs"))
    added_res = _added_res(inputs, pid, thp) if thp else None
    settings = _settings_of(allocator)
    tables = advice_tables(_facts(inputs, added_res, zaps), settings)
    known = inputs.footprint, inputs.census, inputs.trace
    answer = list(verdict(*known, same_memory, zaps, process=str(pid or "PID"), added_res=added_res))
    if by or form == "csv":
        print_tables({name: tables[name] for name in (by or "facts",)}, form)
    elif form == "json":
        rows = {name: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for name, t in tables.items()}
        output_formats.print_json({"answer": answer, **rows})
    else:
        for line in answer:
            output_formats.print_paragraph(line, " " * 4)
        wanted = tuple(tables) if details or form == "md" else ("knobs",) if allocator else ()
        if wanted and answer:
            output_formats.print_line()
        print_tables({name: tables[name] for name in wanted}, form)
    return 0


def _parse_shared(processes: int | None, shared: str | None) -> "SharedMemory | None":
    from sweep.process.verdict import SharedMemory

    if (processes is None) != (shared is None):
        raise UserError("advise: --processes N and --shared SIZE go together")
    return None if processes is None else SharedMemory(processes, _printed_size("--shared", shared or ""))


def _settings_of(allocator: str | None) -> "tuple[AllocatorSetting, ...]":
    """The settings of the allocators whose name begins like this; all without a name. Raises UserError for no such."""
    from sweep.process.allocator_settings import allocator_settings

    settings = allocator_settings()
    chosen = tuple(s for s in settings if allocator and s.allocator.lower().startswith(allocator.strip().lower()))
    if allocator is not None and not chosen:
        known = dict.fromkeys(setting.allocator for setting in settings)
        raise UserError(f"--allocator: {unknown_name('allocator', allocator, known)}")
    return chosen or settings


def _read_inputs(
    virt: str | None, res: str | None, vmpte: str | None, pid: int | None, trace: str | None, *, is_optional: bool
) -> Inputs:
    """Read the process and the trace that the options name. Raises UserError.

    is_optional: no process or trace needs to be named
    """
    from sweep.process.advice import Footprint
    from sweep.process.table_census import take_census
    from sweep.traces.trace_replay import replay_calls

    sizes = _parse_sizes(virt, res, vmpte, pid, has_other=bool(trace or is_optional))
    footprint, census = Footprint(*sizes) if sizes else None, take_census(pid) if pid else None
    if census is not None:
        kib = census.sizes
        footprint = Footprint(kib.vm_size_kib << 10, kib.vm_rss_kib << 10, kib.vm_pte_kib << 10, census.arch)
    replay = replay_calls(trace) if trace else None
    for note in replay.notes() if replay else ():
        messages.print_note(f"{trace}: {note}")
    return Inputs(footprint, census, replay)


def _parse_sizes(
    virt: str | None, res: str | None, vmpte: str | None, pid: int | None, *, has_other: bool
) -> tuple[int, int, int] | None:
    """VIRT, RES and VmPTE in bytes, or None if a process or something else is given. Raises UserError."""
    texts = {"--virt": virt, "--res": res, "--vmpte": vmpte}
    missing = [option for option, text in texts.items() if text is None]
    if len(missing) == len(texts):
        if pid is None and not has_other:
            raise UserError("advise: needs --virt, --res and --vmpte, or --pid, or --trace; see sweep advise --help")
        return None
    if missing:
        raise UserError(f"advise: {' and '.join(missing)} missing; --virt, --res and --vmpte go together")
    if pid is not None:
        raise UserError("advise: give --pid, or --virt, --res and --vmpte, not both")
    virt_bytes, res_bytes, vmpte_bytes = (_printed_size(option, text or "") for option, text in texts.items())
    return virt_bytes, res_bytes, vmpte_bytes


def _printed_size(option: str, text: str) -> int:
    """The bytes of a size as tools print it. Raises UserError that names the option."""
    from engine.model.arch import ARCHES
    from sweep.process.printed_sizes import parse_printed_size

    try:
        return parse_printed_size(text, ARCHES[0].page_bytes)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def _added_res(inputs: Inputs, pid: int | None, thp: str) -> "AddedRes":
    """What reclaim may cost in RES if the system's setting of huge pages is `thp`. Raises UserError."""
    from sweep.process import huge_page_refill

    if inputs.census is not None and pid is not None:
        vmas = huge_page_refill.read_huge_page_vmas(pid, thp)
        return huge_page_refill.added_res_of_process(inputs.census, vmas)
    if inputs.footprint is None:
        raise UserError(f"--thp {thp}: needs --pid, or --virt, --res and --vmpte")
    return huge_page_refill.added_res_of_sizes(inputs.footprint, thp)


def _facts(inputs: Inputs, added_res: "AddedRes | None", zaps: tuple[int, ...]) -> Iterator["Fact"]:
    from engine.model.arch import ARCHES
    from sweep.process import advice

    footprint, census = inputs.footprint, inputs.census
    if footprint is not None:
        yield from advice.footprint_facts(footprint, advice.PROCESS if census else advice.GIVEN)
    if census is not None:
        yield from advice.census_facts(census)
    elif footprint is not None:
        yield from advice.random_placement_facts(footprint)
    if added_res is not None:
        yield added_res.fact
    yield from advice.call_facts(zaps, footprint.arch if footprint else ARCHES[0])
    if inputs.trace is not None:
        yield from advice.trace_facts(inputs.trace)
