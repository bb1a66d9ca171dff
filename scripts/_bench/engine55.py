"""55 TiB of address space, 28,835,840 slots, all seven policies in one pass, against memory bandwidth."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from _bench.bench import Bench
from _bench.figure import Figure, Reach, Run, figure, wall_s
from _bench.points import VIRT, large, tables_of
from _bench.triad import Triad
from engine.model.arch import GIB, KIB, MIB
from engine.model.scenario import Columns
from engine.run import results_of_shards, run_batch, run_shard, shard_ranges

SECTION = "engine"
COVERAGES = (0.5, 0.9)
PARTIAL = {0.5: Reach(of="value", at_most=4 * 1.03), 0.9: Reach(of="value", at_most=4 * 1.62)}
"""Four times the CPU s of commit cb663e2, whose passes for such calls were written in LLVM's language."""
HUGE = {"64 KiB": 64 * KIB, "1 MiB": MIB, "2 MiB": 2 * MIB, "3 MiB": 3 * MIB}
CLUSTERS = {"4 KiB": 4 * KIB, "64 KiB": 64 * KIB, "2 MiB": 2 * MIB, "64 MiB": 64 * MIB}
PEAK_CHILD = """
import sys
from engine.run import run_batch
from engine.model.scenario import Scenario, columns_of
virt, zap, order = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
run_batch(columns_of([Scenario(virt=virt, sparsity=0.99, zap=zap, order=order, coverage=0.9)]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def whole_calls(bench: Bench) -> Iterator[Figure]:
    """Calls of 2 MiB on one core and on two."""
    reach = Reach(at_most=2.0)
    points = {coverage: large(bench.quick, coverage=coverage) for coverage in COVERAGES}
    tables = tables_of(points[0.5])
    triad = Triad(tables, quick=bench.quick)
    for coverage, point in points.items():
        run_batch(point)
        run = bench.in_turn(lambda point=point: run_batch(point), triad)  # type: ignore[misc]
        name = f"2 MiB calls, coverage {coverage}, one core"
        yield figure(SECTION, name, run, yardstick="triad, one core", reach=reach)
    triad = Triad(tables, cores=2, quick=bench.quick)
    with ThreadPoolExecutor(2) as pool:
        for coverage, point in points.items():
            run = bench.in_turn(lambda point=point: run_on_two_threads(point, pool), triad)  # type: ignore[misc]
            name = f"2 MiB calls, coverage {coverage}, two cores"
            yield figure(SECTION, name, run, unit="wall s", of=wall_s, yardstick="triad, two cores")


def run_on_two_threads(point: Columns, pool: ThreadPoolExecutor) -> Any:
    """Run half of the slots on each of two threads: the passes release the GIL."""
    return results_of_shards(point, list(pool.map(lambda piece: run_shard(point, *piece), shard_ranges(point, 2))))


def partial_calls(bench: Bench) -> Iterator[Figure]:
    for coverage in COVERAGES:
        run, tables = beside_triad(bench, zap=64 * KIB, order="random", coverage=coverage)
        name = f"64 KiB calls in random order, coverage {coverage}"
        yield figure(SECTION, name, run, yardstick=f"triad, {tables:,} tables", reach=PARTIAL[coverage])


def shapes(bench: Bench) -> Iterator[Figure]:
    """Sizes of extents, and numbers of rounds."""
    for size, cluster in CLUSTERS.items():
        run, _ = beside_triad(bench, cluster=cluster, coverage=0.9)
        yield figure(SECTION, f"2 MiB calls, clusters of {size}", run, yardstick="triad, one core")
    for rounds in (1, 10, 500):
        run, _ = beside_triad(bench, cluster=2 * MIB, coverage=0.9, rounds=rounds)
        name = f"2 MiB calls, clusters of 2 MiB, {rounds} round{'s' * (rounds > 1)}"
        yield figure(SECTION, name, run, yardstick="triad, one core, for each round", of_beside=cpu_s_times(rounds))


def cpu_s_times(rounds: int) -> Any:
    return lambda sample: sample.cpu_s * rounds


def beside_triad(bench: Bench, **fields: Any) -> tuple[Run, int]:
    """Measure a point in turn with triad; return the repetitions and the number of its slots."""
    point = large(bench.quick, **fields)
    run_batch(large(True, **fields | {"rounds": min(2, fields.get("rounds", 1))}))
    return bench.in_turn(lambda: run_batch(point), Triad(tables_of(point), quick=bench.quick)), tables_of(point)


def memory(bench: Bench) -> Iterator[Figure]:
    """Peak memory of a fresh process that runs one point: its VmHWM, as ru_maxrss includes the parent's pages."""
    calls = ((2 * MIB, "sequential", "2 MiB calls"), (64 * KIB, "random", "64 KiB calls in random order"))
    for virt, size in ((GIB, "1 GiB"), (VIRT, "55 TiB"))[: 1 if bench.quick else None]:
        for zap, order, call_name in calls[: 1 if bench.quick else None]:
            command = [sys.executable, "-c", PEAK_CHILD, str(virt), str(zap), order]
            yield peak(bench, f"peak memory, {size}, {call_name}", command)


def huge_pages(bench: Bench) -> Iterator[Figure]:
    """VMAs that allow huge pages, in turn with the same points without them."""
    one_gib = {"virt": GIB, "res": GIB // 10, "rounds": 50}
    points: dict[str, dict[str, Any]] = {
        f"1 GiB, 50 rounds, {name} calls": one_gib | {"zap": z} for name, z in HUGE.items()
    }
    for name, point in (points | {"2 MiB calls": {}}).items():
        never, always = (large(bench.quick, **point, thp=thp) for thp in ("never", "always"))
        run_batch(large(True, thp="always"))
        run = bench.in_turn(lambda a=always: run_batch(a), lambda n=never: run_batch(n))  # type: ignore[misc]
        yield figure(SECTION, f"huge pages, {name}", run, yardstick="thp: never", reach=Reach(at_most=10.0))


def peak(bench: Bench, name: str, command: list[str]) -> Figure:
    peaks: list[float] = []

    def child() -> None:
        peaks.append(int(subprocess.check_output(command)) * KIB / 1e6)

    if not bench.quick:
        child()  # compiles the passes if they are not compiled yet
        peaks.clear()
    run = bench.in_turn(child)
    return Figure(
        section=SECTION,
        name=name,
        unit="MB",
        values=tuple(peaks),
        cpu_s=tuple(sample.cpu_s for sample in run.samples),
        wall_s=tuple(sample.wall_s for sample in run.samples),
        reach=Reach(of="value", at_most=250),
        others=run.others,
    )


def section(bench: Bench) -> Iterator[Figure]:
    yield from whole_calls(bench)
    yield from partial_calls(bench)
    yield from shapes(bench)
    yield from huge_pages(bench)
    yield from memory(bench)
