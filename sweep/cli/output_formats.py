"""What a command prints to stdout: rows as a table, CSV, JSON, Markdown or Parquet, and lines of text.

Commands print only through this module and, to stderr, through sweep.cli.messages. sweep.cli.output_streams makes
control characters visible in all that is printed; here line ends within a value are, so that no value forges a line.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sweep.cli.messages import print_note
from sweep.cli.page import page_width
from sweep.cli.program_name import as_called
from sweep.cli.row_formats import LAYOUT_ROWS, Rows, UnixLineEnds, write_csv, write_json, write_markdown
from sweep.cli.tables.table_layout import lay_out
from sweep.cli.tables.text_wrapping import wrapped
from sweep.cli.tables.value_text import plain, readable, unique_names
from sweep.common import atomic_write
from sweep.common.errors import UserError, printable

if TYPE_CHECKING:
    from sweep.query.database import Database
    from sweep.query.named_queries import NamedQuery
    from sweep.query.query_rows import Answer
    from sweep.tables.arrow_tables import Table

FORMATS = ("table", "csv", "json", "md")


def stdout_width() -> int | None:
    """Columns that a line on stdout may take; None if any width will do."""
    return page_width(sys.stdout)


def prints_only_ascii() -> bool:
    """Whether stdout's encoding may lack characters beyond ASCII."""
    return "utf" not in (sys.stdout.encoding or "").lower()


def print_line(text: str = "") -> None:
    """Print one line to stdout. Line ends in `text` are made visible too, so that no value can forge a line."""
    print(printable(as_called(text)))


def print_paragraph(text: str, indent: str = "") -> None:
    """Print a sentence in lines that fit the page, all but the first indented."""
    for line in wrapped(printable(as_called(text)), page_width(sys.stdout), indent):
        print(line)


def print_text(text: str) -> None:
    """Print text of several lines to stdout."""
    print(text.rstrip("\n"))


def print_json(value: Any) -> None:
    """Print a value as indented JSON to stdout."""
    print(json.dumps(plain(value), indent=1, ensure_ascii=False))


def confirm(question: str) -> bool:
    """Ask a yes-or-no question on the terminal; anything but y and yes is a no."""
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_rows(
    names: Sequence[str], rows: Rows, form: str, path: Path | None = None, *, most: int = 0, is_ours: bool = True
) -> int:
    """Write rows in one of FORMATS to stdout or to a file. Returns how many rows were left out, as `write_rows`."""
    if form not in FORMATS:
        raise UserError(f"--format {form} is for the rows of a query; choose {', '.join(FORMATS)}")
    with _opened(path) as out:
        return write_rows(names, rows, form, out, most=most, is_ours=is_ours)


def print_answer(answer: "Answer", form: str, path: Path | None = None, *, most: int = 0, is_ours: bool = True) -> int:
    """Write the answer to a query as it arrives: its form is csv, parquet or values. Returns as `write_rows`."""
    if form == "parquet":
        _print_parquet(answer, path)
        return 0
    if form == "csv":
        with _opened(path) as out:
            csv.writer(UnixLineEnds(out), lineterminator="\r\n").writerow(map(readable, answer.names))
            for lines in answer.lines():
                out.write("\n".join(lines) + "\n")
        return 0
    if form == "table" and most:
        rows, left_out = answer.head(most)
        print_rows(answer.names, rows, form, path, is_ours=is_ours)
        return left_out
    return print_rows(answer.names, answer.rows(), form, path, is_ours=is_ours)


def _print_parquet(answer: "Answer", path: Path | None) -> None:
    from sweep.tables import parquet

    names = unique_names(answer.names)
    if path is not None:
        with _replaced(path) as target:
            parquet.write_batches(names, answer.schema, answer.batches, target)
    elif sys.stdout.isatty():
        raise UserError("--format parquet is not for a terminal; add -o FILE, or redirect the output")
    else:
        parquet.write_batches(names, answer.schema, answer.batches, sys.stdout.buffer)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Context with a text stream to a file, or to stdout."""
    if path is None:
        yield sys.stdout
        return
    with _replaced(path) as target, target.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Context with a path to write to. A file is replaced only if all is written; a pipe or device is written to."""
    try:
        with atomic_write.writing(path) as target:
            yield target
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def print_arrow_table(
    table: "Table", form: str, path: Path | None = None, *, most: int = 0, is_ours: bool = True
) -> int:
    """As `print_rows`, for an Arrow table."""
    from sweep.tables import arrow_tables

    return print_rows(table.column_names, arrow_tables.iter_rows(table), form, path, most=most, is_ours=is_ours)


def print_missing_baseline(database: "Database", question: "NamedQuery") -> None:
    """Name on stderr the runs that a named query leaves out because they have no row of the policy `none`."""
    for run_id in database.runs_without_none() if question.compares_with_none else ():
        advice = f"which {question.name} compares with; add it to the grid's policies"
        print_note(f"note: {run_id} has no policy none, {advice}")


def print_left_out_costs(database: "Database", sql: str) -> None:
    """Say on stderr if the SQL computes costs of points with huge pages, part of which have no price."""
    if "cost_ns" in sql.lower() and database.leaves_out_huge_pages:
        where = f"cost table {database.prices.name}"
        print_note(f"note: cost_ns leaves out faults and splits of huge pages (thp: always): no price in {where}")


def write_rows(
    names: Sequence[str], rows: Rows, form: str, out: TextIO, *, most: int = 0, is_ours: bool = False
) -> int:
    """Write rows in one of FORMATS to a stream.

    A table has at most `most` rows (0: all), and fits the page (`is_ours`: see table_layout). Returns how many rows
    were left out.
    """
    if form == "table":
        return _write_table(names, rows, out, most, is_ours)
    writers: dict[str, Callable[[Sequence[str], Rows, TextIO], None]] = {
        "csv": write_csv,
        "json": write_json,
        "md": write_markdown,
    }
    writers[form](names, rows, out)
    return 0


def _write_table(names: Sequence[str], rows: Rows, out: TextIO, most: int, is_ours: bool) -> int:
    """Write aligned columns, numbers to the right, in lines that fit the page."""
    rows = iter(rows)
    if most:
        written = list(islice(rows, most))
        out.writelines(_table_lines(names, written, out, is_ours))
        return sum(1 for _ in rows)
    written = list(islice(rows, LAYOUT_ROWS))
    out.writelines(_table_lines(names, written, out, is_ours))
    while written := list(islice(rows, LAYOUT_ROWS)):
        out.write("\n")
        out.writelines(_table_lines(names, written, out, is_ours))
    return 0


def _table_lines(names: Sequence[str], rows: Sequence[Sequence[Any]], out: TextIO, is_ours: bool) -> Iterator[str]:
    return (f"{line}\n" for line in lay_out(names, rows, readable, page_width(out), is_ours=is_ours))
