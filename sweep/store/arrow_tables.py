"""Arrow tables of outcomes, rounds and points from the engine's results, and operations on such tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import ABSENT, FIELDS, Columns
from sweep.common import schema
from sweep.common.errors import SweepFault
from sweep.grid.point_id import PointIds
from sweep.traces.trace_points import are_traces

_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
Table: TypeAlias = pa.Table
CODED = pa.dictionary(pa.int32(), pa.string())
# Arrow's own pool returns freed pages to the system at once; to get them again costs a page fault each.
pa.set_memory_pool(pa.system_memory_pool())


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Measurements of the live kernel. install_ns, zap_ns: int64[points, policies]; None for traces (not timed)."""

    install_ns: NDArray[np.int64] | None
    zap_ns: NDArray[np.int64] | None
    release: str
    pt_reclaim: bool


@cache
def arrow_schema(columns: tuple[schema.Column, ...]) -> pa.Schema:
    """The Arrow schema of declared columns, with unit and meaning as metadata of each field."""
    return pa.schema(
        [
            pa.field(c.name, CODED if c.coded else _TYPES[c.type], metadata={"unit": c.unit, "meaning": c.meaning})
            for c in columns
        ]
    )


def outcome_table(
    run_id: str,
    ids: PointIds | Sequence[str],
    repeat: NDArray[np.int64],
    columns: Columns,
    results: Results | Sequence[Results],
    policies: Sequence[str] = POLICIES,
    *,
    engine: str = "model",
    kernel: KernelFacts | None = None,
) -> Table:
    """Outcomes: one row for each point and each of `policies`, policy fastest.

    results: of the points in order, in one or several pieces.
    """
    points, each, several = len(ids), len(policies), [results] if isinstance(results, Results) else results
    values = _transpose_results([some.values for some in several], points, COLUMNS, policies)
    known, rows = set(several[0].known).intersection(*(some.known for some in several)), points * each
    arrays: dict[str, pa.Array] = {
        "run_id": _constant_array(run_id, rows),
        "point_id": _id_array(np.repeat(ids, each)),
        "repeat": pa.array(np.repeat(np.asarray(repeat, np.int64), each)),
        "policy": _dictionary_array(np.tile(np.arange(each), points), tuple(policies)),
        "engine": _constant_array(engine, rows),
        **scenario_arrays(columns, each),
    }
    for name, row in zip(COLUMNS, values, strict=True):
        arrays[name] = pa.array(row) if name in known else pa.nulls(rows, pa.int64())
    if kernel is not None:
        if kernel.install_ns is not None and kernel.zap_ns is not None:
            arrays["install_ns"] = pa.array(kernel.install_ns.reshape(rows))
            arrays["zap_ns"] = pa.array(kernel.zap_ns.reshape(rows))
        arrays["kernel_release"] = _constant_array(kernel.release, rows)
        arrays["pt_reclaim"] = pa.array(np.full(rows, kernel.pt_reclaim))
    return declared(schema.OUTCOMES, arrays, rows)


def round_table(
    run_id: str,
    ids: PointIds | Sequence[str],
    results: Results | Sequence[Results],
    policies: Sequence[str] = POLICIES,
    *,
    engine: str = "model",
) -> Table:
    """Rounds: one row for each point with several rounds, round and policy, in the order point, round, policy.

    Points of one round have no rows: the view `rounds` takes theirs from outcomes.
    """
    several, each = [results] if isinstance(results, Results) else results, len(policies)
    counts = np.concatenate([np.asarray(some.round_counts, np.int64) for some in several])
    if len(counts) != len(ids):
        raise SweepFault(f"rounds of {len(counts)} points for {len(ids)}")
    if not (counts > 1).any():
        return declared(schema.ROUNDS, {}, 0)
    values = _transpose_results([some.rounds for some in several], int(counts.sum()), ROUND_COLUMNS, policies)
    point = np.repeat(np.arange(len(ids)), counts)
    number = np.arange(len(point)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    if (counts == 1).any():
        has_several = counts[point] > 1
        point, number, values = point[has_several], number[has_several], values[:, np.repeat(has_several, each)]
    rows = values.shape[1]
    arrays: dict[str, pa.Array] = {
        "run_id": _constant_array(run_id, rows),
        "point_id": _id_array(np.asarray(ids)[np.repeat(point, each)]),
        "policy": _dictionary_array(np.tile(np.arange(each), len(point)), tuple(policies)),
        "engine": _constant_array(engine, rows),
        "round": pa.array(np.repeat(number, each)),
    }
    for name, row in zip(ROUND_COLUMNS, values, strict=True):
        arrays[name] = pa.array(row)
    return declared(schema.ROUNDS, arrays, rows)


def point_table(
    run_id: str,
    ids: PointIds | Sequence[str],
    repeat: NDArray[np.int64],
    columns: Columns,
    derived: Mapping[str, Any] | None = None,
    *,
    status: str | Sequence[str] = "ok",
    attempt: int | Sequence[int] | NDArray[np.int64] = 1,
    error: str | Sequence[str | None] | None = None,
    error_class: Sequence[str | None] | None = None,
    last_lines: Sequence[str | None] | None = None,
    node: str | Sequence[str | None] | None = None,
    cpu_ns: int | Sequence[int | None] | None = None,
    remarks: Sequence[str | None] | None = None,
    engine: str = "model",
) -> Table:
    """Points: one row each. A single value holds for all rows. `derived`: the grid's derived columns by name."""
    rows = len(ids)
    unknown = {status} if isinstance(status, str) else set(status)
    if unknown := unknown - set(schema.POINT_STATUSES):
        raise SweepFault(f"unknown status among {sorted(unknown)}")
    arrays: dict[str, pa.Array] = {
        "run_id": _constant_array(run_id, rows),
        "point_id": _id_array(ids),
        "repeat": pa.array(np.asarray(repeat, np.int64)),
        "engine": _constant_array(engine, rows),
        **scenario_arrays(columns),
        "remarks": _broadcast(remarks, rows, "string"),
        "status": _broadcast(status, rows, "string", coded=True),
        "attempt": _broadcast(attempt, rows, "int64"),
        "error": _broadcast(error, rows, "string"),
        "error_class": _broadcast(error_class, rows, "string", coded=True),
        "last_lines": _broadcast(last_lines, rows, "string"),
        "node": _broadcast(node, rows, "string", coded=True),
        "cpu_ns": _broadcast(cpu_ns, rows, "int64"),
        "finished_at": _broadcast(datetime.now(UTC), rows, "timestamp"),
    }
    table = declared(schema.POINTS, arrays, rows)
    for name, values in (derived or {}).items():
        array = pa.array(values)
        array = array.cast(pa.float64()) if pa.types.is_null(array.type) else array
        table = table.append_column(pa.field(name, array.type, metadata={"unit": "", "meaning": "derived"}), array)
    return table


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


def scenario_arrays(columns: Columns, each: int = 1) -> dict[str, pa.Array]:
    """Arrow arrays of the scenario's fields, each row `each` times: choices as text, sparsity computed from res.

    res is NULL where it is absent. Traces have their own columns instead.
    """
    if are_traces(columns):
        return {column.name: pa.array(np.repeat(columns[column.name], each)) for column in schema.TRACE}
    arrays: dict[str, pa.Array] = {}
    res, rows = columns["res"], len(columns["res"]) * each
    sparsity = np.where(res == ABSENT, columns["sparsity"], 1 - res / np.maximum(columns["virt"], 1))
    for field in FIELDS:
        values = sparsity if field.name == "sparsity" else columns[field.name]
        if len(values) and (values == values[0]).all() and values[0] != ABSENT:
            arrays[field.name] = _constant_array(field.choices[values[0]] if field.choices else values[0].item(), rows)
        elif field.choices:
            arrays[field.name] = _dictionary_array(np.repeat(values, each), field.choices)
        elif field.name == "res":
            arrays[field.name] = pa.array(np.repeat(values, each), mask=np.repeat(values == ABSENT, each))
        else:
            arrays[field.name] = pa.array(np.repeat(values, each))
    return arrays


def scenario_table(columns: Columns) -> Table:
    """An Arrow table of the scenario's and the trace's fields, one row for each point, with declared types."""
    return declared(schema.POINT, scenario_arrays(columns), len(columns["virt"]))


def table_from_rows(columns: tuple[schema.Column, ...], rows: Iterable[Mapping[str, Any]]) -> Table:
    """A small table of rows given as mappings; a missing value is NULL."""
    return pa.Table.from_pylist([dict(row) for row in rows], arrow_schema(columns))


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
    exact = [f.with_nullable(array.null_count > 0) for f, array in zip(fields, ordered, strict=True)]
    return pa.Table.from_arrays(ordered, schema=pa.schema(exact))


def _cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Cast `array` to `type_`, unless it already has that type: Arrow copies the data even for a no-op cast."""
    return array if array.type.equals(type_) else array.cast(type_)


def _transpose_results(
    pieces: Sequence[NDArray[np.int64]], rows: int, columns: Sequence[str], policies: Sequence[str]
) -> NDArray[np.int64]:
    """int64[columns, rows x policies] from pieces of int64[n, 7, columns].

    Each piece is copied once; a single piece with all policies is not copied before Arrow takes it.
    """
    if {piece.shape[1:] for piece in pieces} != {(len(POLICIES), len(columns))} or sum(map(len, pieces)) != rows:
        raise SweepFault(f"results of shapes {[piece.shape for piece in pieces][:3]} for {rows} rows")
    has_all_policies = tuple(policies) == POLICIES
    if has_all_policies and len(pieces) == 1:
        return np.moveaxis(np.asarray(pieces[0], np.int64), 2, 0).reshape(len(columns), -1)
    selected = slice(None) if has_all_policies else [POLICIES.index(policy) for policy in policies]
    values, at = np.empty((len(columns), rows, len(policies)), np.int64), 0
    for piece in pieces:
        values[:, at : at + len(piece)] = np.moveaxis(piece, 2, 0)[..., selected]
        at += len(piece)
    return values.reshape(len(columns), -1)


def _id_array(ids: PointIds | Sequence[str]) -> pa.Array:
    """An Arrow string array of ids, which all have one length, without copying their characters."""
    ids = np.ascontiguousarray(ids, bytes)
    ends = np.arange(len(ids) + 1, dtype=np.int32) * np.int32(ids.itemsize)
    return pa.Array.from_buffers(pa.string(), len(ids), [None, pa.py_buffer(ends), pa.py_buffer(ids)])


@lru_cache(maxsize=32, typed=True)
def _constant_array(value: str | float, rows: int) -> pa.Array:
    """An array of `rows` equal values. Cached, because most fields of a scenario are equal in batch after batch."""
    return (
        _dictionary_array(np.zeros(rows, np.int32), (value,))
        if isinstance(value, str)
        else pa.array(np.full(rows, value))
    )


def _dictionary_array(codes: NDArray[Any], words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))


def _broadcast(given: Any, rows: int, kind: str, coded: bool = False) -> pa.Array:
    """An array of one value for each row, from a sequence, a single value, or None (all NULL)."""
    if given is None:
        return pa.nulls(rows, CODED if coded else _TYPES[kind])
    if isinstance(given, str) and coded:
        return _constant_array(given, rows)
    if isinstance(given, str | int | datetime):
        return pa.repeat(pa.scalar(given, _TYPES[kind]), rows)
    array = pa.array(given, _TYPES[kind])
    return array.dictionary_encode() if coded else array
