"""Child process in the peers' venv: runs points with one of the peers, and writes their rows to files."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.model.arch import GIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch


def point(seed: int) -> dict[str, int]:
    """Run one point as a user without ptsweep would: return its row."""
    scenario = Scenario(virt=GIB, sparsity=(90 + seed % 10) / 100, coverage=(5 + seed // 10 % 5) / 10, seed=seed)
    values = run_batch(columns_of([scenario])).values[0]
    row = {
        f"{policy}_{name}": int(values[i, at]) for i, policy in enumerate(POLICIES) for at, name in enumerate(COLUMNS)
    }
    return {"seed": seed} | row


def write(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "rows.parquet")


def tasks(points: int, jobs: int, folder: Path) -> None:
    import ray

    ray.init(num_cpus=jobs, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    task = ray.remote(point)
    write(ray.get([task.remote(seed) for seed in range(points)]), folder)


def tune(points: int, jobs: int, folder: Path) -> None:
    import ray
    from ray import tune

    ray.init(num_cpus=jobs, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    tuner = tune.Tuner(
        lambda config: point(config["seed"]),
        param_space={"seed": tune.grid_search(list(range(points)))},
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    write((result.metrics for result in tuner.fit()), folder)


def joblib(points: int, jobs: int, folder: Path) -> None:
    from joblib import Parallel, delayed

    write(Parallel(n_jobs=jobs)(delayed(point)(seed) for seed in range(points)), folder)


def hydra(points: int, jobs: int, folder: Path) -> None:
    """Hydra's basic launcher runs jobs one at a time; each writes its row to its own directory."""
    words = ["-m", f"+seed=range(0,{points})", f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${hydra.job.num}"]
    subprocess.run([sys.executable, "-m", "_bench.peer_hydra", *words], check=True, stdout=subprocess.DEVNULL)


PEERS = {"tasks": tasks, "tune": tune, "joblib": joblib, "hydra": hydra}

if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    name, points, jobs, folder = sys.argv[1:]
    PEERS[name](int(points), int(jobs), Path(folder))
    print(json.dumps({"points": int(points)}))
