"""Lays out rows as a table that fits a page of a given width.

A table that is too wide is made narrower step by step, until it fits: columns with one value leave for a line above, so
do columns equal to another; large numbers are scaled, with the unit in the header; headers break at underscores, texts
at spaces. What still does not fit becomes records, one block for each row. csv, json and Parquet have all, exactly.

rich has tables, but cuts off or folds what does not fit; its measure of wide characters is used here.
"""

import math
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from itertools import accumulate
from operator import add
from typing import Any

RECORD_GAP = 2
LEAST_WIDTHS = 14, 24
"""Texts are not broken into lines narrower than the first; words not below the second."""
MAX_SCALED = 10_000
"""Numbers are scaled until the largest of a column is below this."""
SIGNIFICANT_DIGITS = 4

BINARY_UNITS, TIME_UNITS = ("bytes", "kib", "mib", "gib", "tib"), ("ns", "us", "ms", "s")
COUNT_UNITS = ("", "k", "M", "G", "T")
IN_BYTES = frozenset(("virt", "res", "cluster", "zap", "zap_shift", "folio"))
"""Columns in bytes whose name does not say so: sizes that a user has written with a unit."""
IDENTIFIERS = frozenset(("pid", "seed"))
"""Columns of whole numbers that are names: printed without separators, to be copied."""
RUN, SHARED = "run_id", "policy"
"""Runs get tables of their own; rows that agree in all columns but the policy become one row."""
FIRST_OF_EQUALS = "merged"

_NUMBER_AND_UNIT = re.compile(r"(\d) (?=(?:%|[KMGT]iB|B|ns|s)(?!\w))")
Format = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `head`, its name and unit, broken into lines where it is long; `cells`, as text, with line ends."""

    name: str
    values: tuple[Any, ...]
    head: str
    cells: tuple[str, ...]
    is_number: bool

    @property
    def width(self) -> int:
        return max(
            map(text_width, (*self.head.split("\n"), *(line for cell in self.cells for line in cell.split("\n"))))
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and what is said above them of those that were taken out."""

    columns: tuple[Column, ...]
    above: tuple[str, ...] = ()
    gap: int = 2

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns) + self.gap * (len(self.columns) - 1)

    @property
    def rows(self) -> int:
        return len(self.columns[0].values) if self.columns else 0


def lay_out(
    names: Sequence[str], rows: Sequence[Sequence[Any]], readable: Format, width: int | None, *, is_ours: bool
) -> Iterator[str]:
    """The lines of a table, none wider than `width`; None: as wide as it must be.

    `readable`: a value as text of one line. `is_ours`: a table of a command, not of SQL that the user wrote: policies
    that agree in every figure then share a row, and each run has a table of its own if one for all would be too wide.
    """
    table = Table(tuple(_column(name, [row[i] for row in rows], readable) for i, name in enumerate(names)))
    if width is None:
        return _table_lines(table, None)
    if is_ours:
        table = _share_rows(_without_constants(table, (RUN,)))
    sections = _by_run(table) if is_ours and table.width > width else [table]
    return _with_blank_lines(_fitted(section, width) for section in sections)


def _fitted(table: Table, width: int) -> Iterator[str]:
    """The lines of a table after as many steps as it takes, or of its records: these are exact."""
    if table.width <= width:
        return _table_lines(table, width)
    breaking = partial(_broken_texts, width=width)
    narrow = table = _without_constants(table)
    for step in (_without_equals, _scaled, _broken_heads, breaking, _closer, breaking):
        if narrow.width > width:
            narrow = step(narrow)
    if narrow.width <= width:
        return _table_lines(narrow, width)
    return _record_lines(table, width)


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
        Table(tuple(_rows_of(column, rows) for column in columns), (*table.above, f"{RUN} {run}"))
        for run, rows in groups.items()
    ]


def _rows_of(column: Column, rows: Sequence[int]) -> Column:
    return replace(column, values=tuple(column.values[r] for r in rows), cells=tuple(column.cells[r] for r in rows))


def _with_blank_lines(sections: Iterable[Iterator[str]]) -> Iterator[str]:
    for number, lines in enumerate(sections):
        if number:
            yield ""
        yield from lines


def text_width(text: str) -> int:
    """Columns of a terminal that a line takes: two for East Asian wide characters."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """A sentence as lines of at most `width` columns, the later ones indented. URLs are not broken."""
    if width is None or text_width(text) <= width:
        return [text]
    kept_together = _NUMBER_AND_UNIT.sub("\\1\N{NO-BREAK SPACE}", text)
    has_url = "://" in text  # never broken, so that it can be copied
    lines = textwrap.wrap(
        kept_together, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=not has_url
    )
    if has_url:
        return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    return [piece for line in lines for piece in _pieces(line.replace("\N{NO-BREAK SPACE}", " "), width)]


def _column(name: str, values: Sequence[Any], readable: Format) -> Column:
    return Column(name, tuple(values), readable(name), tuple(map(readable, values)), are_numbers(values))


def are_numbers(values: Iterable[Any]) -> bool:
    """True for numbers, also with NULLs among them."""
    checks = [_is_number(value) for value in values if value is not None]
    return bool(checks) and all(checks)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


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
    columns = [_rows_of(column, first) for column in table.columns]
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


def _scaled(table: Table) -> Table:
    """Large numbers in larger units, all with four digits; the header has the unit: vm_pte_gib_end, locks (M)."""
    columns = tuple(_scaled_column(column) for column in table.columns)
    letters = {c.head[-2] for c in columns if c.head.endswith(tuple(f"({unit})" for unit in COUNT_UNITS[1:]))}
    words = {"k": "thousand", "M": "million", "G": "thousand million", "T": "million million"}
    said = [f"{letter}: {words[letter]}" for letter in COUNT_UNITS if letter in letters]
    return replace(table, columns=columns, above=(*table.above, *([", ".join(said)] if said else [])))


def _scaled_column(column: Column) -> Column:
    if column.name in IN_BYTES and all(v is None or isinstance(v, int) for v in column.values):
        from sweep.common.units import format_size

        cells = ("-" if value is None else format_size(value) for value in column.values)
        return replace(column, cells=tuple(cells))
    if not column.is_number or column.name in IDENTIFIERS:
        return column
    largest = max((abs(float(value)) for value in column.values if _is_finite(value)), default=0)
    head, scale = _scaled_head(column.head, largest)
    return replace(column, head=head, cells=tuple(_scaled_text(value, scale) for value in column.values))


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _scaled_head(name: str, largest: float) -> tuple[str, float]:
    """The name with the unit in which the largest value is below MAX_SCALED, and how many of the old unit that is."""
    words = name.split("_")
    for units, step in ((BINARY_UNITS, 1024), (TIME_UNITS, 1000)):
        for place, word in enumerate(words):
            if word in units:
                power, scale = _power(largest, step, units[units.index(word) :])
                words[place] = units[units.index(word) + power]
                return "_".join(words), scale
    power, scale = _power(largest, 1000, COUNT_UNITS) if largest >= 100_000 else (0, 1.0)
    return f"{name} ({COUNT_UNITS[power]})" if power else name, scale


def _power(largest: float, step: int, units: Sequence[str]) -> tuple[int, float]:
    power = 0
    while largest >= MAX_SCALED and power + 1 < len(units):
        largest, power = largest / step, power + 1
    return power, float(step**power)


def _scaled_text(value: Any, scale: float) -> str:
    if not _is_finite(value):
        return "-"
    if scale == 1 and (isinstance(value, int) or value == int(value)):
        return f"{int(value):,}"
    number = float(value) / scale
    whole_digits = len(str(int(abs(number))))
    text = f"{number:,.{max(0, SIGNIFICANT_DIGITS - whole_digits)}f}" if abs(number) >= 1 else f"{number:.4g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _broken_heads(table: Table) -> Table:
    """Headers on several lines, broken after underscores and before units, where they are wider than the cells."""
    return replace(table, columns=tuple(replace(c, head=_broken_head(c)) for c in table.columns))


def _broken_head(column: Column) -> str:
    words = column.head.replace("_", "_ ").replace(", ", ", ").split(" ")
    cells = max((text_width(line) for cell in column.cells for line in cell.split("\n")), default=0)
    space = max(cells, *map(text_width, words))
    lines = [""]
    for word in words:
        joined = lines[-1] + ("" if lines[-1].endswith("_") or not lines[-1] else " ") + word
        lines = [*lines[:-1], joined] if text_width(joined) <= space else [*lines, word]
    return "\n".join(line for line in lines if line)


def _closer(table: Table) -> Table:
    return replace(table, gap=1)


def _broken_texts(table: Table, width: int) -> Table:
    """The widest columns of text broken into lines at spaces, as far as needed and possible."""
    columns = list(table.columns)
    texts = [i for i, c in enumerate(columns) if not c.is_number and c.width > _least_width(c)]
    space = width - sum(c.width for i, c in enumerate(columns) if i not in texts) - table.gap * (len(columns) - 1)
    least = [_least_width(columns[i]) for i in texts]
    if not texts or space < sum(least):
        return table
    extra = _shares([columns[i].width - low for i, low in zip(texts, least, strict=True)], space - sum(least))
    for place, share in zip(texts, map(add, least, extra), strict=True):
        columns[place] = replace(columns[place], cells=tuple(_folded(cell, share) for cell in columns[place].cells))
    return replace(table, columns=tuple(columns))


def _least_width(column: Column) -> int:
    """The width below which a text is not broken: that of its longest word, within LEAST_WIDTHS."""
    words = (word for text in (column.head, *column.cells) for word in text.split())
    low, high = LEAST_WIDTHS
    return min(max(low, *map(text_width, words)), high) if column.cells else low


def _shares(widths: Sequence[int], space: int) -> list[int]:
    """`space` divided among columns that want `widths`: the narrow ones get what they want."""
    shares, order = [0] * len(widths), sorted(range(len(widths)), key=lambda i: widths[i])
    for done, i in enumerate(order):
        shares[i] = min(widths[i], space // (len(widths) - done))
        space -= shares[i]
    return shares


def _folded(text: str, width: int) -> str:
    """Text broken into lines. A word without spaces that is too long, such as a path, is broken anywhere."""
    return "\n".join(wrapped(text, width))


def _pieces(line: str, width: int) -> Iterator[str]:
    """A line cut where wide characters make it too wide for textwrap, which counts characters."""
    while text_width(line) > width:
        ends = list(accumulate(map(text_width, line)))
        cut = max(1, sum(end <= width for end in ends))
        yield line[:cut]
        line = line[cut:]
    yield line


def _table_lines(table: Table, width: int | None) -> Iterator[str]:
    """What is said above, the header, a rule, and the rows; numbers are flush right."""
    for text in table.above:
        yield from wrapped(text, width, "  ")
    widths = [column.width for column in table.columns]
    heads = [column.head.split("\n") for column in table.columns]
    tallest = max(map(len, heads))
    heads = [[""] * (tallest - len(head)) + head for head in heads]
    yield from _lines(table, heads, widths)
    yield (" " * table.gap).join("-" * width for width in widths)
    for row in range(table.rows):
        yield from _lines(table, [column.cells[row].split("\n") for column in table.columns], widths)


def _lines(table: Table, cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    """The lines of one row, whose cells may have several."""
    for number in range(max(map(len, cells))):
        texts = [cell[number] if number < len(cell) else "" for cell in cells]
        yield (
            (" " * table.gap)
            .join(
                " " * (width - text_width(text)) + text if c.is_number else text + " " * (width - text_width(text))
                for c, text, width in zip(table.columns, texts, widths, strict=True)
            )
            .rstrip()
        )


def _record_lines(table: Table, width: int) -> Iterator[str]:
    """A block for each row, with a line for each column."""
    for text in table.above:
        yield from wrapped(text, width, "  ")
    space = min(max(text_width(column.head) for column in table.columns), width // 2 - RECORD_GAP)
    for row in range(table.rows):
        if row or table.above:
            yield ""
        for column in table.columns:
            heads = _folded(column.head, space).split("\n")
            texts = _folded(column.cells[row], width - space - RECORD_GAP).split("\n")
            for number in range(max(len(heads), len(texts))):
                head, text = (lines[number] if number < len(lines) else "" for lines in (heads, texts))
                yield f"{head}{' ' * (space - text_width(head) + RECORD_GAP)}{text}".rstrip()
