"""sweep watch: the progress of a run that another terminal or node launched."""

from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import STORE, AsJson, Quiet, Results

if TYPE_CHECKING:
    from sweep.store.run_directory import RunInfo

EXIT_CODES = {"ok": 0, "failed": 1, "interrupted": 3, "fault": 4}


def watch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run: its id, the start of its id, or last.")] = "last",
    results: Results = STORE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Show the progress of a run that another terminal or node launched, until it ends. Only reads the store.

    The exit code is that of the launch. Ctrl-C ends only the watching.

    Example: sweep watch last --results s3://bucket/prefix
    """
    from sweep.cli.progress import open_progress
    from sweep.run.watch import watch as watch_run
    from sweep.store.store import open_store

    store, progress = open_store(results), open_progress(quiet)
    try:
        info = watch_run(store, run, progress)
    except KeyboardInterrupt:
        messages.print_note("sweep: no longer watched; the run goes on")
        return 0
    if as_json:
        output_formats.print_json(info.row)
    else:
        output_formats.print_line(_text(info))
    return EXIT_CODES.get(info.status, 0)


def _text(info: "RunInfo") -> str:
    todo = f", {info.todo:,} to run" if info.todo else ""
    return f"{info.run_id}: {info.status}; points: {info.ok:,} ok, {info.failed:,} failed{todo}"
