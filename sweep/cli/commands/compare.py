"""sweep compare: two runs, row by row. Tables go to stdout, notes to stderr; exit code 5 if the second is worse."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli import messages, output_formats
from sweep.cli.options import STORE, AsJson, Results, results_option

if TYPE_CHECKING:
    from sweep.comparison.compare import Comparison, Timing
    from sweep.store.run_directory import RunInfo

REGRESSION = 5
MOST_ROWS = 10
COLUMNS = ("column", "rows", "worse", "better", "a_total", "b_total")
EXAMPLE_COLUMNS = ("a", "b", "policy", "point")
SHIFT_COLUMNS = ("ratio", "low", "high", "delta", "p", "q")
VERDICTS = ("slower", "faster", "not told apart", "too few times")
"""Verdicts of a group of times, in the order of the table: the most certain first."""


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="The run to compare with: its id, the start of its id, last, or STORE/RUN; also RUN@RELEASE.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The run that may be worse.")],
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, help="Most rows of each table; 0: all.")
    ] = MOST_ROWS,
    as_json: AsJson = False,
    results: Results = STORE,
) -> int:
    """Compare two runs: what differs in B, and whether it is worse. The exit code is 5 if it is.

    Rows with the same scenario, seed, policy and engine are compared, whatever the version of the model. STORE/RUN is
    a run of another store. If the runs have no seed in common, rows are paired by all other values: their counters
    then differ by chance, and are not judged. RUN@RELEASE are the rows of one kernel of a run, by the beginning of its
    release: last@6.12 last@7.3. Each kernel's own policy is compared with that of the other.

    Counted columns must be equal. Worse is more VmPTE, tables or work (entries rescanned, locks, atomics, flushes,
    IPIs), or a point that failed only in B. RES, entries, calls, and tables needed, allocated or freed are never worse.

    Measured times (install_ns, zap_ns of --engine kernel) are tested in groups of one scenario with all its seeds: the
    ratio of the medians, B to A, with a 95 % bootstrap interval; Cliff's delta; the p of Mann-Whitney; and q, which is
    p after Benjamini-Hochberg over all groups. Slower means q < 0.05 and an interval above 1. A group needs 4 times in
    each run (`repeats` of the grid), better 10. Other load on the machine is not detected: launch A twice and compare
    these two runs first.

    Example: sweep compare first-f8eea1dd last
    """
    from sweep.comparison.compare import compare as compare_runs
    from sweep.store.store import open_store

    comparison = compare_runs(open_store(results), a, b, rows)
    if as_json:
        output_formats.print_json(_comparison_json(comparison, rows))
    else:
        _print_overview(comparison)
        _print_tables(comparison, rows, results)
    for note in (*_row_notes(comparison), *_timing_notes(comparison)):
        messages.print_note(note)
    return REGRESSION if comparison.regressions else 0


def _comparison_json(comparison: "Comparison", most: int) -> dict[str, Any]:
    return {
        "a": comparison.a.row,
        "b": comparison.b.row,
        "kernels": {"a": comparison.a_kernel, "b": comparison.b_kernel},
        "regression": comparison.regressions,
        "rows": {"matched": comparison.matched, "only_a": comparison.only_a, "only_b": comparison.only_b},
        "columns": comparison.columns,
        "differences": comparison.differences,
        "failed": comparison.failed,
        "failures": [{name: row[name] for name in ("point", "status", "error")} for row in comparison.failures],
        "timings": [asdict(timing) for timing in _most_certain(comparison.timings, most)],
        "rules": comparison.rule_differences,
        "problems": comparison.problems,
        "seeds_differ": comparison.seeds_differ,
    }


def _print_overview(comparison: "Comparison") -> None:
    from sweep.comparison import compare_sql
    from sweep.comparison.compare import count_text

    lines = [
        f"A          {_run_text(comparison.a, comparison.a_kernel)}",
        f"B          {_run_text(comparison.b, comparison.b_kernel)}",
        f"rows       {comparison.matched:,} matched; {comparison.only_a:,} only in A, {comparison.only_b:,} only in B",
    ]
    if comparison.matched:
        equal = len(compare_sql.COMPARED) - len(comparison.columns)
        lines.append(f"counted    {equal} columns are equal in all matched rows, {len(comparison.columns)} are not")
    for column in compare_sql.TIMES if comparison.timings else ():
        counts = [(comparison.count_timings(column, verdict), verdict) for verdict in VERDICTS]
        verdicts = ", ".join(f"{count:,} {verdict}" for count, verdict in counts if count)
        lines.append(f"{column:10} {count_text(comparison.count_timings(column), 'group')}: {verdicts}")
    if comparison.failed:
        lines.append(f"failed     {count_text(comparison.failed, 'point')} in B and not in A")
    if comparison.seeds_differ:
        lines.append("seeds      none in common: rows are paired by all other values, and differ by chance")
    lines.append(
        f"verdict    {'worse: ' + '; '.join(comparison.regressions) if comparison.regressions else 'no regression'}"
    )
    for line in lines:
        output_formats.print_paragraph(line, " " * 11)


def _print_tables(comparison: "Comparison", most: int, results: str) -> None:
    """Print the columns, rows, times and points that differ."""
    if comparison.columns and comparison.seeds_differ:
        title = "Counted columns that differ, summed over all pairs of rows:"
        _print_table(title, ("column", "rows", "a_total", "b_total", "percent"), _total_rows(comparison))
    elif comparison.columns:
        title = "Counted columns that differ, and the largest difference of each:"
        _print_table(title, (*COLUMNS, "largest", *EXAMPLE_COLUMNS), _column_rows(comparison))
    if comparison.differences and not comparison.seeds_differ:
        title = f"Differences, the worst first (sweep why POINT{results_option(results)} explains a point):"
        _print_table(title, list(comparison.differences[0]), (list(row.values()) for row in comparison.differences))
    if comparison.timings:
        title = (
            "Measured times, the most certain first; ratio, with its interval low to high: the median of B to that of A"
        )
        fields = comparison.timings[0].fields
        names = ["column", "policy", *fields, "a_n", "b_n", "a_ms", "b_ms", *SHIFT_COLUMNS, "verdict"]
        _print_table(title, names, _timing_rows(comparison.timings, most))
    if comparison.failures:
        names = ["point", "status", "error"]
        rows = ([failure[name] for name in names] for failure in comparison.failures)
        _print_table("Points that failed in B and not in A:", names, rows)


def _run_text(run: "RunInfo", kernel: str | None) -> str:
    engine = f"kernel {kernel or run.kernel}" if run.engine == "kernel" else f"model, version {run.model_version}"
    return f"{run.run_id}: {run.status}, {engine}"


def _total_rows(comparison: "Comparison") -> Iterator[list[Any]]:
    for row in comparison.columns:
        a, b = row["a_total"], row["b_total"]
        yield [row["column"], row["rows"], a, b, 100 * (b - a) / a if a and b is not None else None]


def _column_rows(comparison: "Comparison") -> Iterator[list[Any]]:
    for row in comparison.columns:
        largest = row["largest"]
        a, b = largest["a"], largest["b"]
        percent = f"{100 * (b - a) / a:+.4g} %" if a and b is not None else None
        yield [*(row[name] for name in COLUMNS), percent, *(largest[name] for name in EXAMPLE_COLUMNS)]


def _timing_rows(timings: "Sequence[Timing]", most: int) -> Iterator[list[Any]]:
    for timing in _most_certain(timings, most):
        shift = timing.shift
        medians_ms = shift.a_median_ns / 1e6, shift.b_median_ns / 1e6
        statistics = (getattr(shift, name) for name in SHIFT_COLUMNS)
        group = timing.column, timing.policy, *timing.fields.values()
        yield [*group, timing.a_times, timing.b_times, *medians_ms, *statistics, shift.verdict]


def _most_certain(timings: "Sequence[Timing]", most: int) -> "list[Timing]":
    """The first `most` timings (0: all) by verdict, of each verdict those with the largest ratio first."""
    ordered = sorted(timings, key=lambda t: (VERDICTS.index(t.shift.verdict), -max(t.shift.ratio, 1 / t.shift.ratio)))
    return ordered[:most] if most else ordered


def _print_table(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    output_formats.print_line()
    output_formats.print_paragraph(title)
    output_formats.print_line()
    output_formats.print_rows(names, rows, "table")


def _row_notes(comparison: "Comparison") -> Iterator[str]:
    """Reasons why rows may be missing or may differ for another reason than the model."""
    for problem in comparison.problems:
        yield f"warning: left out: {problem}"
    for name in ("version", "git_commit", "host"):
        a, b = getattr(comparison.a, name), getattr(comparison.b, name)
        if a != b:
            yield f"note: {name} is {a or 'unknown'} in A, {b or 'unknown'} in B"
    for difference in comparison.rule_differences:
        yield f"note: {difference}"
    for run in (comparison.a, comparison.b):
        if run.todo or run.status == "running":
            todo = "some" if run.todo is None else f"{run.todo:,}"
            yield f"note: {run.run_id} is {run.status}, with {todo} points to run"


def _timing_notes(comparison: "Comparison") -> Iterator[str]:
    """Whether there are enough times to find a slower group; nothing without measured times."""
    if not comparison.timings:
        return
    from sweep.comparison.statistics import TOO_FEW, repeats_for

    tested = [timing for timing in comparison.timings if timing.shift.verdict != TOO_FEW]
    if len(tested) < len(comparison.timings):
        few = len(comparison.timings) - len(tested)
        yield f"note: {few:,} of the groups have too few times to be tested: raise the grid's repeats"
    needed = repeats_for(len(tested))
    fewest = min((min(timing.a_times, timing.b_times) for timing in tested), default=0)
    if tested and fewest < needed:
        repeats = f"{needed} repeats in each run; some groups have {fewest}"
        yield f"note: to find one slower group among {len(tested):,} takes {repeats}"
