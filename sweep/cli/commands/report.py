"""sweep report: one HTML page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import messages
from sweep.cli.options import STORE, Results


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run: its id, the start of its id, or last.")] = "last",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page; default: RUN.html.")
    ] = None,
    cost: Annotated[
        str,
        typer.Option("--cost", metavar="NAME", help="The cost table behind cost_ns: a name, or a JSON file with one."),
    ] = "published",
    results: Results = STORE,
) -> int:
    """Write a page about a run: its question, the answer, pictures, tables, and the SQL behind them.

    The page is one file that needs no network.

    Example: sweep report last -o page.html
    """
    from sweep.common.units import human_size
    from sweep.plot import picture_file
    from sweep.report.html_page import html
    from sweep.report.report_content import report as make_page
    from sweep.store.store import open_store

    if output is not None:
        picture_file.check_ending(output, picture_file.PAGE_ENDINGS)
    store = open_store(results)
    info = store.find(run)
    path = output or Path(f"{info.run_id}.html")
    page = html(make_page(store, info, cost, None if results == STORE else results))
    picture_file.write_file(path, page)
    messages.print_note(f"wrote {path}, {human_size(len(page))}")
    return 0
