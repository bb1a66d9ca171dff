"""sweep plot: a picture of a run, as a file or as bars in the terminal."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import STORE, Results

if TYPE_CHECKING:
    from sweep.plot.chart import Chart


def plot(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run: its id, the start of its id, or last.")] = "last",
    x: Annotated[
        str | None, typer.Option("--x", metavar="COLUMN", help="Along the x axis; default: an axis of the grid.")
    ] = None,
    y: Annotated[
        str | None,
        typer.Option(
            "--y",
            metavar="COLUMNS",
            help="What is drawn, as averages over all other axes; several, with commas, are a series each.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="COLUMN", help="A series for each of its values; default: policy.")
    ] = None,
    facet: Annotated[
        str | None, typer.Option("--facet", metavar="COLUMN", help="A panel for each of its values.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            "--query", metavar="SQL|FILE.sql|NAME", help="Draw the rows of this query; the options name its columns."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write a picture: .svg, .png, .pdf or .html. Default: print bars."
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="The picture's heading; default: what is drawn.")
    ] = None,
    cost: Annotated[
        str,
        typer.Option("--cost", metavar="NAME", help="The cost table behind cost_ns: a name, or a JSON file with one."),
    ] = "published",
    columns: Annotated[bool, typer.Option("--columns", help="List what can be drawn: name, unit, meaning.")] = False,
    show_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of the picture, too.")] = False,
    results: Results = STORE,
) -> int:
    """Draw a run.

    Axes are chosen from what varies in the grid where they are not given.

    Example: sweep plot last --x zap --facet cluster -o saved.svg
    """
    from sweep.plot import draw, picture_file
    from sweep.plot.request import PlotRequest, known_quantities
    from sweep.query.database import Database
    from sweep.query.given_query import find_query
    from sweep.store.store import open_store

    if output is not None:
        picture_file.check_ending(output)
    store = open_store(results)
    info = store.find(run)
    if columns:
        known = known_quantities(info).values()
        output_formats.print_rows(("column", "unit", "meaning"), ((q.name, q.unit, q.meaning) for q in known), "table")
        return 0
    question = find_query(query) if query is not None else None
    wanted = PlotRequest(x, tuple(name.strip() for name in y.split(",")) if y is not None else (), by, facet)
    with Database(store, cost, run=info.run_id) as database:
        if question is None:
            chart = draw.draw_run(database, info, wanted, may_facet=output is not None)
        else:
            chart = draw.draw_query(database, info, question, wanted)
        output_formats.print_left_out_costs(database, chart.sql)
        for problem in database.problems:
            messages.print_note(f"warning: left out: {problem}")
    if title is not None:
        chart = replace(chart, title=title)
    if output is None:
        _print(chart)
    else:
        from sweep.report.html_page import write_chart

        write_chart(chart, output)
        messages.print_note(f"wrote {output}")
    if show_sql:
        output_formats.print_text(f"\n{chart.sql}")
    return 0


def _print(chart: "Chart") -> None:
    from sweep.plot import text_chart

    width = shutil.get_terminal_size((80, 24)).columns
    for line in text_chart.lines(chart, width, in_ascii=output_formats.prints_only_ascii()):
        output_formats.print_line(line)
