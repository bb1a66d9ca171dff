"""Who is who: a point's id is the hash of its canonical scenario, a run's name says its grid and that grid's content.

    point_id = blake2b-80( {"advice":"dontneed","arch":"x86-64",...,"model_version":1,...,"zap":65536,"zap_shift":0} )

JSON in ASCII, keys sorted, no spaces: all scenario fields, defaults too, bytes and counts as integers, shares in their
shortest decimal (0.9, 1.0), choices by name; of res and sparsity the one that was given; the seed is the repeat's.
Policies, derived columns and the grid's name are no part of it, so two grids share the points that they share.
Of a trace it is {"model_version":1,"touch":"recorded","trace":"16 bytes of blake2b of its text"}: no path, no name.
"""

import json
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine import MODEL_VERSION
from engine.model.scenario import FIELD, FIELDS, Columns, Field
from sweep.grid.field_values import canonical_value, is_absent
from sweep.grid.grid import Grid
from sweep.traces.trace_points import are_traces

PointIds: TypeAlias = NDArray[np.bytes_]
"""S20[n]: ids as their digits."""
ID_BYTES = 10
"""Of an id as a number."""
_VERSION_KEY = "model_version"
_KEYS = sorted([*FIELD, _VERSION_KEY])


def ids_from_bytes(numbers: bytes) -> PointIds:
    """Ids from their numbers, ID_BYTES each."""
    return np.frombuffer(numbers.hex().encode(), f"S{2 * ID_BYTES}")


def id_strings(ids: PointIds) -> list[str]:
    """Ids as a reader sees them."""
    return [point.decode() for point in ids.tolist()]


def canonical_scenario(columns: Columns, i: int) -> dict[str, int | float | str]:
    """Row i as it is hashed, without the version; an absent res or sparsity is left out."""
    if are_traces(columns):
        return {"touch": columns["touch"][i], "trace": columns["trace_hash"][i]}
    values = {field.name: columns[field.name][i].item() for field in FIELDS}
    return {name: canonical_value(FIELD[name], value) for name, value in values.items() if not is_absent(name, value)}


def canonical_json(columns: Columns, i: int, model_version: int = MODEL_VERSION) -> str:
    """The text whose hash is the id of row i. This says what an id is; `point_ids` is the fast way to many."""
    content = canonical_scenario(columns, i) | {_VERSION_KEY: model_version}
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def point_id(text: str) -> str:
    """20 hex digits of a canonical JSON."""
    return blake2b(text.encode("ascii"), digest_size=ID_BYTES).hexdigest()


def point_ids(columns: Columns) -> PointIds:
    """The id of every row.

    A value's piece of JSON is spelled once for each distinct value of a column, together with what stands before it in
    all rows. Left for a row: to join as many pieces as columns vary, and the hash.
    """
    if are_traces(columns):
        return np.array([point_id(canonical_json(columns, i)) for i in range(len(columns["trace_hash"]))], "S20")
    rows = len(columns["virt"])
    varying: list[list[bytes]] = []
    constant = b"{"
    for key in _KEYS:
        pieces, place = _pieces(key, columns, "}" if key == _KEYS[-1] else ",")
        if place is None:
            constant += pieces[0]
        else:
            varying.append(np.array([constant + piece for piece in pieces], object)[place].tolist())
            constant = b""
    if not varying:
        return np.full(rows, point_id(constant.decode()), "S20")
    varying.append([constant] * rows)
    join = b"".join
    return ids_from_bytes(
        join([blake2b(join(row), digest_size=ID_BYTES).digest() for row in zip(*varying, strict=True)])
    )


def _pieces(key: str, columns: Columns, end: str) -> tuple[list[bytes], NDArray[np.intp] | None]:
    """`"zap":65536,` for each distinct value, and which one a row has; None if all rows have the first."""
    if key == _VERSION_KEY:
        return [f'"{key}":{MODEL_VERSION}{end}'.encode()], None
    field, values = FIELD[key], columns[key]
    if not len(values) or (values == values[0]).all() or np.isnan(values).all():
        return [_piece(field, values[0].item(), end) if len(values) else b""], None
    distinct, place = np.unique(values, return_inverse=True)
    if field.kind == "choice" or key in ("res", "sparsity"):
        return [_piece(field, value, end) for value in distinct.tolist()], place
    # JSON writes whole numbers and finite doubles as Python does.
    return [f'"{key}":{value!r}{end}'.encode() for value in distinct.tolist()], place


def _piece(field: Field, value: int | float, end: str) -> bytes:
    return (
        b""
        if is_absent(field.name, value)
        else f'"{field.name}":{json.dumps(canonical_value(field, value))}{end}'.encode()
    )


def run_name(grid: Grid) -> str:
    """`first-1a2b3c4d`: the grid's name and 8 hex digits of its content and the engine's version."""
    content = json.dumps([MODEL_VERSION, grid.content()], sort_keys=True, separators=(",", ":"))
    return f"{grid.name}-{blake2b(content.encode('ascii'), digest_size=4).hexdigest()}"
