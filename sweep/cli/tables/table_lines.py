"""The lines of a table, or of its records: a block for each row."""

from collections.abc import Iterator, Sequence

from sweep.cli.tables.line_breaking import folded
from sweep.cli.tables.table import Table
from sweep.cli.tables.text_wrapping import text_width, wrapped

RECORD_GAP = 2


def table_lines(table: Table, width: int | None) -> Iterator[str]:
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


def record_lines(table: Table, width: int) -> Iterator[str]:
    """A block for each row, with a line for each column."""
    for text in table.above:
        yield from wrapped(text, width, "  ")
    space = min(max(text_width(column.head) for column in table.columns), width // 2 - RECORD_GAP)
    for row in range(table.rows):
        if row or table.above:
            yield ""
        for column in table.columns:
            heads = folded(column.head, space).split("\n")
            texts = folded(column.cells[row], width - space - RECORD_GAP).split("\n")
            for number in range(max(len(heads), len(texts))):
                head, text = (lines[number] if number < len(lines) else "" for lines in (heads, texts))
                yield f"{head}{' ' * (space - text_width(head) + RECORD_GAP)}{text}".rstrip()
