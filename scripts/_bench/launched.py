"""Child process: launches a grid into a fresh store and prints its times as JSON."""

import json
import sys
import time
from pathlib import Path

import psutil

from sweep.grid.loader import load_grid
from sweep.run.launch import LaunchOptions, launch
from sweep.run.progress import ProgressState


class Clock:
    """A Progress that records when the first worker was ready, and the CPU time of all child processes at the end."""

    def __init__(self) -> None:
        self.ready = self.family_cpu_s = 0.0

    def say(self, text: str) -> None:
        pass

    def show(self, state: ProgressState) -> None:
        if not self.ready and not state.waiting:
            self.ready = time.time()

    def stop(self) -> None:
        family = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
        self.family_cpu_s = sum(times.user + times.system for times in family)


def main(grid: Path, results: Path, executor: str, jobs: int) -> None:
    clock, began = Clock(), time.time()
    summary = launch(load_grid(grid), LaunchOptions(results=results, executor=executor, jobs=jobs), clock)
    ended = time.time()
    if summary.status != "ok":
        sys.exit(f"the launch ended as {summary.status}")
    last = max(path.stat().st_ctime for path in results.rglob("*.parquet"))
    facts = {
        "points": summary.planned,
        "wall_s": ended - began,
        "start_s": clock.ready - began,
        "work_s": last - clock.ready,
        "cpu_s": clock.family_cpu_s + time.process_time(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
