"""Parquet files: Arrow tables to bytes and back, merging, and checks of what is read."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from sweep.common import schema
from sweep.common.errors import DamagedError, UserError
from sweep.tables.arrow_tables import Schema, Table, arrow_schema, declared

_UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
_PARQUET = {
    "compression": "lz4",
    "write_statistics": ["run_id", "status", "attempt"],
    "max_rows_per_page": 1 << 20,
    "data_page_size": 1 << 24,
    "write_batch_size": 1 << 16,
}
"""One page for each column of a row group, because a dictionary is repeated for each page. Numbers have no dictionary:
it makes files a third smaller, but writing takes twice as long and queries are no faster. Zstandard makes smaller
files, but takes longer to write and to read. Statistics only for columns by which a query can skip a file."""
MAX_ROWS = 1 << 24
"""Most rows of a file that is read at once: a small file may have billions of equal rows. Parts have far fewer."""
ROW_GROUP = 61_440
"""Rows of a row group in a merged file: what is in memory while merging, and the unit of work of a DuckDB thread."""


def to_bytes(table: Table, keep: Mapping[str, str] | None = None) -> bytes:
    """The table as a Parquet file, without absent columns. `keep`: key-value metadata (`read_metadata` returns it)."""
    sink = pa.BufferOutputStream()
    table = _add_metadata(without_absent_columns(table), keep or {})
    pq.write_table(table, sink, **_write_options(table.schema))
    return bytes(sink.getvalue())


def without_absent_columns(table: Table) -> Table:
    """The table without the scenario, trace or kernel columns if its run has none: NULLs cost as much as numbers.

    All files of one run and table have the same columns, so other programs can read them as one dataset.
    """
    names = set(table.column_names)
    absent = [
        column.name
        for columns, sign in ((schema.SCENARIO, "virt"), (schema.TRACE, "trace"), (schema.KERNEL, "kernel_release"))
        if sign in names and table.column(sign).null_count == len(table)
        for column in columns
        if column.name in names and table.column(column.name).null_count == len(table)  # traces may have `thp`
    ]
    return table.drop_columns(absent) if len(table) else table


def to_bytes_if_any(table: Table | None) -> bytes:
    """`to_bytes(table)`; no bytes if there is no table, or it has no rows."""
    return to_bytes(table) if table is not None and table.num_rows else b""


def write_file(table: Table, sink: Path | BinaryIO) -> None:
    """Write a table as a Parquet file for other programs: small, and readable by all of them."""
    pq.write_table(table, sink, compression="zstd")


def write_batches(names: Sequence[str], form: Schema, batches: Iterable[Table], sink: Path | BinaryIO) -> None:
    """Write record batches as `write_file` does, with these names of columns, one row group in memory at a time."""
    named = pa.schema([field.with_name(name) for name, field in zip(names, form, strict=True)])
    with pq.ParquetWriter(sink, named, compression="zstd") as writer:
        waiting: list[Table] = []
        for batch in batches:
            waiting.append(pa.Table.from_arrays(batch.columns, schema=named))
            if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def read_table(source: Any, name: str, columns: Sequence[str] | None = None) -> Table:
    """Read some columns of a Parquet file: a path, an open file or bytes. DamagedError names it by `name`."""
    with _reading(name), pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) as file:
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            raise DamagedError(f"{name}: lacks {', '.join(sorted(missing))}")
        if file.metadata.num_rows > MAX_ROWS:
            raise DamagedError(f"{name}: {file.metadata.num_rows:,} rows; a part has at most {MAX_ROWS:,}")
        return file.read(columns=columns and list(columns))  # not read_table: that costs 5 ms a file


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Raise errors of Arrow's reader as a DamagedError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{name}: is gone") from error
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:  # such as missing permissions: the file may be intact
            raise UserError(f"{name}: {os.strerror(error.errno)}; change its permissions: the run needs it") from error
        raise DamagedError(f"{name}: not a whole Parquet file ({_first_line(error)})") from error


def merge(sources: Sequence[Any], keep: Mapping[str, str] | None = None) -> bytes:
    """Merge Parquet files into one. Some row groups are in memory at a time. `keep`: key-value metadata."""
    sink = pa.BufferOutputStream()
    files = [pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) for source in sources]
    schema_ = _unify([file.schema_arrow for file in files]).with_metadata(dict(keep) if keep else None)
    with pq.ParquetWriter(sink, schema_, **_write_options(schema_)) as writer:
        waiting: list[Table] = []
        for file in files:
            for group in range(file.num_row_groups):
                waiting.append(_fit(file.read_row_group(group), schema_))
                if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=2 * ROW_GROUP)
                    waiting = []
            file.close()
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=2 * ROW_GROUP)
    return bytes(sink.getvalue())


def read_metadata(file: bytes, name: str) -> dict[str, str]:
    """The key-value metadata that `to_bytes` or `merge` has written into this file."""
    with _reading(name):
        metadata = pq.read_metadata(pa.BufferReader(file)).metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW")}


def check_points(points: Table, name: str) -> None:
    """DamagedError unless the columns of a points table have their declared types, no NULLs, and known statuses."""
    _check_fields(points.schema, name, tuple(c for c in schema.POINTS if c.name in points.column_names))
    if any(column.null_count for column in points.columns):
        raise DamagedError(f"{name}: a point without id, status or attempt")
    if not set(points.column("status").unique().to_pylist()) <= set(schema.POINT_STATUSES):
        raise DamagedError(f"{name}: a status that is none of {', '.join(schema.POINT_STATUSES)}")


def check_columns(source: Any, name: str, columns: tuple[schema.Column, ...]) -> None:
    """DamagedError if a declared column has another type in this Parquet file."""
    with _reading(name):
        found = pq.read_schema(source if isinstance(source, Path) else pa.BufferReader(source))
    _check_fields(found, name, columns)


def _check_fields(found: pa.Schema, name: str, columns: tuple[schema.Column, ...]) -> None:
    """DamagedError if a declared column has another type in `found`; it may be missing."""
    for field in arrow_schema(columns):
        actual = found.field(field.name).type if field.name in found.names else field.type
        if not actual.equals(field.type) and not (_is_text(actual) and _is_text(field.type)):
            raise DamagedError(f"{name}: column {field.name} is {actual}, not {field.type}")


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_.value_type if pa.types.is_dictionary(type_) else type_))


def dataset_of(files: Sequence[Any]) -> Any:
    """An Arrow dataset of Parquet files in buffers, from which DuckDB takes the columns and rows that it needs."""
    form = pyarrow.dataset.ParquetFileFormat()
    with _reading("SQL: the run's files"):
        fragments = [form.make_fragment(pa.py_buffer(file)) for file in files]
        whole = _unify([fragment.physical_schema for fragment in fragments])
    return pyarrow.dataset.FileSystemDataset(fragments, whole, form)


def warm_up() -> None:
    """Make a file without rows: the first one that Arrow makes in a process takes some milliseconds longer."""
    to_bytes(declared(schema.OUTCOMES, {}, 0))


def _write_options(fields: pa.Schema) -> dict[str, Any]:
    """Options for a file of these columns: dictionaries for strings that repeat."""
    once = () if "policy" in fields.names else ("point_id",)
    words = [f.name for f in fields if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)]
    return {**_PARQUET, "use_dictionary": [name for name in words if name not in once]}


def _add_metadata(table: Table, keep: Mapping[str, str]) -> Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **keep}) if keep else table


def _unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """A schema with the columns of all of them, nullable if one lacks them. UserError if types do not fit.

    A type may be wider than that of one part: a derived column with only NULLs is stored as numbers.
    """
    try:
        whole = pa.unify_schemas([schema_.remove_metadata() for schema_ in schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"parts do not fit together: {_first_line(error)}") from error
    gaps = {field.name for field in whole if any(field.name not in schema_.names for schema_ in schemas)}
    return pa.schema([field.with_nullable(True) if field.name in gaps else field for field in whole])


def _fit(table: Table, schema_: pa.Schema) -> Table:
    """The table with the columns of the schema, in its order; missing ones are NULL."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in schema_
    ]
    return pa.Table.from_arrays(columns, schema=schema_)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
