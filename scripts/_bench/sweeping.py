"""`sweep launch` of many small points, from the first ready worker to the last row on disk, beside the bare engine.

The times of N/4 and N points separate start-up from time per point.
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
        for kind in list(KINDS)[: 1 if bench.quick else None]:
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

    once() if not bench.quick else None  # compiles the passes
    samples = bench.take(once, own_cpu="all_cpu_s")
    title = f"{points:,} points, {KINDS[kind].title}, {executor}"
    cores = f"the bare engine, {CORES} core{'s' * (CORES > 1)}"
    common = {"section": SECTION, "cpu_s": samples["cpu_s"], "wall_s": samples["wall_s"], "others": samples.others}
    yield Figure(
        name=title,
        unit="points/s",
        values=samples["rate"],
        yardstick=cores,
        beside=samples["bare"],
        reach=Reach(at_least=0.5, aim=0.8),
        note=f"start-up {median(samples['start']):.3g} s",
        **common,  # type: ignore[arg-type]
    )
    yield Figure(
        name=f"{title}: slope between T({points // 4:,}) and T({points:,})",
        unit="points/s",
        values=samples["slope"],
        yardstick=cores,
        beside=samples["bare"],
        **common,  # type: ignore[arg-type]
    )
    yield Figure(name=f"{title}: start-up", unit="s", values=samples["start"], **common)  # type: ignore[arg-type]
