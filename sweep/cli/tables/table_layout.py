"""Lays out rows as a table that fits a page of a given width.

A table that is too wide is made narrower step by step, until it fits: columns with one value leave for a line above, so
do columns equal to another; large numbers are scaled, with the unit in the header; headers break at underscores, texts
at spaces. What still does not fit becomes records, one block for each row. csv, json and Parquet have all, exactly.

rich has tables, but cuts off or folds what does not fit; its measure of wide characters is used here.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sweep.cli.tables.line_breaking import broken_heads, broken_texts
from sweep.cli.tables.number_scaling import scaled
from sweep.cli.tables.table import Column, Format, Table, column_of, rows_of
from sweep.cli.tables.table_lines import record_lines, table_lines

RUN, SHARED = "run_id", "policy"
"""Runs get tables of their own; rows that agree in all columns but the policy become one row."""
FIRST_OF_EQUALS = "merged"


def lay_out(
    names: Sequence[str], rows: Sequence[Sequence[Any]], readable: Format, width: int | None, *, is_ours: bool
) -> Iterator[str]:
    """The lines of a table, none wider than `width`; None: as wide as it must be.

    `readable`: a value as text of one line. `is_ours`: a table of a command, not of SQL that the user wrote: policies
    that agree in every figure then share a row, and each run has a table of its own if one for all would be too wide.
    """
    table = Table(tuple(column_of(name, [row[i] for row in rows], readable) for i, name in enumerate(names)))
    if width is None:
        return table_lines(table, None)
    if is_ours:
        table = _share_rows(_without_constants(table, (RUN,)))
    sections = _by_run(table) if is_ours and table.width > width else [table]
    return _with_blank_lines(_fitted(section, width) for section in sections)


def _fitted(table: Table, width: int) -> Iterator[str]:
    """The lines of a table after as many steps as it takes, or of its records: these are exact."""
    if table.width <= width:
        return table_lines(table, width)
    breaking = partial(broken_texts, width=width)
    narrow = table = _without_constants(table)
    for step in (_without_equals, scaled, broken_heads, breaking, _closer, breaking):
        if narrow.width > width:
            narrow = step(narrow)
    if narrow.width <= width:
        return table_lines(narrow, width)
    return record_lines(table, width)


def _by_run(table: Table) -> list[Table]:
    """A table for each run, if some run has several rows. Each says above which run it is."""
    run_columns = [column for column in table.columns if column.name == RUN]
    runs = run_columns[0].cells if len(run_columns) == 1 < len(table.columns) else ()
    groups: dict[str, list[int]] = {}
    for row, run in enumerate(runs):
        groups.setdefault(run, []).append(row)
    if len(groups) < 2 or len(groups) == len(runs):
        return [table]
    columns = [column for column in table.columns if column.name != RUN]
    return [
        Table(tuple(rows_of(column, rows) for column in columns), (*table.above, f"{RUN} {run}"))
        for run, rows in groups.items()
    ]


def _with_blank_lines(sections: Iterable[Iterator[str]]) -> Iterator[str]:
    for number, lines in enumerate(sections):
        if number:
            yield ""
        yield from lines


def _without_constants(table: Table, names: Collection[str] = ()) -> Table:
    """Columns with the same value in each of several rows are said above instead; `names`: only these, not any."""
    constant = [
        c for c in table.columns if table.rows > 1 and len(set(c.cells)) == 1 and (c.name in names or not names)
    ]
    kept = tuple(column for column in table.columns if column not in constant)
    if not constant or not kept:
        return table
    said = ", ".join(f"{column.head} {column.cells[0]}" for column in constant)
    return replace(table, columns=kept, above=(*table.above, said if names else f"in all rows: {said}"))


def _share_rows(table: Table) -> Table:
    """Rows that agree in all columns but `policy` become one, in which the policies stand side by side."""
    names = [column.name for column in table.columns]
    if SHARED not in names or len(names) < 2 or any("\n" in cell for column in table.columns for cell in column.cells):
        return table
    place = names.index(SHARED)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in range(table.rows):
        key = tuple(column.cells[row] for i, column in enumerate(table.columns) if i != place)
        groups.setdefault(key, []).append(row)
    first = [rows[0] for rows in groups.values()]
    columns = [rows_of(column, first) for column in table.columns]
    policies = table.columns[place].cells
    columns[place] = replace(
        columns[place], cells=tuple(", ".join(dict.fromkeys(policies[row] for row in rows)) for rows in groups.values())
    )
    return replace(table, columns=tuple(columns))


def _without_equals(table: Table) -> Table:
    """Of columns of numbers that are equal in each row one stays; the others are named above."""
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in table.columns if table.rows > 1 else ():
        if column.is_number:
            groups.setdefault(column.cells, []).append(column)
    said, gone = [], []
    for equal in groups.values():
        stays = next((column for column in equal if column.name == FIRST_OF_EQUALS), equal[0])
        others = [column for column in equal if column is not stays]
        if others:
            gone += others
            said.append(" = ".join([*(column.head for column in others), stays.head]))
    kept = tuple(column for column in table.columns if not any(column is other for other in gone))
    return replace(table, columns=kept, above=(*table.above, f"equal columns: {'; '.join(said)}")) if said else table


def _closer(table: Table) -> Table:
    return replace(table, gap=1)
