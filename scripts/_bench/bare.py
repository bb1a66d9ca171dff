"""Child process: runs a grid's points on the engine alone, writes no results, and prints the seconds as JSON.

Like the sweep's workers it starts with its passes loaded.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np

from engine.compiled_passes import load
from engine.model.scenario import Columns
from engine.run import run_batch
from sweep.executors.worker import keep_freed_memory
from sweep.grid.loader import load_grid
from sweep.run.plan import TASK_POINTS, make_plan


def run_batches(batches: list[Columns]) -> None:
    for batch in batches:
        run_batch(batch)


def main(grid: Path, jobs: int) -> None:
    keep_freed_memory()  # as the sweep's workers do
    batches = []
    for block in make_plan(load_grid(grid)).chunks():
        step = min(TASK_POINTS, -(-len(block.ids) // jobs))
        batches += [block.slice(at, at + step).columns for at in range(0, len(block.ids), step)]
    load({name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]})
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run_batches, args=(batches[i::jobs],)) for i in range(jobs)]
    began = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(json.dumps({"wall_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
