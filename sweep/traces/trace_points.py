"""Traces as points of a grid (`workload: {trace: FILE}`): their columns, their content, and how workers run them.

A point is a process of a trace, identified by the trace's content, not by its path. Such points have the columns
`trace` (a name), `trace_hash`, `trace_rows`, `trace_process` (None if there is one only) and `touch`; `thp` is the
system's setting of huge pages, or empty; the other fields of a scenario are absent. The content joins them as the
column `content` when a task is sent, so workers on other machines need no file.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import ALL, Policy
from engine.model.results import COLUMNS as OUTCOME_COLUMNS
from engine.model.results import ROUND_COLUMNS, STATE, Results
from engine.model.scenario import Columns, complete
from sweep.common.errors import UserError
from sweep.common.text_lines import TextLines
from sweep.trace_readers import forms
from sweep.traces.trace_replay import TraceReplay, selected, total_figures

COLUMNS = ("trace", "trace_hash", "trace_rows", "trace_process", "touch")
TOUCH_RECORDED, TOUCH_ALL = "recorded", "all"
TOUCH_CHOICES = (TOUCH_RECORDED, TOUCH_ALL)
HASH_BYTES = 16
MAX_CONTENT_BYTES = 256 << 20
"""Limit for one trace, compressed: about ten times as much text. `sweep replay` streams longer ones."""
NS_PER_ROW = 15_000.0
"""CPU time of all seven policies, measured. A first guess from which tasks are sized."""
DETERMINED = (
    *("zap_calls", "ptes_installed", "ptes_zapped", "pte_tables_allocated", "pte_tables_freed"),
    *("thp_faults", "thp_splits"),
)
"""The counters of work that follow from a trace. Locks, gathers and TLB flushes are not replayed."""
KNOWN = (*STATE, *DETERMINED)


@dataclass(frozen=True, slots=True)
class RecordedProcess:
    """A process of a trace that a grid names."""

    path: Path
    name: str
    form: str  #: one of those in forms.py
    digest: str  #: blake2b of the decompressed text, in hexadecimal: a .csv and its .csv.gz are one point
    rows: int
    process: str | None = None  #: its label, such as 4001 or 4001.2; None if it is the only one

    @property
    def identity(self) -> str | tuple[str, str]:
        """What identifies it: the digest, and the process if there are several."""
        return self.digest if self.process is None else (self.digest, self.process)

    def content(self) -> bytes:
        """The text, compressed with gzip. Raises UserError if it changed since the grid was read, or is too long."""
        compressor = zlib.compressobj(1, wbits=31)
        digest, parts, size = blake2b(digest_size=HASH_BYTES), [], 0
        with TextLines(str(self.path)) as lines:
            for block in lines.read_blocks():
                digest.update(block)
                parts.append(compressor.compress(block))
                size += len(parts[-1])
                if size > MAX_CONTENT_BYTES:
                    raise UserError(
                        f"{lines.path}: more than {MAX_CONTENT_BYTES >> 20} MiB, compressed: too long for a grid; "
                        "`sweep replay` streams it"
                    )
        if digest.hexdigest() != self.digest:
            raise UserError(f"{lines.path}: has changed since the grid was read")
        return b"".join([*parts, compressor.flush()])


def read_processes(path: Path, name: str) -> list[RecordedProcess]:
    """The processes of a trace, with its hash and number of rows; `name` is its name in tables.

    One without a label if the trace cannot be replayed: its point then fails with the reason. Raises UserError for a
    file that is unreadable, empty or no trace.
    """
    digest, line_ends, last_block = blake2b(digest_size=HASH_BYTES), 0, b"\n"
    with TextLines(str(path)) as lines:
        form = forms.recognise(lines).form
    with TextLines(str(path)) as lines:
        for block in lines.read_blocks():
            digest.update(block)
            line_ends, last_block = line_ends + block.count(b"\n"), block
    rows = line_ends + (not last_block.endswith(b"\n"))
    labels = [] if form in forms.TABLES else _process_labels(path, name)
    return [
        RecordedProcess(path, name, form, digest.hexdigest(), rows, label)
        for label in (labels if len(labels) > 1 else [None])
    ]


def _process_labels(path: Path, name: str) -> list[str | None]:
    trace = TraceReplay(str(path), name, (), touch_all=False)
    try:
        for _ in trace:
            pass
    except UserError:
        return []
    return [trace.label(process) for process in trace.processes]


def are_traces(columns: Mapping[str, Any]) -> bool:
    """Whether these columns of points describe recordings, not scenarios."""
    return "trace_hash" in columns


def point_names(columns: Columns) -> list[str]:
    """What names each point in messages: the trace, and the process of several."""
    pairs = zip(columns["trace"], columns["trace_process"], strict=True)
    return [trace if process is None else f"{trace}, process {process}" for trace, process in pairs]


def trace_axis(traces: tuple[RecordedProcess, ...]) -> dict[str, NDArray[Any]]:
    """The columns of a grid's axis of traces, one value per process."""
    return {
        "trace": np.array([trace.name for trace in traces], object),
        "trace_hash": np.array([trace.digest for trace in traces], object),
        "trace_rows": np.array([trace.rows for trace in traces], np.int64),
        "trace_process": np.array([trace.process for trace in traces], object),
    }


def trace_columns(values: Mapping[str, NDArray[Any]], touch: str, thp: str = "") -> Columns:
    """Complete columns of points: `values` as `trace_axis` makes them, and a scenario's fields by default.

    thp: the system's setting of huge pages, empty if it is unknown
    """
    rows = len(values["trace_hash"])
    return {**complete({}, rows), **values, "touch": np.full(rows, touch, object), "thp": np.full(rows, thp, object)}


def estimate_ns(columns: Columns) -> NDArray[np.float64]:
    """Expected CPU time in nanoseconds, one value per point.

    A task replays a trace once for all its processes, so the first one costs that time and the others nearly nothing.
    """
    estimate = np.full(len(columns["trace_rows"]), 1e6)
    _, first = np.unique(columns["trace_hash"].astype(str), return_index=True)
    estimate[first] += columns["trace_rows"][first] * NS_PER_ROW
    return estimate


def with_contents(columns: Columns, traces: tuple[RecordedProcess, ...]) -> Columns:
    """The columns that a worker needs: COLUMNS, `thp`, `virt` and `content`. Raises UserError as `content` does."""
    files = {trace.digest: trace for trace in traces}
    contents = {digest: files[digest].content() for digest in dict.fromkeys(columns["trace_hash"])}
    content = np.empty(len(columns["trace_hash"]), object)
    content[:] = [contents[digest] for digest in columns["trace_hash"]]
    return {**{name: columns[name] for name in (*COLUMNS, "thp")}, "virt": columns["virt"], "content": content}


def run_batch(columns: Columns, policies: Sequence[Policy] = ALL) -> Results:
    """Replay the traces of a task: `columns` as `with_contents` returns them. Workers call it by its name.

    The Results have no rounds, and zeros in the columns that are not in KNOWN. Raises UserError with the row of the
    trace at fault.
    """
    points = len(columns["trace"])
    values, remarks = np.zeros((points, len(policies), len(OUTCOME_COLUMNS)), np.int64), []
    replayed: dict[tuple[str, str, str, bytes], TraceReplay] = {}
    for point in range(points):
        name, touch, thp, content = (columns[key][point] for key in ("trace", "touch", "thp", "content"))
        trace = _replayed(replayed, name, touch, thp, content, policies)
        process = columns["trace_process"][point]
        processes = selected(trace, process or "all")
        figures, zap_calls = total_figures(processes), trace.histogram_of(processes).zap_calls
        for i, policy in enumerate(policies):
            outcome = figures[policy.name] | {"zap_calls": zap_calls}
            values[point, i] = [outcome.get(column, 0) for column in OUTCOME_COLUMNS]
        remarks.append("; ".join(trace.notes()) or None)
    no_rounds = np.zeros((0, len(policies), len(ROUND_COLUMNS)), np.int64)
    return Results(values, no_rounds, np.zeros(points, np.int64), KNOWN, tuple(remarks))


def _replayed(
    known: dict[tuple[str, str, str, bytes], TraceReplay],
    name: str,
    touch: str,
    thp: str,
    content: bytes,
    policies: Sequence[Policy],
) -> TraceReplay:
    """The replay of a trace, from `known` if it is there."""
    trace = known.get((name, touch, thp, content))
    if trace is None:
        trace = known[name, touch, thp, content] = TraceReplay(
            name, name, policies, touch_all=touch == TOUCH_ALL, thp=thp or None, data=content
        )
        for _ in trace:
            pass
    return trace
