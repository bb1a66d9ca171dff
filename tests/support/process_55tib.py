"""Results for the published process with VIRT 55t, computed once for all tests, as they take many seconds."""

import fcntl
import os
import pickle

import pytest

from engine.model.arch import GIB, MIB, TIB
from engine.model.results import Results
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import run_batch

COLUMNS: Columns = columns_of([Scenario(virt=55 * TIB, res=590 * GIB, cluster=2 * MIB, zap=2 * MIB, rounds=500)])
"""VIRT 55t, RES 590g; pages in dense tables that moved so often that every slot has had one: VmPTE 110g."""


def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Processes that share a test run compute them once: the others wait for the file."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "process_55tib.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / "process_55tib.pickle"
        if not file.exists():
            file.write_bytes(pickle.dumps(run_batch(COLUMNS)))
    found: Results = pickle.loads(file.read_bytes())
    return found
