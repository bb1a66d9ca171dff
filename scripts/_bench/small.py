"""Batches of thousands of 1 GiB points, as the sweep sends them."""

from collections.abc import Iterator

from _bench.bench import Bench
from _bench.figure import Figure, Reach, figure, per_second
from _bench.points import small, tables_of
from _bench.triad import Triad
from engine.run import run_batch
from sweep.executors.worker import keep_freed_memory

SECTION = "small"
FORMER = (429_592, 8_408)
"""Points per CPU s at commit cb663e2, whose passes for small points were partly written in LLVM's language."""


def section(bench: Bench) -> Iterator[Figure]:
    keep_freed_memory()  # as the sweep's workers do
    for partial, count, title, least in (
        (False, 8192, "2 MiB calls", FORMER[0] / 1.6),
        (True, 2048, "64 KiB calls in random order, 4 rounds", FORMER[1] / 3.5),
    ):
        points = small(16 if bench.quick else count, partial)
        number = len(points["virt"])
        run_batch(points)
        run = bench.in_turn(lambda points=points: run_batch(points), Triad(tables_of(points), quick=bench.quick))  # type: ignore[misc]
        yield figure(
            SECTION,
            f"1 GiB, {title}, {number:,} points a call",
            run,
            unit="points/CPU s",
            of=per_second(number),
            yardstick="points that triad's bytes would be",
            reach=Reach(of="value", at_least=least),
        )
