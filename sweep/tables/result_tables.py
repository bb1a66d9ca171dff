"""Arrow tables of outcomes, rounds and points from the engine's results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, Results
from engine.model.scenario import ABSENT, FIELDS, Columns
from sweep.common import schema
from sweep.common.errors import SweepFault
from sweep.grid.point_id import PointIds
from sweep.tables.arrow_tables import ARROW_TYPES, CODED, Table, declared
from sweep.traces.trace_points import are_traces


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Measurements of a kernel. install_ns, zap_ns: int64[points, policies]; None where nothing was timed."""

    install_ns: NDArray[np.int64] | None
    zap_ns: NDArray[np.int64] | None
    release: str
    pt_reclaim: bool
    accel: str = "host"


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

    results: of the points in order, in one or several pieces, under `policies` in their order.
    """
    points, each, several = len(ids), len(policies), [results] if isinstance(results, Results) else results
    values = _transpose_results([some.values for some in several], (points, each, len(COLUMNS)))
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
        arrays["accel"] = _constant_array(kernel.accel, rows)
    return declared(schema.OUTCOMES, arrays, rows)


def round_table(
    run_id: str,
    ids: PointIds | Sequence[str],
    results: Results | Sequence[Results],
    policies: Sequence[str] = POLICIES,
    *,
    engine: str = "model",
    kernel_release: str | None = None,
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
    values = _transpose_results([some.rounds for some in several], (int(counts.sum()), each, len(ROUND_COLUMNS)))
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
    if kernel_release is not None:
        arrays["kernel_release"] = _constant_array(kernel_release, rows)
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


def scenario_arrays(columns: Columns, each: int = 1) -> dict[str, pa.Array]:
    """Arrow arrays of the scenario's fields, each row `each` times: choices as text, sparsity computed from res.

    res is NULL where it is absent. Traces have their own columns instead.
    """
    if are_traces(columns):
        thp = np.repeat(columns["thp"], each)
        arrays = {column.name: pa.array(np.repeat(columns[column.name], each)) for column in schema.TRACE}
        return arrays | {"thp": pa.array(thp, pa.string(), mask=thp == "")}
    arrays = {}
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


def _transpose_results(pieces: Sequence[NDArray[np.int64]], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """int64[columns, rows x policies] from pieces of int64[n, policies, columns]; `shape`: rows, policies, columns.

    Each piece is copied once; a single piece is not copied before Arrow takes it.
    """
    rows, policies, columns = shape
    if {piece.shape[1:] for piece in pieces} != {(policies, columns)} or sum(map(len, pieces)) != rows:
        raise SweepFault(f"results of shapes {[piece.shape for piece in pieces][:3]} for {shape}")
    if len(pieces) == 1:
        return np.moveaxis(np.asarray(pieces[0], np.int64), 2, 0).reshape(columns, -1)
    values, at = np.empty((columns, rows, policies), np.int64), 0
    for piece in pieces:
        values[:, at : at + len(piece)] = np.moveaxis(piece, 2, 0)
        at += len(piece)
    return values.reshape(columns, -1)


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
        return pa.nulls(rows, CODED if coded else ARROW_TYPES[kind])
    if isinstance(given, str) and coded:
        return _constant_array(given, rows)
    if isinstance(given, str | int | datetime):
        return pa.repeat(pa.scalar(given, ARROW_TYPES[kind]), rows)
    array = pa.array(given, ARROW_TYPES[kind])
    return array.dictionary_encode() if coded else array
