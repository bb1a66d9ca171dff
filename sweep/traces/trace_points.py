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

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS as OUTCOME_COLUMNS
from engine.model.results import ROUND_COLUMNS, STATE, Results
from engine.model.scenario import Columns, complete
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.traces.trace_reader import detect_format
from sweep.traces.trace_replay import TraceReplay

COLUMNS = ("trace", "trace_hash", "trace_rows", "touch")
TOUCH_RECORDED, TOUCH_ALL = "recorded", "all"
TOUCH_CHOICES = (TOUCH_RECORDED, TOUCH_ALL)
HASH_BYTES = 16
MAX_CONTENT_BYTES = 256 << 20
"""Of one trace, packed: some ten times as much text. `sweep replay` streams longer ones."""
NS_PER_ROW = 15_000.0
"""All seven policies, measured; a first guess for batching."""
DETERMINED = ("zap_calls", "ptes_installed", "ptes_zapped", "pte_tables_allocated", "pte_tables_freed")
"""The counters of work that follow from a trace. Locks, gathers and TLB flushes are not replayed."""
KNOWN = (*STATE, *DETERMINED)


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file of the grid. `digest`: blake2b of its text, unpacked, so that a .csv and its .csv.gz are one point."""

    path: Path
    name: str
    format: str
    digest: str
    rows: int

    def content(self) -> bytes:
        """Its text, packed. Raises UserError if it is not what it was when the grid was read."""
        packer = zlib.compressobj(1, wbits=31)
        digest, parts, size = blake2b(digest_size=HASH_BYTES), [], 0
        with TextLines(str(self.path)) as rows:
            for block in rows.blocks():
                digest.update(block)
                parts.append(packer.compress(block))
                size += len(parts[-1])
                if size > MAX_CONTENT_BYTES:
                    raise UserError(
                        f"{self.path}: more than {MAX_CONTENT_BYTES >> 20} MiB, packed: too long for a grid; "
                        "`sweep replay` streams it"
                    )
        if digest.hexdigest() != self.digest:
            raise UserError(f"{self.path}: has changed since the grid was read")
        return b"".join([*parts, packer.flush()])


def read_trace_file(path: Path, name: str) -> TraceFile:
    """Hash a file. Raises UserError: it cannot be read, or is no trace."""
    digest, lines, last = blake2b(digest_size=HASH_BYTES), 0, b"\n"
    with TextLines(str(path)) as rows:
        first = next(iter(rows), None)
        if first is None:
            raise UserError(f"{path}: is empty")
        trace_format = detect_format(rows, first[1])
    with TextLines(str(path)) as rows:
        for block in rows.blocks():
            digest.update(block)
            lines, last = lines + block.count(b"\n"), block
    return TraceFile(path, name, trace_format, digest.hexdigest(), lines + (not last.endswith(b"\n")))


def are_traces(columns: Mapping[str, Any]) -> bool:
    return "trace_hash" in columns


def trace_axis(traces: tuple[TraceFile, ...]) -> dict[str, NDArray[Any]]:
    """The values of an axis of traces."""
    return {
        "trace": np.array([trace.name for trace in traces], object),
        "trace_hash": np.array([trace.digest for trace in traces], object),
        "trace_rows": np.array([trace.rows for trace in traces], np.int64),
    }


def trace_columns(values: Mapping[str, NDArray[Any]], touch: str) -> Columns:
    """Complete columns: no field of a scenario has a value but those with a default."""
    rows = len(values["trace_hash"])
    return {**complete({}, rows), **values, "touch": np.full(rows, touch, object)}


def estimate_ns(columns: Columns) -> NDArray[np.float64]:
    return np.asarray(columns["trace_rows"] * NS_PER_ROW + 1e6, np.float64)


def with_contents(columns: Columns, traces: tuple[TraceFile, ...]) -> Columns:
    """The columns of a task, with what each file holds. Raises UserError."""
    held = {trace.digest: trace for trace in traces}
    contents = {digest: held[digest].content() for digest in dict.fromkeys(columns["trace_hash"])}
    content = np.empty(len(columns["trace_hash"]), object)
    content[:] = [contents[digest] for digest in columns["trace_hash"]]
    return {**{name: columns[name] for name in COLUMNS}, "virt": columns["virt"], "content": content}


def run_batch(columns: Columns) -> Results:
    """Replay the traces of a task: `columns` as `with_contents` returns them. Workers call it by its name.

    The Results have no rounds, and zeros in the columns that are not in KNOWN. Raises UserError with the row of the
    trace at fault.
    """
    points = len(columns["trace"])
    values, remarks = np.zeros((points, len(POLICIES), len(OUTCOME_COLUMNS)), np.int64), []
    traces = zip(columns["trace"], columns["touch"], columns["content"], strict=True)
    for point, (name, touch, content) in enumerate(traces):
        trace = TraceReplay(name, name, POLICIES, touch_all=touch == TOUCH_ALL, data=content)
        for _ in trace:
            pass
        for row, policy in enumerate(POLICIES):
            outcome = trace.replay.outcome(policy) | {"zap_calls": trace.histogram.purge_calls}
            values[point, row] = [outcome.get(column, 0) for column in OUTCOME_COLUMNS]
        remarks.append("; ".join((*trace.skipped.lines(), *trace.remarks)) or None)
    no_rounds = np.zeros((0, len(POLICIES), len(ROUND_COLUMNS)), np.int64)
    return Results(values, no_rounds, np.zeros(points, np.int64), KNOWN, tuple(remarks))
