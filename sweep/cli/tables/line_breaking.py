"""Columns of a table made narrower: headers on several lines, texts on as many lines as they need."""

from collections.abc import Sequence
from dataclasses import replace
from operator import add

from sweep.cli.tables.table import Column, Table
from sweep.cli.tables.text_wrapping import text_width, wrapped

LEAST_WIDTHS = 14, 24
"""Texts are not broken into lines narrower than the first; words not below the second."""


def broken_heads(table: Table) -> Table:
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


def broken_texts(table: Table, width: int) -> Table:
    """Return the table with its text columns broken at spaces so that it fits `width`; as it is if that cannot be."""
    columns = list(table.columns)
    texts = [i for i, c in enumerate(columns) if not c.is_number and c.width > _least_width(c)]
    space = width - sum(c.width for i, c in enumerate(columns) if i not in texts) - table.gap * (len(columns) - 1)
    least = [_least_width(columns[i]) for i in texts]
    if not texts or space < sum(least):
        return table
    extra = _shares([columns[i].width - low for i, low in zip(texts, least, strict=True)], space - sum(least))
    for place, share in zip(texts, map(add, least, extra), strict=True):
        columns[place] = replace(columns[place], cells=tuple(folded(cell, share) for cell in columns[place].cells))
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


def folded(text: str, width: int) -> str:
    """Text broken into lines. A word without spaces that is too long, such as a path, is broken anywhere."""
    return "\n".join(wrapped(text, width))
