"""Results for the published process with VIRT 55t, computed once for all tests, as they take many seconds."""

from functools import cache

from engine.model.arch import GIB, MIB, TIB
from engine.model.results import Results
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import run_batch

COLUMNS: Columns = columns_of([Scenario(virt=55 * TIB, res=590 * GIB, cluster=2 * MIB, zap=2 * MIB, rounds=500)])
"""VIRT 55t, RES 590g; pages in dense tables that moved so often that every slot has had one: VmPTE 110g."""


@cache
def results() -> Results:
    return run_batch(COLUMNS)
