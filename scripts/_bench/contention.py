"""The lock-step model of threads: table visits per second."""

from collections.abc import Iterator
from typing import Any

from _bench.bench import Bench
from _bench.figure import Figure, Reach, figure, per_second
from _bench.triad import Triad
from engine.model.arch import GIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch

SECTION = "threads"
VISITS, NONE = COLUMNS.index("table_visits"), POLICIES.index("none")


def section(bench: Bench) -> Iterator[Figure]:
    virt = GIB if bench.quick else 4096 * GIB
    for threads in (1, 8, 64, 512):
        for partition in ("blocked", "interleaved"):
            point = columns_of([Scenario(virt=virt, sparsity=0.99, threads=threads, partition=partition)])
            visits = int(run_batch(point).values[0, NONE, VISITS])  # of one policy; the pass judges all seven

            def work(point: Any = point) -> None:
                run_batch(point)

            run = bench.in_turn(work, Triad(virt // (2 << 20), quick=bench.quick))
            yield figure(
                SECTION,
                f"{threads} thread{'s' * (threads > 1)}, {partition}, 4 TiB, 2 MiB calls",
                run,
                unit="visits/CPU s",
                of=per_second(visits),
                yardstick="tables that triad's bytes would be",
                reach=Reach(of="value", at_least=40e6),
            )
