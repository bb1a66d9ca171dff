"""Rows as CSV, JSON and Markdown, written to a stream as they arrive: complete and exact."""

import csv
import json
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, TextIO

from sweep.cli.tables.table import are_numbers
from sweep.cli.tables.value_text import plain, readable, unique_names

Rows = Iterable[Sequence[Any]]

LAYOUT_ROWS = 10_000
"""Rows that are looked at before the first is written; a longer table is written as several, to bound the memory."""


def write_markdown(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    rows = iter(rows)
    first = list(islice(rows, LAYOUT_ROWS))
    is_right = [are_numbers(row[i] for row in first) for i in range(len(names))]

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |\n"

    out.write(line(map(readable, names)) + line("---:" if right else "---" for right in is_right))
    out.writelines(line(map(readable, row)) for row in chain(first, rows))


def write_csv(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    # The writer quotes a cell with a character of the line terminator in it, so that this has to be \r\n.
    writer = csv.writer(UnixLineEnds(out), lineterminator="\r\n")
    writer.writerow([readable(name) for name in names])
    for row in rows:
        writer.writerow([_csv_cell(plain(value)) for value in row])


class UnixLineEnds:
    """Writes each row of a csv.writer with \\n in place of \\r\\n at its end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, row: str) -> None:
        self._out.write(row.removesuffix("\r\n") + "\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def write_json(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    """Write an array of objects, one row per line."""
    names, separator = unique_names(names), "["
    for row in rows:
        values = dict(zip(names, map(plain, row), strict=True))
        out.write(f"{separator}\n{json.dumps(values, ensure_ascii=False)}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")
