"""The tables of `sweep replay`: by policy, by size of call, and by moment of a recording by `sweep record`."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from engine.model.policy import Policy
from engine.traces.trace_rules import trace_rule
from sweep.cli import messages, output_formats
from sweep.common.errors import UserError
from sweep.traces.call_histogram import CallHistogram
from sweep.traces.process_replay import ProcessReplay
from sweep.traces.trace_replay import TraceReplay, selected, total_figures

Row = tuple[Any, ...]

POLICY_COLUMNS = (
    *("policy", "zap_calls", "acting", "acting_share", "zapped_bytes", "acting_bytes"),
    *("acting_bytes_share", "reached_bytes_share", "tables_freed", "vm_pte_kib_max", "vm_pte_kib_end", "res_kib_end"),
)
SIZE_COLUMNS = (
    *("call", "size", "calls", "bytes", "whole_calls", "whole_calls_share"),
    *("whole_bytes", "whole_bytes_share", "whole_slots"),
)
MOMENT_COLUMNS = ("trace", "process", "seconds", "seen_kib_least", "seen_kib_most", "computed_kib", "agrees")
LEFT_OUT = ("acting_share", "acting_bytes", "acting_bytes_share", "reached_bytes_share")
"""Columns that are not printed in a table of many processes, so that a row is a line."""
MOST_MOMENTS = 12
ROWS_ON_A_PAGE = 24
"""Most rows by policy of one recording, with those of the other processes and of the sum."""


class Part(NamedTuple):
    """What a row of a table is about: a process of a trace, or several together, such as `sum`."""

    trace: str
    process: str | None
    program: str
    histogram: CallHistogram
    figures: dict[str, dict[str, int]]

    def place(self, with_process: bool) -> Row:
        return (self.trace, self.process, self.program) if with_process else (self.trace,)


def processes_on_a_page(policies: int) -> int:
    """How many processes of a recording fit on a page by themselves in a table of so many policies."""
    return max(1, ROWS_ON_A_PAGE // policies - 2)


def parts_of(replay: TraceReplay, choice: str, most: int | None) -> list[Part]:
    """Replay a trace to its end; the processes that were chosen, and their sum if they are several.

    most: how many processes are by themselves, those with most page tables, if not all; the others are together
    """
    for _ in replay:
        pass
    print_notes(replay)
    processes = selected(replay, choice)
    shown, others = processes, list[ProcessReplay]()
    if most is not None and len(processes) > most + 1:
        processes = sorted(processes, key=_weight, reverse=True)
        shown, others = processes[:most], processes[most:]
    parts = [Part(replay.name, replay.label(p), p.program, p.histogram, p.figures) for p in shown]
    if others:
        parts.append(_together(replay, f"{len(others):,} others", others))
        messages.print_note(
            f"{replay.path}: the processes with most page tables are shown; --process all shows all, with all columns"
        )
    if len(processes) > 1:
        parts.append(_together(replay, "sum", processes))
    return parts


def _weight(process: ProcessReplay) -> tuple[int, int]:
    """The most page tables that a process has under any policy; where they are unknown, what it mapped."""
    vm_pte_kib = max((figures["vm_pte_kib_max"] for figures in process.figures.values()), default=0)
    return vm_pte_kib, process.max_mapped_bytes


def _together(replay: TraceReplay, name: str, processes: Sequence[ProcessReplay]) -> Part:
    return Part(replay.name, name, "", replay.histogram_of(processes), total_figures(processes))


def print_notes(replay: TraceReplay) -> None:
    for note in replay.notes():
        messages.print_note(f"{replay.path}: {note}")


def print_table(
    table: str, parts: Sequence[Part], policies: Sequence[Policy], form: str, *, with_process: bool
) -> None:
    """Print the table `policy` or `size`; of many processes, some of them together, with fewer columns and rows."""
    columns: tuple[str, ...]
    if table == "policy":
        rows = [(*part.place(with_process), *row) for part in parts for row in policy_rows(part, policies)]
        columns = POLICY_COLUMNS
    else:
        shown = [part for part in parts if part.process == "sum"] if any(map(_is_of_others, parts)) else parts
        rows = [(*part.place(with_process), *row) for part in shown for row in size_rows(part)]
        columns = SIZE_COLUMNS
    columns = (*(("trace", "process", "program") if with_process else ("trace",)), *columns)
    if any(map(_is_of_others, parts)):
        kept = [i for i, column in enumerate(columns) if column not in LEFT_OUT]
        columns, rows = tuple(columns[i] for i in kept), [tuple(row[i] for i in kept) for row in rows]
    output_formats.print_rows(columns, rows, form)


def _is_of_others(part: Part) -> bool:
    return part.process is not None and part.process.endswith(" others")


def policy_rows(part: Part, policies: Sequence[Policy]) -> Iterable[Row]:
    zaps = part.histogram.zap_totals()
    for policy in policies:
        calls, size, reached = part.histogram.acting_calls(trace_rule(policy, part.histogram.geometry))
        figures = part.figures.get(policy.name, {})  # none for a trace without page accesses
        yield (
            *(policy.name, zaps.calls, calls, _share(calls, zaps.calls)),
            *(zaps.bytes, size, _share(size, zaps.bytes), _share(reached, zaps.bytes)),
            *(figures.get(name) for name in ("pte_tables_freed", "vm_pte_kib_max", "vm_pte_kib_end")),
            figures["res_bytes_end"] >> 10 if figures else None,
        )


def size_rows(part: Part) -> Iterable[Row]:
    for kind, size, totals in part.histogram.by_size():
        yield (
            *(kind, size, totals.calls, totals.bytes),
            *(totals.whole_calls, _share(totals.whole_calls, totals.calls)),
            *(totals.whole_bytes, _share(totals.whole_bytes, totals.bytes), totals.whole_slots),
        )


def _share(part: int, total: int) -> float | None:
    return round(part / total, 4) if total else None


def print_moments(replays: Sequence[TraceReplay], process: str, form: str) -> int:
    """Print VmPTE as it was seen beside what is computed. Raises UserError if it was not recorded."""
    for replay in replays:
        if not replay.moments:
            raise UserError(
                f"{replay.path}: has no VmPTE to compare with; sweep record writes it, and the policy of the recorded "
                "kernel must be among those of --policy"
            )
    print_moment_table(replays, process, form)
    return 0


def print_moment_table(replays: Sequence[TraceReplay], process: str, form: str) -> None:
    """A row for each moment; on a page at most MOST_MOMENTS: those that do not agree, and evenly chosen ones."""
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
