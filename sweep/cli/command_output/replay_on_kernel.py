"""`sweep replay --engine kernel`: kernel traces on the live kernel, or on kernels in guests, beside the model."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from engine.kernel.huge_page_events import read_events
from sweep.cli import messages, output_formats
from sweep.cli.command_output.replay_steps import MOST_ROWS, STEP_COLUMNS
from sweep.common.errors import UserError
from sweep.kernel.kernel_replay import StepComparison, compare_steps, probe_policy, read_trace, thp_setting
from sweep.kernel.open_kernels import TRACE_NEEDS, guest_of, open_named
from sweep.trace_readers.trace_reader import trace_names

Row = tuple[Any, ...]

KERNEL_COLUMNS = ("trace", "policy", "steps", "agree", "first_to_differ", "vm_pte_kib_max", "vm_pte_kib_end")


def replay_on_kernel(
    traces: Sequence[str],
    policy: Sequence[str] | None,
    touch: str,
    thp: str | None,
    steps: bool,
    form: str,
    names: Sequence[str],
) -> int:
    """Run traces on kernels beside the model under each kernel's policy. Returns 1 if they differ."""
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


def _kernel_step_rows(steps_by_trace: dict[str, list[StepComparison]], policy: str) -> Iterator[Row]:
    for name, steps in steps_by_trace.items():
        for step in steps:
            yield name, step.step, "live", *step.live
            yield name, step.step, policy, *step.model


def _kernel_rows(steps_by_trace: dict[str, list[StepComparison]], policy: str) -> Iterator[Row]:
    for name, steps in steps_by_trace.items():
        differ = [step.step for step in steps if not step.agrees]
        largest = max((step.live.vm_pte_kib for step in steps), default=0)
        end = steps[-1].live.vm_pte_kib if steps else 0
        yield name, policy, len(steps), len(steps) - len(differ), differ[0] if differ else None, largest, end
