"""The table of `sweep replay --steps`: a row for each step and policy."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from sweep.cli import messages, output_formats
from sweep.cli.command_output.replay_tables import print_notes
from sweep.common.errors import UserError
from sweep.traces.trace_replay import TraceReplay, is_selected, records_processes

Row = tuple[Any, ...]

STEP_COLUMNS = ("trace", "step", "policy", "vm_pte_kib", "res_kib", "anon_huge_kib")
MOST_ROWS = 1_000


def print_steps(replays: Sequence[TraceReplay], process: str, form: str) -> None:
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


def _step_rows(replay: TraceReplay, choice: str) -> Iterator[Row]:
    """A row per step and policy, without step 0, which sets up the mappings. Prints notes after the last step."""
    for step, process in replay:
        if not replay.counts:
            raise UserError(f"{replay.path}: this recording has no touches; --touch all bounds VmPTE from above")
        if step and is_selected(replay, process, choice):
            state = process.replay
            for policy in state.policies:
                figures = state.vm_pte_kib(policy), state.res_kib(policy), state.anon_huge_kib(policy)
                yield replay.name, replay.label(process), step, policy, *figures
    print_notes(replay)
