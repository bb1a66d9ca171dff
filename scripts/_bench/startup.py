"""The wait for the compiler in the first run, and the time to the first point in each later run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _bench.bench import Bench
from _bench.figure import Figure, Reach, figure

SECTION = "start"
FIRST_POINTS = """
import sys
from engine.run import run_batch
from engine.model.scenario import Scenario, columns_of
GIB, KIB = 1 << 30, 1 << 10
kinds = [{}, {"zap": 4 << 20}, {"zap": 64 * KIB, "order": "random", "rounds": 2}, {"refault": 0.1}, {"threads": 8}]
quick = sys.argv[1] == "True"
chosen = kinds[1:2] if quick else kinds
run_batch(columns_of([Scenario(virt=GIB, sparsity=0.99, coverage=0.9, **kind) for kind in chosen]))
if not quick:
    run_batch(columns_of([Scenario(virt=256 * GIB, sparsity=0.99, coverage=0.9)]))
"""


def section(bench: Bench) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        caches = iter(range(1000))

        def start(cache: Path) -> None:
            # A quick run compiles nothing: that takes 20 s, and what it takes is not measured.
            environment = os.environ | ({} if bench.quick else {"NUMBA_CACHE_DIR": str(cache)})
            subprocess.run([sys.executable, "-c", FIRST_POINTS, str(bench.quick)], env=environment, check=True)

        def bare() -> None:
            subprocess.run([sys.executable, "-c", "import numba"], check=True)

        cold = bench.in_turn(lambda: start(Path(folder, str(next(caches)))), bare)
        name = "first run of all, every kernel compiled"
        yield figure(SECTION, name, cold, yardstick="import numba", reach=Reach(of="value", at_most=20))
        warm = bench.in_turn(lambda: start(Path(folder, "0")), bare)
        name = "a later run, its first point of every kind"
        yield figure(SECTION, name, warm, yardstick="import numba", reach=Reach(of="value", at_most=1.5))
