"""Traces as points of a grid: `workload: {trace: FILE}`. A trace is its content: the id hashes what the file holds.

Such points have columns of their own beside the scenario's, which are absent: `trace` (its name), `trace_hash`,
`trace_rows` and `touch`. What the file holds joins them as `content` when a task is sent off, so that workers, on other
machines too, need no file.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns, complete
from sweep.common.errors import UserError
from sweep.common.text_lines import Rows
from sweep.traces.trace_reader import kind_of

COLUMNS = ("trace", "trace_hash", "trace_rows", "touch")
RECORDED, ALL = "recorded", "all"
TOUCH = (RECORDED, ALL)
HASH_BYTES = 16
MOST_CONTENT_BYTES = 256 << 20
"""Of one trace, packed: some ten times as much text. `sweep replay` streams longer ones."""
NS_A_ROW = 15_000.0
"""All seven policies, measured; a first guess for batching."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Trace:
    """A file of the grid. `digest`: blake2b of its text, unpacked, so that a .csv and its .csv.gz are one point."""

    path: Path
    name: str
    form: str
    digest: str
    rows: int

    def content(self) -> bytes:
        """Its text, packed. Raises UserError if it is not what it was when the grid was read."""
        packer = zlib.compressobj(1, wbits=31)
        digest, parts, size = blake2b(digest_size=HASH_BYTES), [], 0
        with Rows(str(self.path)) as rows:
            for block in rows.blocks():
                digest.update(block)
                parts.append(packer.compress(block))
                size += len(parts[-1])
                if size > MOST_CONTENT_BYTES:
                    raise UserError(
                        f"{self.path}: more than {MOST_CONTENT_BYTES >> 20} MiB, packed: too long for a grid; "
                        "`sweep replay` streams it"
                    )
        if digest.hexdigest() != self.digest:
            raise UserError(f"{self.path}: has changed since the grid was read")
        return b"".join([*parts, packer.flush()])


def read(path: Path, name: str) -> Trace:
    """Hash a file. Raises UserError: it cannot be read, or is no trace."""
    digest, lines, last = blake2b(digest_size=HASH_BYTES), 0, b"\n"
    with Rows(str(path)) as rows:
        first = next(iter(rows), None)
        if first is None:
            raise UserError(f"{path}: is empty")
        form = kind_of(rows, first[1])
    with Rows(str(path)) as rows:
        for block in rows.blocks():
            digest.update(block)
            lines, last = lines + block.count(b"\n"), block
    return Trace(path, name, form, digest.hexdigest(), lines + (not last.endswith(b"\n")))


def is_trace(columns: Mapping[str, Any]) -> bool:
    return "trace_hash" in columns


def axis_of(traces: tuple[Trace, ...]) -> dict[str, NDArray[Any]]:
    """The values of an axis of traces."""
    return {
        "trace": np.array([trace.name for trace in traces], object),
        "trace_hash": np.array([trace.digest for trace in traces], object),
        "trace_rows": np.array([trace.rows for trace in traces], np.int64),
    }


def columns_of(values: Mapping[str, NDArray[Any]], touch: str) -> Columns:
    """Complete columns: no field of a scenario has a value but those with a default."""
    rows = len(values["trace_hash"])
    return {**complete({}, rows), **values, "touch": np.full(rows, touch, object)}


def estimate_ns(columns: Columns) -> NDArray[np.float64]:
    return np.asarray(columns["trace_rows"] * NS_A_ROW + 1e6, np.float64)


def loaded(columns: Columns, traces: tuple[Trace, ...]) -> Columns:
    """The columns of a task, with what each file holds. Raises UserError."""
    held = {trace.digest: trace for trace in traces}
    contents = {digest: held[digest].content() for digest in dict.fromkeys(columns["trace_hash"])}
    content = np.empty(len(columns["trace_hash"]), object)
    content[:] = [contents[digest] for digest in columns["trace_hash"]]
    return {**{name: columns[name] for name in COLUMNS}, "virt": columns["virt"], "content": content}
