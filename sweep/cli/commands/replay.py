"""sweep replay: replay traces under every policy, or on the live kernel. Tables go to stdout, notes to stderr."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.cli import output_formats
from sweep.cli.options import JsonFormat, Kernels, OutputFormat
from sweep.common.errors import UserError, one_line, printable, unknown_name

if TYPE_CHECKING:
    from engine.model.policy import Policy


def replay(
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE",
            help="Recordings: of sweep record, strace, perf trace or perf script; kernel and allocator traces; "
            "- for stdin. May be compressed.",
            show_default=False,
        ),
    ],
    steps: Annotated[bool, typer.Option("--steps", help="Print VmPTE, RES and AnonHugePages after each step.")] = False,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="NAME", help="Only this policy; may be repeated, or several separated by commas."
        ),
    ] = None,
    rule: Annotated[
        Path | None,
        typer.Option(
            "--rule",
            metavar="FILE",
            help="The policies of this file, YAML as under `policies:` in a grid, and those of --policy.",
            show_default=False,
        ),
    ] = None,
    touch: Annotated[
        Literal["recorded", "all"],
        typer.Option(
            "--touch",
            help="all: assume that every mapped page is written between calls; gives an upper bound of VmPTE.",
        ),
    ] = "recorded",
    process: Annotated[
        str | None,
        typer.Option(
            "--process",
            metavar="PID|largest|all",
            help="Which processes of a recording: one, the one that mapped most, or all and their sum. Default: all, "
            "but in tables of many processes only those with most page tables, and the others in one row.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        Literal["policy", "size", "moment"] | None,
        typer.Option(
            "--by",
            help="Print the table by policy, by size of call, or (recordings of sweep record) by moment: VmPTE seen "
            "and computed. Default: all, in csv and json by policy.",
        ),
    ] = None,
    engine: Annotated[
        Literal["model", "kernel"],
        typer.Option("--engine", help="kernel: run kernel traces on this machine's kernel and compare with the model."),
    ] = "model",
    thp: Annotated[
        Literal["madvise", "always", "never"] | None,
        typer.Option(
            "--thp",
            help="The system's setting of huge pages. Default: madvise; with --engine kernel this machine's.",
            show_default=False,
        ),
    ] = None,
    kernel: Kernels = None,
    arch: Annotated[
        Literal["x86-64", "arm64-4k", "arm64-16k", "arm64-64k"],
        typer.Option("--arch", help="Where it was recorded: the size of pages, and so of tables."),
    ] = "x86-64",
    scan_every: Annotated[
        int,
        typer.Option("--scan-every", metavar="N", min=1, help="Steps between two scans of the policy async."),
    ] = 1,
    format: OutputFormat = "table",  # noqa: A002
    as_json: JsonFormat = False,
) -> int:
    """Replay traces under every policy: VmPTE, tables freed, and the share of calls that cover whole slots.

    Kernel traces and recordings of sweep record are replayed exactly. Others have no page accesses: their calls are
    assessed by what they cover, and --touch all bounds VmPTE. Each process has rows of its own. Column acting: calls
    after which the policy may free a table, without those for thread stacks; column reached: the share of all zapped
    bytes whose table it may free.

    Example: sweep replay calls.rec.gz --by size
    """
    from engine.model.arch import ARCHES
    from engine.traces.geometry import Geometry
    from sweep.cli.command_output import replay_tables
    from sweep.trace_readers.ff_files import group_ff_files
    from sweep.trace_readers.trace_reader import trace_names
    from sweep.traces.trace_replay import TraceReplay

    form = "json" if as_json else format
    if engine == "kernel":
        if rule is not None:
            raise UserError("--engine kernel runs traces under the kernel's own policy: no --rule")
        from sweep.cli.command_output.replay_on_kernel import replay_on_kernel

        return replay_on_kernel(traces, policy, touch, thp, steps, form, kernel or ())
    if kernel:
        raise UserError(f"--kernel {one_line(kernel[0])}: needs --engine kernel")
    policies = _parse_policies(policy, rule)
    items = group_ff_files(traces)
    names = trace_names([item if isinstance(item, str) else item.name.removesuffix(".*") for item in items])
    geometry = Geometry(next(known for known in ARCHES if known.name == arch))
    replays = [
        TraceReplay(item, name, policies, touch_all=touch == "all", scan_every=scan_every, thp=thp, geometry=geometry)
        for item, name in zip(items, names, strict=True)
    ]
    chosen = process or "all"
    if steps:
        from sweep.cli.command_output.replay_steps import print_steps

        print_steps(replays, chosen, form)
        return 0
    most = replay_tables.processes_on_a_page(len(policies)) if process is None and form == "table" else None
    parts = [part for replay in replays for part in replay_tables.parts_of(replay, chosen, most)]
    shows_processes = len(parts) > len(replays)
    if by == "moment":
        return replay_tables.print_moments(replays, chosen, form)
    tables = [by] if by else ["policy"] if form in ("csv", "json") else ["policy", "size"]
    for number, table in enumerate(tables):
        if number:
            output_formats.print_line()
        replay_tables.print_table(table, parts, policies, form, with_process=shows_processes)
    if not by and form in ("table", "md") and any(replay.moments for replay in replays):
        output_formats.print_line()
        replay_tables.print_moment_table(replays, chosen, form)
    return 0


def _parse_policies(texts: Sequence[str] | None, rules: Path | None) -> "tuple[Policy, ...]":
    """The policies of --policy and of the file of --rule, or all built-in ones, those first. Raises UserError."""
    from engine.model.policy import ALL, POLICIES

    names = [name.strip() for text in texts or (() if rules else POLICIES) for name in text.split(",")]
    for name in names:
        if name not in POLICIES:
            raise UserError(f"--policy: {unknown_name('policy', name, POLICIES)}")
    if rules and not rules.exists():
        raise UserError(f"--rule {printable(str(rules))}: no such file")
    given: Sequence[Policy] = ()
    if rules:  # reading YAML takes 14 MiB
        from sweep.grid.loader import read_text
        from sweep.grid.rules import read_rules

        given = read_rules(read_text(rules), str(rules))
    names += [policy.name for policy in given]
    return (*(policy for policy in ALL if policy.name in names), *(p for p in given if p.name not in POLICIES))
