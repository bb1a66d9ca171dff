"""What came of a launch: in words and the table that answers most questions, or as JSON."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweep.cli.options import elsewhere

if TYPE_CHECKING:
    from sweep.query.named_queries import NamedQuery
    from sweep.run.launch import LaunchSummary
    from sweep.store.arrow_tables import Table
    from sweep.store.store import Store

QUESTION, MEASURED = "savings", "measured"
MOST_ROWS = 24


def tell(summary: "LaunchSummary", store: "Store", live: bool, results: str, *, as_json: bool, quiet: bool) -> None:
    """The summary, what each policy saves, and how to ask for that again."""
    from sweep.query.named_queries import named_query

    question = named_query(MEASURED if live else QUESTION)
    table = None if summary.status == "interrupted" else _answer(store, summary.run_id, question, quiet)
    if as_json:
        print(json.dumps(facts(summary, results, question.name, table), indent=1, ensure_ascii=False))
        return
    for line in told(summary, results):
        print(line)
    if table is not None and table.num_rows:
        print(f"\n{question.help}\n")
        _show(table)
        print(f"\nsweep query {question.name} --run {summary.run_id}{elsewhere(results)}\n")
        print(question.sql.strip())


def told(summary: "LaunchSummary", results: str) -> list[str]:
    """The run, its points, its time, in three lines or so."""
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.points.items() if count)
    if not counts:
        counts = f"none finished of {summary.planned:,}" if summary.planned else "none to run"
    before = f"; {summary.done_before:,} were done" if summary.done_before else ""
    some = f"{summary.workers} worker{'s' * (summary.workers > 1)}"
    workers = f" on {summary.executor}, {some}" if summary.workers else ""
    lines = [
        f"run      {summary.run_id}{' (gone on with)' if summary.resumed else ''}: {summary.status}",
        f"points   {counts}{before}",
        f"seconds  {summary.seconds:.1f}{workers}",
    ]
    if summary.failed:
        ask = f"sweep query failures --run {summary.run_id}{elsewhere(results)}"
        lines.append(f"failed   {summary.failed:,} in this run: {ask}")
        lines.append("         the same command with --rerun failed tries them again")
    return lines


def facts(summary: "LaunchSummary", results: str, question: str, table: "Table | None") -> dict[str, Any]:
    """The same for --json; each policy's savings are the rows of the question, none after an interrupt."""
    from sweep.cli.output_formats import plain

    rows = [] if table is None else [plain(row) for row in table.to_pylist()]
    return asdict(summary) | {"results": results, "query": question, "policies": rows}


def _answer(store: "Store", run_id: str, question: "NamedQuery", quiet: bool) -> "Table":
    from sweep.cli.output_formats import print_missing_baseline
    from sweep.query.database import Database

    with Database(store, run=run_id) as database:
        if not quiet:
            print_missing_baseline(database, question)
        return database.query(question.sql)


def _show(table: "Table") -> None:
    from sweep.cli.output_formats import write

    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    left_out = write(table.column_names, rows, "table", sys.stdout, most=MOST_ROWS)
    if left_out:
        print(f"... {left_out:,} more rows")
