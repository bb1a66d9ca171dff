"""Rows: the result of a query. The only module that imports pandas or polars, which are optional."""

from collections.abc import Iterator
from html import escape
from typing import Any

from sweep.common.errors import UserError
from sweep.tables import arrow_tables
from sweep.tables.arrow_tables import Table

_SHOWN = 20


class Rows:
    """Rows of a query, an Arrow table inside. Whatever reads Arrow reads it: polars, DuckDB, pandas, pyarrow.

    Iterating yields dicts. A notebook shows the first rows.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def arrow(self) -> Table:
        """The rows as a pyarrow.Table."""
        return self._table

    def df(self) -> Any:
        """The rows as a pandas.DataFrame."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise UserError("df() needs pandas: pip install pandas, or pip install '.[notebook]'") from None
        return self._table.to_pandas()

    def pl(self) -> Any:
        """The rows as a polars.DataFrame."""
        try:
            import polars
        except ImportError:
            raise UserError("pl() needs polars: pip install polars, or pip install '.[notebook]'") from None
        return polars.from_arrow(self._table)

    @property
    def columns(self) -> list[str]:
        return list(self._table.column_names)

    def to_pylist(self) -> list[dict[str, Any]]:
        """The rows as dicts."""
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in arrow_tables.iter_rows(self._table):
            yield dict(zip(self.columns, values, strict=True))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule interface."""
        return self._table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"<{len(self):,} rows: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Any) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

        body = [line("td", row.values()) for row in Rows(self._table.slice(0, _SHOWN))]
        more = f"<p>{len(self):,} rows, {_SHOWN} shown</p>" if len(self) > _SHOWN else ""
        return f"<table><thead>{line('th', self.columns)}</thead><tbody>{''.join(body)}</tbody></table>{more}"
