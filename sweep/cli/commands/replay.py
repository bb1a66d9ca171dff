"""sweep replay: traces under every policy, and what programs ask for. Data to stdout, words to stderr."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweep.cli.options import AsJson, HowToPrint
from sweep.common.errors import UserError, unknown_name

if TYPE_CHECKING:
    from sweep.kernel.kernel_replay import Shown
    from sweep.traces.trace_replay import TraceReplay


STEP_COLUMNS = ("trace", "step", "policy", "vm_pte_kib", "res_kib")
POLICY_COLUMNS = (
    "trace",
    "policy",
    "purges",
    "acting",
    "acting_share",
    "purged_bytes",
    "acting_bytes",
    "acting_bytes_share",
    "reached_bytes_share",
    "tables_freed",
    "vm_pte_kib_max",
    "vm_pte_kib_end",
    "res_kib_end",
)
SIZE_COLUMNS = (
    "trace",
    "call",
    "size",
    "calls",
    "bytes",
    "whole_calls",
    "whole_calls_share",
    "whole_bytes",
    "whole_bytes_share",
    "whole_slots",
)
LIVE_COLUMNS = ("trace", "policy", "steps", "agree", "first_to_differ", "vm_pte_kib_max", "vm_pte_kib_end")
MOST_ROWS = 1_000


def replay(
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE...",
            help="Kernel or allocator traces (.csv, .csv.gz), output of strace, or - for stdin.",
            show_default=False,
        ),
    ],
    steps: Annotated[bool, typer.Option("--steps", help="VmPTE and RES after every step of the trace.")] = False,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="NAME", help="Only this policy; again, or with commas, for more."),
    ] = None,
    touch: Annotated[
        Literal["recorded", "all"],
        typer.Option(
            "--touch", help="all: every mapped page counts as written between calls; bounds VmPTE from above."
        ),
    ] = "recorded",
    by: Annotated[
        Literal["policy", "size"] | None,
        typer.Option(
            "--by", help="Which table: by policy or by size of call; default: both, in csv and json by policy."
        ),
    ] = None,
    engine: Annotated[
        Literal["model", "kernel"],
        typer.Option("--engine", help="kernel: play kernel traces on this machine's kernel, and compare."),
    ] = "model",
    scan_every: Annotated[
        int, typer.Option("--scan-every", metavar="N", min=1, help="The async policy scans after so many steps.")
    ] = 1,
    format: HowToPrint = "table",  # noqa: A002
    as_json: AsJson = False,
) -> int:
    """Traces under every policy: VmPTE step by step, and what share of the calls covers whole slots.

    Kernel traces are replayed exactly. Allocator traces record no touches: their calls are judged by what they cover,
    and --touch all bounds VmPTE. acting: calls after which the policy may free a table, stacks of threads left out;
    reached: of all bytes given back those whose table it may free.
    """
    from sweep.cli import output_formats
    from sweep.traces.trace_reader import trace_names
    from sweep.traces.trace_replay import TraceReplay

    chosen = "json" if as_json else format
    if engine == "kernel":
        return _on_the_kernel(traces, policy, touch, steps, chosen)
    policies = _policies(policy)
    plays = [
        TraceReplay(path, name, policies, touch_all=touch == "all", scan_every=scan_every)
        for path, name in zip(traces, trace_names(traces), strict=True)
    ]
    if steps:
        rows = (row for play in plays for row in _steps(play, policies))
        left_out = output_formats.write(STEP_COLUMNS, rows, chosen, sys.stdout, most=MOST_ROWS)
        if left_out:
            print(f"{left_out:,} more rows; --format csv prints all", file=sys.stderr)
        return 0
    for play in plays:
        _finish(play)
    wanted = [by] if by else ["policy"] if chosen in ("csv", "json") else ["policy", "size"]
    for number, table in enumerate(wanted):
        if number:
            print()
        columns, of_play = (POLICY_COLUMNS, _by_policy) if table == "policy" else (SIZE_COLUMNS, _by_size)
        output_formats.write(columns, (row for play in plays for row in of_play(play, policies)), chosen, sys.stdout)
    return 0


def _on_the_kernel(traces: Sequence[str], policy: Sequence[str] | None, touch: str, steps: bool, chosen: str) -> int:
    """Live beside the model under the kernel's own policy; exit code 1 where they differ."""
    from sweep.cli import output_formats
    from sweep.kernel.kernel_replay import Shown, live_policy, play, steps_of
    from sweep.traces.trace_reader import trace_names

    if policy or touch != "recorded":
        raise UserError(
            "--engine kernel plays what is recorded, under this kernel's own policy: no --policy, no --touch"
        )
    own = live_policy()
    names = trace_names(traces)
    shown: dict[str, list[Shown]] = {}
    for path, name in zip(traces, names, strict=True):
        shown[name] = list(play(steps_of(path), path, own))
    differ = sum(not row.agrees for rows in shown.values() for row in rows)
    if steps:
        output_formats.write(STEP_COLUMNS, _live_steps(shown, own), chosen, sys.stdout, most=MOST_ROWS)
    else:
        output_formats.write(LIVE_COLUMNS, _live_rows(shown, own), chosen, sys.stdout)
    total = sum(map(len, shown.values()))
    print(f"{total - differ:,} of {total:,} steps: the live kernel shows what {own} says", file=sys.stderr)
    return 1 if differ else 0


def _live_steps(shown: "dict[str, list[Shown]]", own: str) -> Iterator[tuple[Any, ...]]:
    for name, rows in shown.items():
        for row in rows:
            yield name, row.step, "live", row.vm_pte_kib, row.res_kib
            yield name, row.step, own, row.model_vm_pte_kib, row.model_res_kib


def _live_rows(shown: "dict[str, list[Shown]]", own: str) -> Iterator[tuple[Any, ...]]:
    for name, rows in shown.items():
        differ = [row.step for row in rows if not row.agrees]
        most = max((row.vm_pte_kib for row in rows), default=0)
        end = rows[-1].vm_pte_kib if rows else 0
        yield name, own, len(rows), len(rows) - len(differ), differ[0] if differ else None, most, end


def _policies(asked: Sequence[str] | None) -> tuple[str, ...]:
    """Policies in their own order; raises UserError."""
    from engine.model.policy import POLICIES

    names = [name.strip() for text in asked or POLICIES for name in text.split(",")]
    for name in names:
        if name not in POLICIES:
            raise UserError(f"--policy: {unknown_name('policy', name, POLICIES)}")
    return tuple(name for name in POLICIES if name in names)


def _steps(play: "TraceReplay", policies: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """A row a step and policy; step 0 maps, and is what the differences are to."""
    for step in play:
        if not play.replay.policies:
            raise UserError(f"{play.path}: an allocator trace records no touches; --touch all bounds VmPTE from above")
        if step:
            for policy in policies:
                yield play.name, step, policy, play.replay.vm_pte_kib(policy), play.replay.res_kib(policy)
    _tell(play)


def _finish(play: "TraceReplay") -> None:
    for _ in play:
        pass
    _tell(play)


def _tell(play: "TraceReplay") -> None:
    """What the table does not hold."""
    for line in play.notes():
        print(f"{play.path}: {line}", file=sys.stderr)


def _by_policy(play: "TraceReplay", policies: tuple[str, ...]) -> Iterable[tuple[Any, ...]]:
    purges = play.histogram.purge_totals()
    for policy in policies:
        calls, size, reached = play.histogram.acting_calls(policy)
        yield (
            *(play.name, policy, purges.calls, calls, _share(calls, purges.calls)),
            *(purges.bytes, size, _share(size, purges.bytes), _share(reached, purges.bytes)),
            *_figures(play, policy),
        )


def _figures(play: "TraceReplay", policy: str) -> tuple[int | None, ...]:
    if not play.replay.policies:
        return None, None, None, None
    end = play.replay.vm_pte_kib(policy), play.replay.res_kib(policy)
    return play.replay.tables_freed(policy), play.replay.vm_pte_kib_max(policy), *end


def _by_size(play: "TraceReplay", policies: tuple[str, ...]) -> Iterable[tuple[Any, ...]]:
    for kind, size, tally in play.histogram.by_size():
        yield (
            *(play.name, kind, size, tally.calls, tally.bytes),
            *(tally.whole_calls, _share(tally.whole_calls, tally.calls)),
            *(tally.whole_bytes, _share(tally.whole_bytes, tally.bytes), tally.whole_slots),
        )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
