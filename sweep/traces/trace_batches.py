"""The batch function for points that are traces: the same Results as a scenario's, by replay. Runs in workers."""

import numpy as np

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS, ROUND_COLUMNS, STATE, Results
from engine.model.scenario import Columns
from sweep.traces.trace_replay import Play

DETERMINED = ("zap_calls", "ptes_installed", "ptes_zapped", "pte_tables_allocated", "pte_tables_freed")
"""Work that follows from a trace. How calls are locked, gathered and flushed is not replayed."""
KNOWN = (*STATE, *DETERMINED)


def run_batch(columns: Columns) -> Results:
    """Outcomes of traces (sweep.traces.trace_points.loaded). Raises UserError with the row of a trace at fault."""
    points = len(columns["trace"])
    values, remarks = np.zeros((points, len(POLICIES), len(COLUMNS)), np.int64), []
    for place, (name, touch, content) in enumerate(
        zip(columns["trace"], columns["touch"], columns["content"], strict=True)
    ):
        play = Play(name, name, POLICIES, touch_all=touch == "all", data=content)
        for _ in play:
            pass
        for at, policy in enumerate(POLICIES):
            found = play.replay.outcome(policy) | {"zap_calls": play.asks.purge_calls}
            values[place, at] = [found.get(column, 0) for column in COLUMNS]
        remarks.append("; ".join((*play.skipped.lines(), *play.remarks)) or None)
    no_rounds = np.zeros((0, len(POLICIES), len(ROUND_COLUMNS)), np.int64)
    return Results(values, no_rounds, np.zeros(points, np.int64), KNOWN, tuple(remarks))
