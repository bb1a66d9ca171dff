"""sweep record: record what a program does with its memory. Notes go to stderr; the recording is a file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import messages, output_formats
from sweep.cli.signals import INTERRUPTED
from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.record.session import Outcome

ENDING = ".rec.gz"
MANY = 3
"""Above so many processes the rows of one are proposed."""


def record(
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- PROGRAM [ARG...]", help="The program to run.", show_default=False),
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option("--pid", metavar="PID", min=1, help="Record a process that runs, instead of a program."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="N", min=0.0, help="With --pid: stop after so many seconds.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=f"A new file, compressed if it ends in .gz. Default: the program's name and {ENDING}.",
            show_default=False,
        ),
    ] = None,
    bpftrace: Annotated[
        bool,
        typer.Option(
            "--bpftrace",
            help="Record nothing; print a bpftrace script that records calls, of bpftrace -c PROGRAM or of --pid.",
        ),
    ] = False,
) -> int:
    """Record a program's calls on memory and the pages that it touches; sweep replay computes VmPTE from them.

    The program is stopped at each such call, and its pages are read before it gives memory back; ten times a second
    all its pages and VmPTE are read. Child processes are recorded too. Ctrl-C ends a program that was started, and
    lets a process that ran before run on; what was recorded is kept.

    Example: sweep record -o sort.rec.gz -- sort /etc/services
    """
    from engine.traces.page_tables import PAGE
    from sweep.process.proc import read_thp_setting
    from sweep.process.reclaim_probe import kernel_policy
    from sweep.process.table_census import host_arch
    from sweep.record import session
    from sweep.record.recording_writer import RecordingWriter

    if bpftrace:
        if program or seconds is not None or output is not None:
            raise UserError("--bpftrace: prints a script; of the other options only --pid goes with it")
        output_formats.print_text(session.bpftrace_script(pid))
        return 0
    if bool(program) == (pid is not None):
        raise UserError("record: give either -- PROGRAM [ARG...] or --pid PID")
    if seconds is not None and pid is None:
        raise UserError("--seconds: needs --pid PID; a program is recorded to its end")
    arch = host_arch()
    if arch.page_bytes != PAGE:
        raise UserError(f"record: this machine is {arch.name}; recordings are of pages of 4 KiB")
    path = session.find_program(program[0]) if program else ""
    name = Path(path).name if program else session.check_process(pid or 0)
    facts = {
        "kernel": f"{os.uname().release} {os.uname().machine}",
        "frees": kernel_policy(),
        "thp": read_thp_setting(),
    }
    writer = RecordingWriter(output or Path(name.replace("/", "_") + ENDING))
    try:
        writer.header(facts, session.header_comment(program or ["--pid", str(pid)]))
        if program:
            outcome = session.record_program(path, program, writer)
        else:
            outcome = session.record_process(pid or 0, seconds, writer)
        writer.close()
    except UserError:
        writer.remove()
        raise
    except OSError as error:
        raise UserError(
            f"{writer.path}: {error.strerror or error}; the file has what was recorded until then"
        ) from None
    for line in _notes(outcome, name, writer.path):
        messages.print_note(f"sweep record: {line}")
    return INTERRUPTED if outcome.was_interrupted else 0


def _notes(outcome: "Outcome", name: str, path: Path) -> "list[str]":
    lines = []
    if outcome.was_interrupted:
        lines.append("interrupted; what was recorded is kept")
    if outcome.exit is not None:
        code = os.waitstatus_to_exitcode(outcome.exit)
        lines.append(f"{name} {f'was killed by signal {-code}' if code < 0 else f'exited with {code}'}")
    which = " --process largest" if outcome.processes > MANY else ""
    lines.append(
        f"wrote {path}: {outcome.calls:,} calls of {outcome.processes:,} processes in {outcome.seconds:.1f} s, "
        f"{outcome.moments:,} moments, {path.stat().st_size:,} bytes; see sweep replay {path}{which}"
    )
    return lines
