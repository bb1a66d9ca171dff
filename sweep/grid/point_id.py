"""Identity: the id of a point is the hash of its scenario as canonical JSON; the name of a run hashes its grid.

    point_id = blake2b-80( {"advice":"dontneed","arch":"x86-64",...,"model_version":1,...,"zap":65536,"zap_shift":0} )

The JSON is ASCII with sorted keys and no spaces. It has all fields of the scenario, also those with default values:
bytes and counts as integers, shares as their shortest decimal (0.9, 1.0), choices by name, res or sparsity as the grid
gives it, and the seed of the repeat. `thp` is in it only if it is not `never`. Policies, derived columns and the grid's
name are not in it, so a point of two grids has one id. For a trace it is {"model_version":1,"touch":"recorded",
"trace":"16 bytes of blake2b of the text, in hexadecimal"}, without path and name; of a recording of several processes
also "process":"4001"; and "thp" if the grid gives it.
"""

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine import MODEL_VERSION
from engine.model.scenario import FIELD, FIELDS, Columns, Field
from sweep.grid.value_formats import canonical_value, is_absent
from sweep.traces.trace_points import are_traces

if TYPE_CHECKING:
    from sweep.grid.grid import Grid

PointIds: TypeAlias = NDArray[np.bytes_]
"""S20[n]: ids as 20 hexadecimal digits."""
ID_BYTES = 10
"""Length of an id in binary."""
_VERSION_KEY = "model_version"
_KEYS = sorted([*FIELD, _VERSION_KEY])


def ids_from_bytes(binary: bytes) -> PointIds:
    """Ids from their binary form, ID_BYTES each."""
    return np.frombuffer(binary.hex().encode(), f"S{2 * ID_BYTES}")


def id_strings(ids: PointIds) -> list[str]:
    """Ids as Python strings."""
    return [point.decode() for point in ids.tolist()]


def canonical_scenario(columns: Columns, i: int) -> dict[str, int | float | str]:
    """The values of row i that are hashed, without the model's version."""
    if are_traces(columns):
        process = columns["trace_process"][i]
        of_several = {} if process is None else {"process": process}
        thp = {"thp": columns["thp"][i]} if columns["thp"][i] else {}
        return {"touch": columns["touch"][i], "trace": columns["trace_hash"][i]} | of_several | thp
    values = {field.name: columns[field.name][i].item() for field in FIELDS}
    return {name: canonical_value(FIELD[name], value) for name, value in values.items() if not is_left_out(name, value)}


def canonical_json(columns: Columns, i: int, model_version: int = MODEL_VERSION) -> str:
    """The text whose hash is the id of row i. This function defines ids; `point_ids` computes many of them fast."""
    content = canonical_scenario(columns, i) | {_VERSION_KEY: model_version}
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def point_id(text: str) -> str:
    """The id of a canonical JSON text: 20 hexadecimal digits."""
    return blake2b(text.encode("ascii"), digest_size=ID_BYTES).hexdigest()


def point_ids(columns: Columns) -> PointIds:
    """The id of every row: those of `canonical_json`, computed fast.

    The JSON fragment of a value is formatted once for each distinct value of a column, and constant columns are part
    of the next fragment. For each row it remains to join as many fragments as columns vary, and to hash them.
    """
    if are_traces(columns):
        return np.array([point_id(canonical_json(columns, i)) for i in range(len(columns["trace_hash"]))], "S20")
    rows = len(columns["virt"])
    varying: list[list[bytes]] = []
    constant = b"{"
    for key in _KEYS:
        fragments, index = _fragments(key, columns, "}" if key == _KEYS[-1] else ",")
        if index is None:
            constant += fragments[0]
        else:
            varying.append(np.array([constant + fragment for fragment in fragments], object)[index].tolist())
            constant = b""
    if not varying:
        return np.full(rows, point_id(constant.decode()), "S20")
    varying.append([constant] * rows)
    join = b"".join
    return ids_from_bytes(
        join([blake2b(join(row), digest_size=ID_BYTES).digest() for row in zip(*varying, strict=True)])
    )


def _fragments(key: str, columns: Columns, end: str) -> tuple[list[bytes], NDArray[np.intp] | None]:
    """(`"zap":65536,` for each distinct value, intp[rows] index into them, or None if all rows have the first)."""
    if key == _VERSION_KEY:
        return [f'"{key}":{MODEL_VERSION}{end}'.encode()], None
    field, values = FIELD[key], columns[key]
    if not len(values) or (values == values[0]).all() or np.isnan(values).all():
        return [_fragment(field, values[0].item(), end) if len(values) else b""], None
    distinct, index = np.unique(values, return_inverse=True)
    if field.kind == "choice" or key in ("res", "sparsity"):
        return [_fragment(field, value, end) for value in distinct.tolist()], index
    # JSON writes integers and finite doubles as Python does.
    return [f'"{key}":{value!r}{end}'.encode() for value in distinct.tolist()], index


def _fragment(field: Field, value: int | float, end: str) -> bytes:
    return (
        b""
        if is_left_out(field.name, value)
        else f'"{field.name}":{json.dumps(canonical_value(field, value))}{end}'.encode()
    )


def is_left_out(name: str, value: int | float) -> bool:
    """Whether a value is not in the JSON: an absent one, and `thp: never`, so that ids from before `thp` hold."""
    return is_absent(name, value) or (name == "thp" and value == 0)


def run_name(grid: "Grid") -> str:
    """`first-1a2b3c4d`: the grid's name, and 8 hexadecimal digits of a hash of its content and MODEL_VERSION."""
    content = json.dumps([MODEL_VERSION, grid.content()], sort_keys=True, separators=(",", ":"))
    return f"{grid.name}-{blake2b(content.encode('ascii'), digest_size=4).hexdigest()}"
