"""How a grid of very many cheap points goes: what each command takes, and what its own process needs of memory.

scripts/million [POINTS] [--executor NAME]      default: 1,000,000 on local processes, all seven policies
"""

import argparse
import math
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SWEEP = (sys.executable, "-P", "-m", "sweep.cli")
GRID = """\
schema: sweep/1
name: million
fixed: {{virt: 2MiB, sparsity: 0.9}}
axes:
  cluster: [4KiB, 16KiB, 64KiB, 256KiB, 1MiB]
  zap: [4KiB, 8KiB, 16KiB, 32KiB, 64KiB, 128KiB, 256KiB, 512KiB, 1MiB, 2MiB]
  seed: {{range: {{from: 1, to: {seeds}, step: 1}}}}
"""
COSTS = "SELECT policy, count(*) AS points, sum(cost_ns) AS cost_ns FROM latest GROUP BY policy"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Took:
    seconds: float
    most_bytes: int
    printed: str


def run(*words: str) -> Took:
    """One command; the memory is its own, not that of its workers."""
    began, most = time.monotonic(), 0
    process = subprocess.Popen([*SWEEP, *words], stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            try:
                most = max(most, watched.memory_info().rss)
            except psutil.Error:
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    printed = process.communicate()[0]
    thread.join()
    if process.returncode:
        sys.exit(f"sweep {' '.join(words)} ended with {process.returncode}")
    return Took(time.monotonic() - began, most, printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--executor", default="processes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid, results = Path(folder, "million.yaml"), Path(folder, "results")
        grid.write_text(GRID.format(seeds=math.ceil(asked.points / 50)))
        launch = ["launch", str(grid), "--executor", asked.executor, "--results", str(results), "-q"]
        steps = {
            "plan": ["plan", str(grid), "--results", str(results)],
            "launch": launch,
            "launch again": launch,
            "query": ["query", COSTS, "--results", str(results)],
            "query savings": ["query", "savings", "--results", str(results)],
        }
        print(f"{asked.points:,} points\n\n{'command':14}{'seconds':>9}{'MiB':>7}{'files':>7}{'MiB on disk':>13}")
        for name, words in steps.items():
            took = run(*words)
            parts = [path.stat().st_size for path in results.rglob("*.parquet")]
            disk = sum(parts) / MIB
            print(f"{name:14}{took.seconds:9.1f}{took.most_bytes / MIB:7.0f}{len(parts):7}{disk:13.1f}", flush=True)


if __name__ == "__main__":
    main()
