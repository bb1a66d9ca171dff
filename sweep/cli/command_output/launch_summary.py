"""Output of `sweep launch`: what ran, the answer in a sentence, a table, a chart, the next commands; or JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweep.cli import messages, output_formats
from sweep.cli.options import results_option
from sweep.cli.page import PLAIN_WIDTH
from sweep.cli.program_name import as_called
from sweep.common.errors import UserError
from sweep.common.text_bar import bar

if TYPE_CHECKING:
    from sweep.query.answer_sentence import Headline
    from sweep.query.database import Database
    from sweep.query.named_queries import NamedQuery
    from sweep.run.launch import LaunchSummary
    from sweep.store.store import Store
    from sweep.tables.arrow_tables import Table

MODEL_QUERY, KERNEL_QUERY = "savings", "measured"
MOST_ROWS, MOST_BARS = 24, 5
BAR_WIDTH, PERCENT_WIDTH = 23, 9
ADDED_COLUMNS = ("added per freed table", "added per call")
QUERY_OF_AXIS = {
    "zap": "by_zap",
    "zap_shift": "by_shift",
    "sparsity": "by_sparsity",
    "cluster": "by_sparsity",
    "rounds": "growth",
    "threads": "threads",
}
"""The named query that shows more of an axis."""
AXIS_TITLES = {"zap": "calls of", "cluster": "extents of", "virt": "VIRT"}
KNOWN_AS = {
    "seed_inline": "Hildenbrand's proposal of 2024",
    "merged": "Linux 6.14 and later",
}
"""Policies whose name does not say what they are."""


def print_summary(
    summary: "LaunchSummary",
    store: "Store",
    is_kernel: bool,
    results: str,
    *,
    as_json: bool,
    quiet: bool,
    show_sql: bool = False,
) -> None:
    """Print what ran and what came out: sentences, figures of each policy, a chart, and commands that show more.

    `show_sql`: also the SQL of the named query that belongs to the engine; its rows are in the JSON, and for the live
    kernel they are the table.
    """
    from sweep.query.named_queries import named_query

    question = named_query(KERNEL_QUERY if is_kernel else MODEL_QUERY)
    if summary.status == "interrupted":
        if as_json:
            output_formats.print_json(_summary_json(summary, results, question.name, None))
        else:
            _print_run(summary, results)
        return
    try:
        _print_answer_of(summary, store, question, is_kernel, results, as_json=as_json, quiet=quiet)
    except (UserError, MemoryError) as error:  # such as too little memory for SQL: the rows are stored nevertheless
        if as_json:
            output_formats.print_json(_summary_json(summary, results, question.name, None) | {"policies": None})
        why = str(error) if isinstance(error, UserError) else "out of memory"
        command = f"sweep query {question.name} --run {summary.run_id}{results_option(results)}"
        messages.print_note(f"warning: the rows are stored, but no summary could be made: {why}; later: {command}")
    if show_sql:
        output_formats.print_text(f"\n{question.sql.strip()}")


def _print_answer_of(
    summary: "LaunchSummary",
    store: "Store",
    question: "NamedQuery",
    is_kernel: bool,
    results: str,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what needs the run's rows: the answer in sentences, figures, chart, and the next commands; or JSON."""
    from sweep.query.answer_sentence import headline
    from sweep.query.database import Database

    if not as_json:
        _print_run(summary, results)
    with Database(store, run=summary.run_id) as database:
        if not quiet:
            output_formats.print_missing_baseline(database, question)
        if as_json:
            table = database.query(question.sql)
            output_formats.print_json(_summary_json(summary, results, question.name, table))
            return
        answer = headline(database)
        _print_answer(database, answer, question, is_kernel)
        if not quiet:
            output_formats.print_line()
            for command in _next_commands(answer, question, is_kernel, summary.run_id, results):
                output_formats.print_line(command)


def summary_lines(summary: "LaunchSummary", results: str) -> list[str]:
    """The run, its status, points and time, and, if there are any, its failed points."""
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.points.items() if count)
    if not counts:
        counts = f"none finished of {summary.planned:,}" if summary.planned else "none to run"
    done_before = f", {summary.done_before:,} were done" if summary.done_before else ""
    workers = f" ({summary.executor}, {summary.workers} worker{'s' * (summary.workers > 1)})" if summary.workers else ""
    resumed = " (resumed)" if summary.resumed else ""
    lines = [
        f"{summary.run_id}{resumed}: {summary.status}; points: {counts}{done_before}; {summary.seconds:.1f} s{workers}"
    ]
    if summary.failed:
        command = f"sweep query failures --run {summary.run_id}{results_option(results)}"
        lines.append(f"{summary.failed:,} failed in this run: {command}")
        lines.append("to run them again, add --rerun failed to the same command")
    return lines


def _print_run(summary: "LaunchSummary", results: str) -> None:
    for line in summary_lines(summary, results):
        output_formats.print_line(line)


def _summary_json(summary: "LaunchSummary", results: str, question: str, table: "Table | None") -> dict[str, Any]:
    """Return the summary as a JSON object, with the store, the query and its rows.

    `policies`: these rows, empty after an interrupt; null if the query failed
    """
    rows = [] if table is None else table.to_pylist()
    return asdict(summary) | {"results": results, "query": question, "policies": rows}


def _print_answer(database: "Database", answer: "Headline", question: "NamedQuery", is_kernel: bool) -> None:
    """The sentences; the figures of each policy, which a live kernel has measured; the chart."""
    for sentence in answer.sentences:
        output_formats.print_paragraph(sentence)
    if is_kernel and answer.policies:
        output_formats.print_line()
        left_out = output_formats.print_arrow_table(database.query(question.sql), "table", most=MOST_ROWS)
        if left_out:
            output_formats.print_line(f"... {left_out:,} more rows")
        return
    rows = list(_policy_rows(answer))
    if rows:
        output_formats.print_line()
        output_formats.print_rows(("policy", answer.given_back_title, *ADDED_COLUMNS), rows, "table")
        for line in _remarks(answer, database):
            output_formats.print_paragraph(line)
    for line in _chart(database, answer):
        output_formats.print_line(line)


def _policy_rows(answer: "Headline") -> Iterator[tuple[str, ...]]:
    """A row for each policy but `none`, with which the others are compared."""
    from sweep.query.answer_sentence import BASELINE, percent_text

    for figures in answer.policies:
        if figures.policy != BASELINE and figures.given_back is not None:
            added = (figures.added_ns_a_table, figures.added_ns_a_call)
            times = ("-" if ns is None else f"{ns:,.0f} ns" for ns in added)
            yield figures.policy, percent_text(figures.given_back), *times


def _remarks(answer: "Headline", database: "Database") -> Iterator[str]:
    """What the names stand for, and where the costs come from."""
    if answer.moment != "end":
        yield "at work: after the last install, when the process has all its memory"
    names = [f"{policy}: {KNOWN_AS[policy]}" for policy in KNOWN_AS if policy in {f.policy for f in answer.policies}]
    if names:
        yield "; ".join(names)
    if any(figures.added_ns_a_call is not None for figures in answer.policies):
        yield f"added: CPU time beyond that of none; prices: {database.prices.sources}"
        if any((figures.added_ns_a_call or 0) < 0 for figures in answer.policies):
            yield "below 0: a call is done sooner where the tables are gone than where it looks into empty ones"
        if database.leaves_out_huge_pages:
            yield "added leaves out faults and splits of huge pages, which have no price"


def _chart(database: "Database", answer: "Headline") -> Iterator[str]:
    """Yield a bar chart: what the answer's policy gives back along its first axis, and what the best one does.

    The two are side by side where the page is wide enough, else one below the other.
    """
    from sweep.query.answer_sentence import axis_of, percent_text, size_text

    if not answer.axes:
        return
    first = answer.axes[0]
    axes = [first, *([axis_of(database, answer.moment, answer.best, first.column)] if answer.best else [])]
    title = AXIS_TITLES.get(first.column, first.column)
    labels = [size_text(value) if first.is_in_bytes else str(value) for value in first.values]
    label_width = max(map(len, (title, *labels)))
    verb = " gives back" if answer.moment == "end" else " gives back at work"
    heads = [axis.policy + verb for axis in axes]
    page = output_formats.stdout_width()
    width = _bars_width(page, label_width, len(axes))
    side_by_side = max(map(len, heads)) <= width
    if not side_by_side:
        width = max(PERCENT_WIDTH + 1, _bars_width(page, label_width, 1))
    columns = list(zip(heads, axes, strict=True))
    for block in [columns] if side_by_side else [[column] for column in columns]:
        yield ""
        yield f"{title:<{label_width}}  {'  '.join(f'{head:<{width}}' for head, _ in block)}".rstrip()
        for row in _spread(len(labels)):
            given_back = (axis.given_back[row] for _, axis in block)
            bars = (_labelled_bar(percent_text(percent), percent, width) for percent in given_back)
            yield f"{labels[row]:>{label_width}}  {'  '.join(bars)}".rstrip()


def _bars_width(page: int | None, label_width: int, charts: int) -> int:
    """Characters for the percent and the bar of one of `charts` side by side. `page`: None is any width."""
    most = BAR_WIDTH + PERCENT_WIDTH
    return most if page is None else min(most, (page - label_width) // charts - 2)


def _labelled_bar(text: str, percent: float, width: int) -> str:
    drawn = bar(percent / 100, width - PERCENT_WIDTH, in_ascii=output_formats.prints_only_ascii())
    return f"{text:<{PERCENT_WIDTH}}{drawn}".ljust(width)


def _spread(count: int) -> list[int]:
    """At most MOST_BARS of `count` places, the first and the last among them."""
    if count <= MOST_BARS:
        return list(range(count))
    return [round(i * (count - 1) / (MOST_BARS - 1)) for i in range(MOST_BARS)]


def _next_commands(
    answer: "Headline", question: "NamedQuery", is_kernel: bool, run_id: str, results: str
) -> Iterator[str]:
    """Three commands that show more: of the most important axis, of the costs, and of the reader's own process.

    Rows of a kernel have no cost; they are compared with the model's, which are in another run.
    """
    queries = [QUERY_OF_AXIS[axis.column] for axis in answer.axes if axis.column in QUERY_OF_AXIS] or [question.name]
    if answer.moment != "end":
        queries = ["at_peak"]
    of_run = f"--run {run_id}{results_option(results)}"
    beside_the_model = (f"sweep query kernels{results_option(results)}", "kernels beside the model")
    second = beside_the_model if is_kernel else (f"sweep query cost {of_run}", "what each policy costs")
    commands = {
        f"sweep query {queries[0]} {of_run}": "more of this",
        second[0]: second[1],
        "sweep advise --virt 55t --res 590g --vmpte 110g": "a process",
    }
    for command, shows in commands.items():
        line = f"{command}  # {shows}"
        yield line if len(as_called(line)) <= PLAIN_WIDTH else command
