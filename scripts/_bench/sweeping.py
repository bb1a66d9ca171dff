"""`sweep launch` of many small points: from the first ready worker to the last row on disk, beside the bare engine.

T(N) and T(4N) of the whole command tell start-up and slope apart.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from _bench.bench import Bench, child
from _bench.figure import Figure, Reach
from _bench.grids import CORES, KINDS, small_grid

SECTION = "sweep"


def section(bench: Bench) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for kind in KINDS:
            for executor in ("processes",) if bench.quick else ("processes", "ray"):
                yield from launches(bench, kind, executor, Path(folder))


def launches(bench: Bench, kind: str, executor: str, folder: Path) -> Iterator[Figure]:
    points = 400 if bench.quick else KINDS[kind].points
    few, many = (small_grid(folder, kind, count) for count in (points // 4, points))
    stores = (folder / f"{kind}-{executor}-{number}" for number in range(1_000)).__next__

    def once() -> dict[str, float]:
        short = child("launched", few, stores(), executor, CORES)
        long = child("launched", many, stores(), executor, CORES)
        bare = child("bare", many, CORES)
        slope = (points - points // 4) / (long["wall_s"] - short["wall_s"])
        return {
            "rate": points / long["work_s"],
            "bare": points / bare["wall_s"],
            "slope": slope,
            "start": short["wall_s"] - points // 4 / slope,
            "wall_s": long["wall_s"],
            "cpu_s": long["cpu_s"],
            "all_cpu_s": long["cpu_s"] + short["cpu_s"],
        }

    once() if not bench.quick else None  # what is not compiled yet is now
    taken = bench.take(once, own_cpu="all_cpu_s")
    told = f"{points:,} points, {KINDS[kind].told}, {executor}"
    cores = f"the bare engine, {CORES} core{'s' * (CORES > 1)}"
    common = {"section": SECTION, "cpu_s": taken["cpu_s"], "wall_s": taken["wall_s"], "others": taken.others}
    yield Figure(
        name=told,
        unit="points/s",
        values=taken["rate"],
        yardstick=cores,
        beside=taken["bare"],
        reach=Reach(at_least=0.5, aim=0.8),
        note=f"start-up {median(taken['start']):.3g} s",
        **common,  # type: ignore[arg-type]
    )
    yield Figure(
        name=f"{told}: slope between T({points // 4:,}) and T({points:,})",
        unit="points/s",
        values=taken["slope"],
        yardstick=cores,
        beside=taken["bare"],
        **common,  # type: ignore[arg-type]
    )
    yield Figure(name=f"{told}: start-up", unit="s", values=taken["start"], **common)  # type: ignore[arg-type]
