"""Does time grow linearly with size? Fits the exponent b of time = a + c x size^b."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import curve_fit

from _bench.bench import Bench
from _bench.figure import Figure, Reach
from engine.model.arch import GIB, KIB, MIB, TIB
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import run_batch

SECTION = "growth"
VIRTS = (*(GIB << n for n in range(0, 16, 2)), 55 * TIB)
LEAST_S = 0.02
ROUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Return b, fitted by least squares of relative errors, so that all sizes have the same weight.

    `a` is the cost of a call independent of size; it is negative where the first of many rounds is cheaper.
    """

    def model(x: Any, a: float, b: float, c: float) -> Any:
        return a + c * x**b

    x, y = np.array(sizes) / sizes[0], np.array(seconds)
    (_, b, _), _ = curve_fit(model, x, y, p0=[0.0, 1.0, y[-1] / x[-1]], sigma=y, maxfev=20_000)
    return float(b)


def section(bench: Bench) -> Iterator[Figure]:
    virts = VIRTS[:5] if bench.quick else VIRTS
    rounds = ROUNDS[:5] if bench.quick else ROUNDS
    virt = GIB if bench.quick else 256 * GIB
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("2 MiB calls", {}),
        ("64 KiB calls in random order", {"zap": 64 * KIB, "order": "random"}),
        ("clusters of 2 MiB", {"cluster": 2 * MIB}),
    )
    for title, fields in kinds:
        yield fit(bench, f"time against virt, 1 GiB to 55 TiB, {title}", [(v, fields | {"virt": v}) for v in virts])
    for title, fields in kinds:
        grown = [(n, fields | {"virt": virt, "rounds": n}) for n in rounds]
        yield fit(bench, f"time against rounds, 1 to 500, 256 GiB, {title}", grown)


def fit(bench: Bench, name: str, points: list[tuple[int, dict[str, Any]]]) -> Figure:
    """Measure all sizes in turn, and fit one exponent per repetition."""
    columns = [columns_of([Scenario(**({"sparsity": 0.99, "coverage": 0.9} | fields))]) for _, fields in points]
    sizes = [float(size) for size, _ in points]
    for point in columns[:2]:
        run_batch(point)
    times: list[list[float]] = []
    run = bench.in_turn(lambda: times.append([cost_s(point) for point in columns]))
    medians = zip(sizes, np.median(times, axis=0), strict=True)
    return Figure(
        section=SECTION,
        name=name,
        unit="exponent",
        values=tuple(exponent(sizes, row) for row in times),
        cpu_s=tuple(sample.cpu_s for sample in run.samples),
        wall_s=tuple(sample.wall_s for sample in run.samples),
        reach=Reach(of="value", at_least=0.95, at_most=1.05),
        others=run.others,
        note="CPU s: " + ", ".join(f"{size:g}: {seconds:.3g}" for size, seconds in medians),
    )


def cost_s(point: Columns) -> float:
    """Return the CPU seconds of a call: the mean of as many as take LEAST_S."""
    began, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - began < LEAST_S:
        run_batch(point)
        calls += 1
    return (time.process_time() - began) / calls
