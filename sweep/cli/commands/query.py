"""sweep query: SQL over the results. Data to stdout, words to stderr, nothing is written to the store."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.cli.options import STORE, AsJson, Results
from sweep.common.errors import UserError, printable

if TYPE_CHECKING:
    from sweep.query.named_queries import NamedQuery
    from sweep.store.arrow_tables import Table

Format = Literal["table", "csv", "json", "md", "parquet"]
FORMAT_OF = {".csv": "csv", ".json": "json", ".md": "md", ".parquet": "parquet", ".txt": "table"}
MOST_ROWS = 200


def query(
    sql: Annotated[
        str | None,
        typer.Argument(
            metavar="SQL|FILE.sql|NAME",
            help="One SELECT, a file with one, - for stdin, or a named query. Without it: the named queries.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        Format | None, typer.Option("--format", help="How to print; default: table, or by the name of --output.")
    ] = None,
    as_json: AsJson = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there instead of stdout.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Only this run: an id, the start of one, or last.")
    ] = None,
    cost: Annotated[
        str, typer.Option("--cost", metavar="NAME", help="The cost table behind cost_ns, or a JSON file with one.")
    ] = "published",
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, help="Most rows of a table; 0: all. Other formats print all.")
    ] = MOST_ROWS,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, help="Stop after this many seconds; 0: never.")
    ] = 60.0,
    columns: Annotated[bool, typer.Option("--columns", help="List every view's columns: type, unit, meaning.")] = False,
    show_sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL of a named query instead of running it.")
    ] = False,
    results: Results = STORE,
) -> int:
    """SQL over the results: text, file or named query.

    Views: outcomes, latest, rounds, points, failures, runs, costs (see --columns). Works while a sweep runs.
    """
    from sweep.cli import output_formats

    chosen = _format("json" if as_json else format, output)
    if columns:
        output_formats.write_to(output, *_columns(), chosen)
        return 0
    if sql is None:
        output_formats.write_to(output, *_questions(), chosen)
        return 0
    question = _question(sql)
    if show_sql:
        print(question.sql.rstrip())
        return 0
    table = _ask(question, results, cost, run, timeout or None)
    left_out = output_formats.write_arrow(table, chosen, output, most=0 if output else rows)
    if left_out:
        print(f"{left_out:,} more of {table.num_rows:,} rows; --rows 0 or --format csv prints all", file=sys.stderr)
    return 0


def _ask(question: "NamedQuery", results: str, cost: str, run: str | None, seconds: float | None) -> "Table":
    from sweep.cli import output_formats
    from sweep.query.database import Database
    from sweep.query.views import views_named_in
    from sweep.store.store import open_store

    if run is not None and not run.strip():
        raise UserError("--run: is empty; give an id, the start of one, or last, or leave it out for all runs")
    store = open_store(results)
    if not store.exists and set(views_named_in(question.sql)) - {"costs"}:
        raise UserError(f"{store.root}: no store there; look at --results, or launch a grid: sweep launch GRID")
    with Database(store, cost, run=run) as database:
        output_formats.print_missing_baseline(database, question)
        table = database.query(question.sql, seconds)
        for problem in database.problems:
            print(f"warning: left out: {printable(problem)}", file=sys.stderr)
        return table


def _question(wanted: str) -> "NamedQuery":
    """SQL from what was given: stdin, a file, a name, or itself."""
    from sweep.query.named_queries import NamedQuery, named_query

    word = wanted.strip()
    if word.replace("_", "").replace("-", "").isalnum():
        return named_query(word)
    is_file = wanted.endswith(".sql") and not any(letter.isspace() for letter in word)
    return NamedQuery("", "", _read(wanted) if wanted == "-" or is_file else wanted)


def _read(source: str) -> str:
    """A file's text, stdin's for `-`. Raises UserError."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{'stdin' if source == '-' else source}: byte {error.start} is not UTF-8 text") from error


def _format(asked: str | None, output: Path | None) -> str:
    return asked or (FORMAT_OF.get(output.suffix, "table") if output else "table")


def _questions() -> tuple[list[str], list[list[str]]]:
    from sweep.query.named_queries import named_queries

    return ["query", "answers"], [[query.name, query.help] for query in named_queries()]


def _columns() -> tuple[list[str], list[list[str]]]:
    from sweep.common.schema import VIEWS

    rows = [[view, c.name, c.type, c.unit, c.meaning] for view, columns in VIEWS.items() for c in columns]
    return ["view", "column", "type", "unit", "meaning"], rows
