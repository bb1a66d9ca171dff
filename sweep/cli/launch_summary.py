"""Output of `sweep launch`: what ran, and the table of what each policy saves, as text or as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweep.cli import output_formats
from sweep.cli.options import results_option

if TYPE_CHECKING:
    from sweep.query.named_queries import NamedQuery
    from sweep.run.launch import LaunchSummary
    from sweep.store.arrow_tables import Table
    from sweep.store.store import Store

MODEL_QUERY, KERNEL_QUERY = "savings", "measured"
MOST_ROWS = 24


def print_summary(
    summary: "LaunchSummary", store: "Store", is_kernel: bool, results: str, *, as_json: bool, quiet: bool
) -> None:
    """Print what ran, the rows of the named query that belongs to the engine, and the command that repeats it."""
    from sweep.query.named_queries import named_query

    question = named_query(KERNEL_QUERY if is_kernel else MODEL_QUERY)
    table = None if summary.status == "interrupted" else _run_query(store, summary.run_id, question, quiet)
    if as_json:
        output_formats.print_json(_summary_json(summary, results, question.name, table))
        return
    for line in summary_lines(summary, results):
        output_formats.print_line(line)
    if table is not None and table.num_rows:
        output_formats.print_text(f"\n{question.help}\n")
        output_formats.print_line()
        left_out = output_formats.print_arrow_table(table, "table", most=MOST_ROWS)
        if left_out:
            output_formats.print_line(f"... {left_out:,} more rows")
        command = f"sweep query {question.name} --run {summary.run_id}{results_option(results)}"
        output_formats.print_text(f"\n{command}\n\n{question.sql.strip()}")


def summary_lines(summary: "LaunchSummary", results: str) -> list[str]:
    """The run, its points, its time and, if there are any, its failed points."""
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.points.items() if count)
    if not counts:
        counts = f"none finished of {summary.planned:,}" if summary.planned else "none to run"
    done_before = f"; {summary.done_before:,} were done" if summary.done_before else ""
    workers = f"{summary.workers} worker{'s' * (summary.workers > 1)}"
    executor = f" on {summary.executor}, {workers}" if summary.workers else ""
    lines = [
        f"run      {summary.run_id}{' (resumed)' if summary.resumed else ''}: {summary.status}",
        f"points   {counts}{done_before}",
        f"seconds  {summary.seconds:.1f}{executor}",
    ]
    if summary.failed:
        command = f"sweep query failures --run {summary.run_id}{results_option(results)}"
        lines.append(f"failed   {summary.failed:,} in this run: {command}")
        lines.append("         to run them again, add --rerun failed to the same command")
    return lines


def _summary_json(summary: "LaunchSummary", results: str, question: str, table: "Table | None") -> dict[str, Any]:
    """`policies`: the rows of the query, empty after an interrupt."""
    rows = [] if table is None else table.to_pylist()
    return asdict(summary) | {"results": results, "query": question, "policies": rows}


def _run_query(store: "Store", run_id: str, question: "NamedQuery", quiet: bool) -> "Table":
    from sweep.query.database import Database

    with Database(store, run=run_id) as database:
        if not quiet:
            output_formats.print_missing_baseline(database, question)
        return database.query(question.sql)
