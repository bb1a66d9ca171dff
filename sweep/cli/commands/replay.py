"""sweep replay: replay traces under every policy, or on the live kernel. Tables go to stdout, notes to stderr."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import JsonFormat, Kernels, OutputFormat
from sweep.common.errors import UserError, one_line, printable, unknown_name

if TYPE_CHECKING:
    from engine.model.policy import Policy
    from sweep.kernel.kernel_replay import StepComparison
    from sweep.traces.call_histogram import CallHistogram
    from sweep.traces.trace_replay import TraceReplay

Row = tuple[Any, ...]

STEP_COLUMNS = ("trace", "step", "policy", "vm_pte_kib", "res_kib", "anon_huge_kib")
POLICY_COLUMNS = (
    *("policy", "zap_calls", "acting", "acting_share", "zapped_bytes", "acting_bytes"),
    *("acting_bytes_share", "reached_bytes_share", "tables_freed", "vm_pte_kib_max", "vm_pte_kib_end", "res_kib_end"),
)
SIZE_COLUMNS = (
    *("call", "size", "calls", "bytes", "whole_calls", "whole_calls_share"),
    *("whole_bytes", "whole_bytes_share", "whole_slots"),
)
KERNEL_COLUMNS = ("trace", "policy", "steps", "agree", "first_to_differ", "vm_pte_kib_max", "vm_pte_kib_end")
MOMENT_COLUMNS = ("trace", "process", "seconds", "seen_kib_least", "seen_kib_most", "computed_kib", "agrees")
MOST_ROWS, MOST_MOMENTS = 1_000, 12


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
        str,
        typer.Option(
            "--process",
            metavar="PID|largest|all",
            help="Which processes of a recording: one, the one that mapped most, or all and their sum.",
        ),
    ] = "all",
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
        typer.Option("--arch", help="Where it was recorded. Only pages of 4 KiB can be replayed."),
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
    from sweep.traces.ff_files import group_ff_files
    from sweep.traces.trace_reader import trace_names
    from sweep.traces.trace_replay import TraceReplay

    form = "json" if as_json else format
    if arch not in ("x86-64", "arm64-4k"):
        raise UserError(f"--arch {arch}: its tables are not those of 4 KiB pages, which alone can be replayed")
    if engine == "kernel":
        if rule is not None:
            raise UserError("--engine kernel runs traces under the kernel's own policy: no --rule")
        return _replay_on_kernel(traces, policy, touch, thp, steps, form, kernel or ())
    if kernel:
        raise UserError(f"--kernel {one_line(kernel[0])}: needs --engine kernel")
    policies = _parse_policies(policy, rule)
    items = group_ff_files(traces)
    names = trace_names([item if isinstance(item, str) else item.name.removesuffix(".*") for item in items])
    replays = [
        TraceReplay(item, name, policies, touch_all=touch == "all", scan_every=scan_every, thp=thp)
        for item, name in zip(items, names, strict=True)
    ]
    if steps:
        _print_steps(replays, process, form)
        return 0
    parts = [part for replay in replays for part in _parts(replay, process)]
    shows_processes = len(parts) > len(replays)
    if by == "moment":
        return _print_moments(replays, process, form)
    tables = [by] if by else ["policy"] if form in ("csv", "json") else ["policy", "size"]
    for number, table in enumerate(tables):
        if number:
            output_formats.print_line()
        columns, rows_of = (POLICY_COLUMNS, _policy_rows) if table == "policy" else (SIZE_COLUMNS, _size_rows)
        rows = ((*part.place(shows_processes), *row) for part in parts for row in rows_of(part, policies))
        place = ("trace", "process", "program") if shows_processes else ("trace",)
        output_formats.print_rows((*place, *columns), rows, form)
    if not by and form in ("table", "md") and any(replay.moments for replay in replays):
        output_formats.print_line()
        _print_moment_table(replays, process, form)
    return 0


def _print_moments(replays: "Sequence[TraceReplay]", process: str, form: str) -> int:
    """Print VmPTE as it was seen beside what is computed. Raises UserError if it was not recorded."""
    for replay in replays:
        if not replay.moments:
            raise UserError(
                f"{replay.path}: has no VmPTE to compare with; sweep record writes it, and the policy of the recorded "
                "kernel must be among those of --policy"
            )
    _print_moment_table(replays, process, form)
    return 0


def _print_moment_table(replays: "Sequence[TraceReplay]", process: str, form: str) -> None:
    """A row for each moment; on a page at most MOST_MOMENTS: those that do not agree, and evenly chosen ones."""
    from sweep.traces.trace_replay import selected

    moments = [
        (replay, moment)
        for replay in replays
        for chosen in [selected(replay, process)]
        for moment in replay.moments
        if process == "all" or moment.process in chosen
    ]
    if form == "table" and len(moments) > MOST_MOMENTS:
        wrong = [i for i, (_, moment) in enumerate(moments) if not moment.agrees][:MOST_MOMENTS]
        others = MOST_MOMENTS - len(wrong)
        chosen_rows = {*wrong, *(i * len(moments) // others for i in range(others))}
        shown = [moments[i] for i in sorted(chosen_rows)]
    else:
        shown = moments
    rows = (
        (replay.name, replay.label(m.process), m.seconds, m.least_kib, m.most_kib, m.computed_kib, m.agrees)
        for replay, m in shown
    )
    output_formats.print_rows(MOMENT_COLUMNS, rows, form)
    agree = sum(moment.agrees for _, moment in moments)
    more = f"; {len(shown)} of them are shown, --by moment --format csv prints all" if len(shown) < len(moments) else ""
    messages.print_note(f"{agree:,} of {len(moments):,} moments: VmPTE as computed{more}")
    unknown = max((moment.unknown_kib for _, moment in moments), default=0)
    if unknown:
        messages.print_note(
            f"up to {unknown:,} KiB of tables were empty when the recording began: nothing shows where they are, so "
            "they are not in the figures"
        )


class Part(NamedTuple):
    """What a row of a table is about: a process of a trace, or the sum of several (`process` is then `sum`)."""

    trace: str
    process: str | None
    program: str
    histogram: "CallHistogram"
    figures: "dict[str, dict[str, int]]"

    def place(self, with_process: bool) -> Row:
        return (self.trace, self.process, self.program) if with_process else (self.trace,)


def _parts(replay: "TraceReplay", choice: str) -> list[Part]:
    """Replay a trace to its end; the processes that were chosen, and their sum if they are several."""
    from sweep.traces.trace_replay import selected, total_figures

    for _ in replay:
        pass
    _print_notes(replay)
    processes = selected(replay, choice)
    parts = [Part(replay.name, replay.label(p), p.program, p.histogram, p.figures) for p in processes]
    if len(parts) > 1:
        parts.append(Part(replay.name, "sum", "", replay.histogram_of(processes), total_figures(processes)))
    return parts


def _print_steps(replays: "Sequence[TraceReplay]", process: str, form: str) -> None:
    from sweep.traces.trace_replay import records_processes

    if process == "largest":
        raise UserError("--process largest: which process mapped most shows at the end; with --steps name a PID")
    rows: Iterator[Row] = (row for replay in replays for row in _step_rows(replay, process))
    first = next(rows, None)
    rows = chain([] if first is None else [first], rows)
    if any(map(records_processes, replays)):
        columns: tuple[str, ...] = ("trace", "process", *STEP_COLUMNS[1:])
    else:
        columns, rows = STEP_COLUMNS, ((trace, *rest) for trace, _, *rest in rows)
    left_out = output_formats.print_rows(columns, rows, form, most=MOST_ROWS)
    if left_out:
        messages.print_note(f"{left_out:,} more rows; --format csv prints all")


def _replay_on_kernel(
    traces: Sequence[str],
    policy: Sequence[str] | None,
    touch: str,
    thp: str | None,
    steps: bool,
    form: str,
    names: Sequence[str],
) -> int:
    """Run traces on kernels beside the model under each kernel's policy. Returns 1 if they differ."""
    from engine.kernel.huge_page_events import read_events
    from sweep.kernel.kernel_replay import StepComparison, compare_steps, probe_policy, read_trace, thp_setting
    from sweep.kernel.open_kernels import TRACE_NEEDS, guest_of, open_named
    from sweep.traces.trace_reader import trace_names

    if policy or touch != "recorded":
        raise UserError(
            "--engine kernel runs traces as recorded, under the kernel's own policy: no --policy, no --touch"
        )
    read = {name: (path, read_trace(path)) for path, name in zip(traces, trace_names(traces), strict=True)}
    rows, failed = list[Row](), 0
    with ExitStack() as stack:
        if names:
            opened = stack.enter_context(open_named(names, lambda: TRACE_NEEDS, None, messages.print_note))
            kernels = [(kernel.machine.release, kernel.policy, guest_of(kernel)) for kernel in opened]
        else:
            kernels = [(platform.release(), probe_policy(), None)]
        for release, kernel_policy, guest in kernels:
            setting = thp_setting(thp, guest)
            read_kernel_events = guest.read_events if guest else read_events
            events = read_kernel_events()
            compared: dict[str, list[StepComparison]] = {
                name: list(compare_steps(trace, path, kernel_policy, setting, guest))
                for name, (path, trace) in read.items()
            }
            of_kernel = (_kernel_step_rows if steps else _kernel_rows)(compared, kernel_policy)
            rows += [(*row[:1], release, *row[1:]) if len(kernels) > 1 else row for row in of_kernel]
            differ = sum(not step.agrees for several in compared.values() for step in several)
            total, failed = sum(map(len, compared.values())), failed + differ
            name = "the live kernel" if guest is None else f"Linux {release}"
            messages.print_note(f"{total - differ:,} of {total:,} steps: {name} agrees with {kernel_policy}")
            if differ and read_kernel_events().disturbances != events.disturbances:
                messages.print_note(
                    "meanwhile faults got no huge page, or the kernel made or split some by itself "
                    "(thp_fault_fallback, thp_collapse_alloc, thp_underused_split_page of /proc/vmstat), which the "
                    "model leaves out: run it again"
                )
    columns = STEP_COLUMNS if steps else KERNEL_COLUMNS
    columns = (*columns[:1], "kernel", *columns[1:]) if len(kernels) > 1 else columns
    output_formats.print_rows(columns, rows, form, most=MOST_ROWS if steps else 0)
    return 1 if failed else 0


def _kernel_step_rows(steps_by_trace: "dict[str, list[StepComparison]]", policy: str) -> Iterator[Row]:
    for name, steps in steps_by_trace.items():
        for step in steps:
            yield name, step.step, "live", *step.live
            yield name, step.step, policy, *step.model


def _kernel_rows(steps_by_trace: "dict[str, list[StepComparison]]", policy: str) -> Iterator[Row]:
    for name, steps in steps_by_trace.items():
        differ = [step.step for step in steps if not step.agrees]
        largest = max((step.live.vm_pte_kib for step in steps), default=0)
        end = steps[-1].live.vm_pte_kib if steps else 0
        yield name, policy, len(steps), len(steps) - len(differ), differ[0] if differ else None, largest, end


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


def _step_rows(replay: "TraceReplay", choice: str) -> Iterator[Row]:
    """A row per step and policy, without step 0, which sets up the mappings. Prints notes after the last step."""
    from sweep.traces.trace_replay import is_selected

    for step, process in replay:
        if not replay.counts:
            raise UserError(f"{replay.path}: this recording has no touches; --touch all bounds VmPTE from above")
        if step and is_selected(replay, process, choice):
            state = process.replay
            for policy in state.policies:
                figures = state.vm_pte_kib(policy), state.res_kib(policy), state.anon_huge_kib(policy)
                yield replay.name, replay.label(process), step, policy, *figures
    _print_notes(replay)


def _print_notes(replay: "TraceReplay") -> None:
    for note in replay.notes():
        messages.print_note(f"{replay.path}: {note}")


def _policy_rows(part: Part, policies: "Sequence[Policy]") -> Iterable[Row]:
    from engine.traces.trace_rules import trace_rule

    zaps = part.histogram.zap_totals()
    for policy in policies:
        calls, size, reached = part.histogram.acting_calls(trace_rule(policy))
        figures = part.figures.get(policy.name, {})  # none for a trace without page accesses
        yield (
            *(policy.name, zaps.calls, calls, _share(calls, zaps.calls)),
            *(zaps.bytes, size, _share(size, zaps.bytes), _share(reached, zaps.bytes)),
            *(figures.get(name) for name in ("pte_tables_freed", "vm_pte_kib_max", "vm_pte_kib_end")),
            figures["res_bytes_end"] >> 10 if figures else None,
        )


def _size_rows(part: Part, policies: "Sequence[Policy]") -> Iterable[Row]:
    for kind, size, totals in part.histogram.by_size():
        yield (
            *(kind, size, totals.calls, totals.bytes),
            *(totals.whole_calls, _share(totals.whole_calls, totals.calls)),
            *(totals.whole_bytes, _share(totals.whole_bytes, totals.bytes), totals.whole_slots),
        )


def _share(part: int, total: int) -> float | None:
    return round(part / total, 4) if total else None
