"""Arrow tables of outcomes, rounds and points from the engine's results, and operations on such tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from sweep.common import schema
from sweep.common.errors import SweepFault

ARROW_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
Table: TypeAlias = pa.Table
Batches: TypeAlias = pa.RecordBatchReader
Schema: TypeAlias = pa.Schema
CODED = pa.dictionary(pa.int32(), pa.string())
# Arrow's own pool returns freed pages to the system at once; to get them again costs a page fault each.
pa.set_memory_pool(pa.system_memory_pool())


@cache
def arrow_schema(columns: tuple[schema.Column, ...]) -> pa.Schema:
    """The Arrow schema of declared columns, with unit and meaning as metadata of each field."""
    return pa.schema(
        [
            pa.field(c.name, CODED if c.coded else ARROW_TYPES[c.type], metadata={"unit": c.unit, "meaning": c.meaning})
            for c in columns
        ]
    )


def concat_tables(tables: Sequence[Table]) -> Table:
    """One table of the rows of several of the same columns, of which some have NULLs in one table only."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries().combine_chunks()


def concat_arrays(arrays: Sequence[pa.Array]) -> pa.Array:
    """One Arrow array of the values of several."""
    return pa.concat_arrays(arrays)


def describe_derived(points: Table, derived: Mapping[str, str]) -> Table:
    """The points table with the SQL of each derived column as the column's meaning. `derived`: SQL by name."""
    if not derived:
        return points
    fields = [
        f.with_metadata({"unit": "", "meaning": f"derived: {derived[f.name]}"}) if f.name in derived else f
        for f in points.schema
    ]
    return points.cast(pa.schema(fields, points.schema.metadata))


def table_from_rows(columns: tuple[schema.Column, ...], rows: Iterable[Mapping[str, Any]]) -> Table:
    """A small table of rows given as mappings; a missing value is NULL."""
    return pa.Table.from_pylist([dict(row) for row in rows], arrow_schema(columns))


def with_floats(table: Table, name: str, values: Sequence[float | None]) -> Table:
    """The table with a further column of doubles."""
    return table.append_column(pa.field(name, pa.float64()), pa.array(values, pa.float64()))


def iter_rows(table: Table) -> Iterator[tuple[Any, ...]]:
    """The rows of a table as tuples of Python values."""
    for batch in table.to_batches(max_chunksize=16_384):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def decimals_as_int64(table: Table) -> Table:
    """The table with decimals of scale 0 as int64 if all fit: DuckDB's sums are 128 bits, which few programs read."""
    for i, field in enumerate(table.schema):
        if pa.types.is_decimal128(field.type) and field.type.scale == 0:
            try:
                table = table.set_column(i, field.name, table.column(i).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue
    return table


def id_bytes(ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> NDArray[np.uint8]:
    """The characters of point ids as uint8[n, 20]. SweepFault if one has another length."""
    array = ids.cast(pa.binary()) if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids, pa.binary())
    try:
        fixed = array.cast(pa.binary(20))
    except pa.ArrowInvalid as error:
        raise SweepFault("a point id that is not 20 characters long") from error
    chunks = fixed.chunks if isinstance(fixed, pa.ChunkedArray) else [fixed]
    parts = [np.empty((0, 20), np.uint8)]
    for chunk in (c for c in chunks if len(c)):
        characters = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, 20)
        parts.append(characters[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(parts)


def is_ok(points: Table) -> NDArray[np.bool_]:
    """bool[rows]: whether the status is ok."""
    found: NDArray[np.bool_] = pc.equal(points.column("status").cast(pa.string()), "ok").to_numpy()
    return found


def split_rows(table: Table, wanted: NDArray[np.bool_]) -> tuple[Table, Table]:
    """The rows for which `wanted`, bool[rows], is true, and the others."""
    if wanted.all():
        return table, table.slice(len(table))
    return table.filter(pa.array(wanted)), table.filter(pa.array(~wanted))


def known_ids(ids: pa.ChunkedArray, known: Iterable[str]) -> list[str]:
    """Those of `ids` that are in `known`."""
    found: list[str] = ids.filter(pc.is_in(ids, pa.array(list(known), pa.string()))).to_pylist()
    return found


def raise_attempts(points: Table, known: Mapping[str, int]) -> Table:
    """The points table with each attempt raised above the last one of that point, which `known` has by id."""
    if not known or not known_ids(points.column("point_id"), known):
        return points
    rows = zip(points.column("point_id").to_pylist(), points.column("attempt").to_pylist(), strict=True)
    attempts = pa.array([max(attempt, known.get(point, 0) + 1) for point, attempt in rows], pa.int64())
    place = points.schema.get_field_index("attempt")
    return points.set_column(place, points.schema.field(place), attempts)


def release_memory() -> None:
    """Return freed memory to the system: malloc would keep some 150 MB."""
    pa.default_memory_pool().release_unused()


def declared(columns: tuple[schema.Column, ...], arrays: Mapping[str, pa.Array], rows: int) -> Table:
    """A table of the declared columns in order, with their types. A missing one is NULL; an undeclared one is a fault.

    Columns without NULLs are marked as not nullable, so that Parquet stores no definition levels for them.
    """
    fields = arrow_schema(columns)
    extra = set(arrays) - set(fields.names)
    if extra:
        raise SweepFault(f"undeclared columns: {', '.join(sorted(extra))}")
    ordered = [_cast(arrays[f.name], f.type) if f.name in arrays else pa.nulls(rows, f.type) for f in fields]
    return pa.Table.from_arrays(ordered, schema=_exact_schema(columns, tuple(a.null_count > 0 for a in ordered)))


@lru_cache(maxsize=32)
def _exact_schema(columns: tuple[schema.Column, ...], nullable: tuple[bool, ...]) -> pa.Schema:
    """`arrow_schema(columns)` with these columns nullable. Cached, as it is the same for batch after batch."""
    pairs = zip(arrow_schema(columns), nullable, strict=True)
    return pa.schema([field.with_nullable(has_nulls) for field, has_nulls in pairs])


def _cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Cast `array` to `type_`, unless it already has that type: Arrow copies the data even for a no-op cast."""
    return array if array.type.equals(type_) else array.cast(type_)
