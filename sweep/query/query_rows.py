"""The answer to a query, batch by batch: rows as Python values, lines of CSV, or Arrow batches for Parquet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sweep.query.exact_values import Column
from sweep.tables import arrow_tables

Form = Literal["values", "csv", "parquet"]
"""values: for `rows`; csv: for `lines`; parquet: types that Parquet has."""


@dataclass
class Answer:
    """The answer to a SELECT while it is read, once and from front to back, so that it need not fit in memory.

    columns: names and SQL types, as the user's SQL has them
    batches: Arrow record batches of the rows, in the form that was asked for: `values` has text where Python lacks the
        type (exact_values.Column), which `rows` and `head` parse; `csv` has one column of whole lines, for `lines`;
        `parquet` has types that Parquet has
    schema: the Arrow schema of `batches`; its columns are called c0, c1, ..., as names of a SELECT may repeat
    has_rows: whether a batch that was read has rows
    """

    columns: Sequence[Column]
    schema: arrow_tables.Schema
    batches: Iterator[arrow_tables.Table]
    has_rows: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.batches = self._noticed(self.batches)

    def _noticed(self, batches: Iterator[arrow_tables.Table]) -> Iterator[arrow_tables.Table]:
        for batch in batches:
            self.has_rows = self.has_rows or batch.num_rows > 0
            yield batch

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def lines(self) -> Iterator[list[str]]:
        """Lines of CSV without line ends, many at a time."""
        for batch in self.batches:
            yield batch.column(0).to_pylist()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows, one by one."""
        for batch in self.batches:
            yield from self._values(batch)

    def head(self, most: int) -> tuple[list[tuple[Any, ...]], int]:
        """The first rows, at most `most`, and how many others there are, which are counted only."""
        rows: list[tuple[Any, ...]] = []
        left_out = 0
        for batch in self.batches:
            wanted = batch.slice(0, most - len(rows))
            rows += self._values(wanted)
            left_out += batch.num_rows - wanted.num_rows
        return rows, left_out

    def _values(self, batch: arrow_tables.Table) -> Iterator[tuple[Any, ...]]:
        values = [column.to_pylist() for column in batch.columns]
        for i, parse in enumerate(column.parse for column in self.columns):
            if parse is not None:
                values[i] = [None if text is None else parse(text) for text in values[i]]
        return zip(*values, strict=True)
