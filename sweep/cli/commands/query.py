"""sweep query: SQL over the results. Rows go to stdout, notes and warnings to stderr; the store is only read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import STORE, JsonFormat, Results, missing_store
from sweep.common.errors import UserError, one_line

if TYPE_CHECKING:
    from sweep.query.database import Database
    from sweep.query.named_queries import NamedQuery
    from sweep.query.query_rows import Form

QueryFormat = Literal["table", "csv", "json", "md", "parquet"]
FORMAT_OF_SUFFIX = {".csv": "csv", ".json": "json", ".md": "md", ".parquet": "parquet", ".txt": "table"}
MOST_ROWS = 200


def query(
    sql: Annotated[
        str | None,
        typer.Argument(
            metavar="SQL|FILE.sql|NAME",
            help="A SELECT, a file that holds one, - for stdin, or a named query. Default: list the named queries.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        QueryFormat | None,
        typer.Option("--format", help="Output format; default: by the ending of --output, otherwise table."),
    ] = None,
    as_json: JsonFormat = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write to this file: .csv, .json, .md, .parquet or .txt."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Only this run: its id, the start of its id, or last.")
    ] = None,
    cost: Annotated[
        str,
        typer.Option("--cost", metavar="NAME", help="The cost table behind cost_ns: a name, or a JSON file with one."),
    ] = "published",
    rows: Annotated[
        int,
        typer.Option("--rows", metavar="N", min=0, help="Most rows of a table; 0: all. Other formats print all rows."),
    ] = MOST_ROWS,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, help="Stop after this many seconds; 0: never.")
    ] = 60.0,
    columns: Annotated[
        bool, typer.Option("--columns", help="List the columns of all views: type, unit, meaning.")
    ] = False,
    show_sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL of a named query instead of running it.")
    ] = False,
    results: Results = STORE,
) -> int:
    """Query the results with SQL. Also works while a launch is running.

    Views: outcomes, latest, rounds, points, failures, runs, policies, costs (see --columns).

    Example: sweep query savings --run last --format csv
    """
    form = _choose_format("json" if as_json else format, output)
    if columns:
        output_formats.print_rows(*_view_columns(), form, output)
        return 0
    if sql is None:
        output_formats.print_rows(*_named_query_list(), form, output)
        return 0
    from sweep.query.given_query import find_query

    question = find_query(sql)
    if show_sql:
        output_formats.print_text(question.sql)
        return 0
    most = 0 if output else rows
    with _open_database(question, results, cost, run) as database:
        output_formats.print_missing_baseline(database, question)
        with database.answer(question.sql, timeout or None, _answer_form(form)) as answer:
            for problem in database.problems:
                messages.print_note(f"warning: left out: {problem}")
            left_out = output_formats.print_answer(answer, form, output, most=most, is_ours=bool(question.name))
        output_formats.print_left_out_costs(database, question.sql)
        if not answer.has_rows:
            messages.print_note(f"note: {question.why_empty(database.run_id)}")
    if left_out:
        total = f"{most + left_out:,} rows"
        messages.print_note(f"{left_out:,} more of {total}; --rows 0 or --format csv prints all")
    return 0


def _choose_format(asked: str | None, output: Path | None) -> str:
    """The format that was asked for, else that of the file's ending. Raises UserError if there is none, or another."""
    ending = output.suffix if output else ""
    of_ending = FORMAT_OF_SUFFIX.get(ending.lower())
    known = ", ".join(FORMAT_OF_SUFFIX)
    if output and not of_ending and not asked:
        what = f"the ending {ending!r} is not known" if ending else "has no ending"
        raise UserError(f"-o {one_line(str(output))}: {what}; known: {known} (or add --format)")
    if asked and of_ending not in (None, asked):
        raise UserError(f"-o {one_line(str(output))}: the ending says {of_ending}, but the format is {asked}")
    return asked or of_ending or "table"


def _answer_form(form: str) -> "Form":
    """The form of an answer that is printed in this format."""
    return "csv" if form == "csv" else "parquet" if form == "parquet" else "values"


def _open_database(question: "NamedQuery", results: str, cost: str, run: str | None) -> "Database":
    """Open the rows of the runs that `question` is asked of. Raises UserError, also for a store that does not exist."""
    from sweep.query.database import Database
    from sweep.query.views import views_named_in
    from sweep.store.store import open_store

    if run is not None and not run.strip():
        raise UserError("--run: is empty; give an id, the start of one, or last, or leave it out for all runs")
    store = open_store(results)
    needs_store = bool(set(views_named_in(question.sql)) - {"costs"})
    if needs_store and store.is_local and not store.exists:
        raise UserError(missing_store(store.place, results))
    database = Database(store, cost, run=run)
    if needs_store and not database.has_runs and not store.exists:
        database.close()
        raise UserError(missing_store(store.place, results))
    return database


def _named_query_list() -> tuple[list[str], list[list[str]]]:
    """Column names, and a row for each named query."""
    from sweep.query.named_queries import named_queries

    return ["query", "answers"], [[query.name, query.help] for query in named_queries()]


def _view_columns() -> tuple[list[str], list[list[str]]]:
    """Column names, and a row for each column of each view."""
    from sweep.common.schema import VIEWS

    rows = [[view, c.name, c.type, c.unit, c.meaning] for view, columns in VIEWS.items() for c in columns]
    return ["view", "column", "type", "unit", "meaning"], rows
