"""sweep compare: two runs, row by row. Data to stdout, words to stderr; exit 5 where the second is worse."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli.options import STORE, Facts, Results, elsewhere
from sweep.common.errors import printable

if TYPE_CHECKING:
    from sweep.query.compare import Comparison, Timing
    from sweep.store.run_directory import RunInfo

REGRESSION = 5
MOST_ROWS = 10
COLUMNS = ("column", "rows", "worse", "better", "a_total", "b_total")
EXAMPLE = ("a", "b", "policy", "point")
DIFFERENCE = ("column", "a", "b", "percent", "verdict")
SHIFT = ("ratio", "low", "high", "delta", "p", "q")
TELLING = ("slower", "faster", "not told apart", "too few times")
"""The order of a table of times: what is sure first."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The run to hold against: an id, the start of one, or last.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The run that may be worse.")],
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, help="Most rows of each table; 0: all.")
    ] = MOST_ROWS,
    as_json: Facts = False,
    results: Results = STORE,
) -> int:
    """Two runs: what differs in B, and whether it is worse. Ends with 5 if it is.

    Rows of one scenario (its seed too), policy and engine match, whatever the version of the model.

    Counted columns must be equal. Worse is more VmPTE, tables, or work of any kind (entries rescanned, locks,
    atomics, flushes, IPIs). RES, entries, calls, and tables needed, allocated, freed or freed fast have no worse side.

    Measured times (install_ns, zap_ns of --engine kernel) are tested in groups, a scenario's seeds together: the
    ratio of the medians, B over A, with a bootstrap interval of 95 %, Cliff's delta, Mann-Whitney's p, and q, which
    is p after Benjamini-Hochberg over all groups. Slower is q < 0.05 and an interval above 1. A group needs 4 times in
    either run (a grid's `repeats`), better 10. What else the machine did between two runs is not known: launch A twice
    and compare those first.

    A point that failed in B and not in A is worse too.
    """
    from sweep.query.compare import compare as compared
    from sweep.store.store import open_store

    found = compared(open_store(results), a, b, rows)
    if as_json:
        from sweep.cli.output_formats import plain

        print(json.dumps(plain(_facts(found, rows)), indent=1, ensure_ascii=False))
    else:
        _show(found, rows, results)
    for words in _notes(found):
        print(printable(words), file=sys.stderr)
    return REGRESSION if found.regressions else 0


def _facts(found: "Comparison", most: int) -> dict[str, Any]:
    """All there is to say, for --json."""
    return {
        "a": found.a.row,
        "b": found.b.row,
        "regression": found.regressions,
        "rows": {"matched": found.matched, "only_a": found.only_a, "only_b": found.only_b},
        "columns": found.columns,
        "differences": found.differences,
        "failed": found.failed,
        "failures": [{name: row[name] for name in ("point", "status", "error")} for row in found.failures],
        "timings": [asdict(timing) for timing in _first(found.timings, most)],
        "problems": found.problems,
    }


def _show(found: "Comparison", most: int, results: str) -> None:
    from sweep.query import compare_sql
    from sweep.query.compare import count_text

    print(f"A          {_run(found.a)}")
    print(f"B          {_run(found.b)}")
    print(f"rows       {found.matched:,} matched; {found.only_a:,} only in A, {found.only_b:,} only in B")
    if found.matched:
        equal = len(compare_sql.COMPARED) - len(found.columns)
        print(f"counted    {equal} columns are equal in all matched rows, {len(found.columns)} are not")
    for column in compare_sql.TIMES if found.timings else ():
        counts = [(found.count_timings(column, verdict), verdict) for verdict in TELLING]
        told = ", ".join(f"{count:,} {verdict}" for count, verdict in counts if count)
        print(f"{column:10} {count_text(found.count_timings(column), 'group')}: {told}")
    if found.failed:
        print(f"failed     {count_text(found.failed, 'point')} in B and not in A")
    print(f"verdict    {'worse: ' + '; '.join(found.regressions) if found.regressions else 'no regression'}")
    if found.columns:
        title = "Counted columns that differ, and the largest difference of each:"
        _table(title, (*COLUMNS, "largest", *EXAMPLE), _columns(found))
    if found.differences:
        title = f"Differences, the worse first (sweep why POINT{elsewhere(results)} explains a point):"
        _table(title, list(found.differences[0]), (list(row.values()) for row in found.differences))
    if found.timings:
        title = "Measured times, the surest first; ratio, from low to high, is the median of B over that of A:"
        names = ["column", "policy", *found.timings[0].fields, "a_n", "b_n", "a_ms", "b_ms", *SHIFT, "verdict"]
        _table(title, names, _timings(found.timings, most))
    if found.failures:
        title = "Points that failed in B and not in A:"
        _table(title, ("point", "status", "error"), ([f["point"], f["status"], f["error"]] for f in found.failures))


def _run(run: "RunInfo") -> str:
    where = f"kernel {run.kernel}" if run.engine == "kernel" else f"model, version {run.model_version}"
    return f"{run.run_id}: {run.status}, {where}"


def _columns(found: "Comparison") -> Iterator[list[Any]]:
    for row in found.columns:
        largest = row["largest"]
        a, b = largest["a"], largest["b"]
        percent = f"{100 * (b - a) / a:+.4g} %" if a and b is not None else None
        yield [*(row[name] for name in COLUMNS), percent, *(largest[name] for name in EXAMPLE)]


def _timings(timings: "Sequence[Timing]", most: int) -> Iterator[list[Any]]:
    for t in _first(timings, most):
        s = t.shift
        measured = [s.a_median_ns / 1e6, s.b_median_ns / 1e6, *(getattr(s, name) for name in SHIFT), s.verdict]
        yield [t.column, t.policy, *t.fields.values(), t.a_times, t.b_times, *measured]


def _first(timings: "Sequence[Timing]", most: int) -> "list[Timing]":
    """Those that are sure first, the largest shifts of them first."""
    ordered = sorted(timings, key=lambda t: (TELLING.index(t.shift.verdict), -max(t.shift.ratio, 1 / t.shift.ratio)))
    return ordered[:most] if most else ordered


def _table(title: str, names: Sequence[str], rows: Any) -> None:
    from sweep.cli import output_formats

    print(f"\n{title}\n")
    output_formats.write(names, rows, "table", sys.stdout)


def _notes(found: "Comparison") -> Iterator[str]:
    """What a reader should know before believing it."""
    for problem in found.problems:
        yield f"warning: left out: {problem}"
    for name in ("version", "git_commit", "host"):
        mine, its = getattr(found.a, name), getattr(found.b, name)
        if mine != its:
            yield f"note: {name} is {mine or 'unknown'} in A, {its or 'unknown'} in B"
    for run in (found.a, found.b):
        if run.todo or run.status == "running":
            left = "some" if run.todo is None else f"{run.todo:,}"
            yield f"note: {run.run_id} is {run.status}, with {left} points to run"
    if found.timings:
        from sweep.query.statistics import TOO_FEW, repeats_for

        tested = [t for t in found.timings if t.shift.verdict != TOO_FEW]
        if len(tested) < len(found.timings):
            few = len(found.timings) - len(tested)
            yield f"note: {few:,} of the groups have too few times to be told apart at all: raise the grid's repeats"
        needed = repeats_for(len(tested))
        fewest = min((min(t.a_times, t.b_times) for t in tested), default=0)
        if tested and fewest < needed:
            yield (
                f"note: to tell one slower group from {len(tested):,} takes {needed} repeats in either run; "
                f"some have {fewest}"
            )
