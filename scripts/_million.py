"""Time and memory of each command on a grid of very many cheap points; memory is that of the command's own process.

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
ROW_EACH = "SELECT * FROM outcomes WHERE policy = 'merged'"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """Wall time, peak RSS and standard output of one command."""

    seconds: float
    peak_bytes: int
    printed: str


def run(*words: str) -> Result:
    """Run one command; memory is sampled every 50 ms and excludes its workers."""
    began, peak_bytes = time.monotonic(), 0
    process = subprocess.Popen([*SWEEP, *words], stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)

    def watch() -> None:
        nonlocal peak_bytes
        while process.poll() is None:
            try:
                peak_bytes = max(peak_bytes, watched.memory_info().rss)
            except psutil.Error:
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    printed = process.communicate()[0]
    thread.join()
    if process.returncode:
        sys.exit(f"sweep {' '.join(words)} ended with {process.returncode}")
    return Result(time.monotonic() - began, peak_bytes, printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--executor", default="processes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid, results = Path(folder, "million.yaml"), Path(folder, "results")
        grid.write_text(GRID.format(seeds=math.ceil(options.points / 50)))
        launch = ["launch", str(grid), "--executor", options.executor, "--results", str(results), "-q"]
        steps = {
            "plan": ["plan", str(grid), "--results", str(results)],
            "launch": launch,
            "launch again": launch,
            "query": ["query", COSTS, "--results", str(results)],
            "query savings": ["query", "savings", "--results", str(results)],
            "query best": ["query", "best", "--results", str(results)],
            "query -o csv": ["query", ROW_EACH, "-o", str(Path(folder, "rows.csv")), "--results", str(results)],
        }
        print(f"{options.points:,} points\n\n{'command':14}{'seconds':>9}{'MiB':>7}{'files':>7}{'MiB on disk':>13}")
        for name, words in steps.items():
            result = run(*words)
            parts = [path.stat().st_size for path in results.rglob("*.parquet")]
            disk = sum(parts) / MIB
            print(f"{name:14}{result.seconds:9.1f}{result.peak_bytes / MIB:7.0f}{len(parts):7}{disk:13.1f}", flush=True)


if __name__ == "__main__":
    main()
