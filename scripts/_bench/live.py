"""The running kernel makes the same installs and calls: CPU time of its installs and zaps over the engine's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil

from _bench.bench import Bench
from _bench.figure import Figure, Reach, timed
from engine.kernel.runner import LostError, RefusedError, Runner, TimedOutError, UnsupportedMachineError
from engine.model.arch import GIB, KIB, MIB
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch

SECTION = "kernel"
SHARE = 590 / (55 * 1024)
"""Resident share of the server process's pages."""
MOST_CALLS = 1 << 21
SEEDS = 10
"""Points in the engine's batch, as in a sweep's: a single point would take half a millisecond of Python."""
CALLS: tuple[tuple[str, dict[str, Any], float | None], ...] = (
    ("4 KiB calls", {"zap": 4 * KIB}, None),
    ("64 KiB calls", {"zap": 64 * KIB}, None),
    ("2 MiB calls (counts)", {"zap": 2 * MIB}, 3_000),
    ("2 MiB calls, coverage 0.5, 2 rounds (bits)", {"zap": 2 * MIB, "coverage": 0.5, "rounds": 2}, 250),
    ("2 MiB calls, half a table off (the general walk)", {"zap": 2 * MIB, "zap_shift": MIB}, None),
    ("1 GiB calls", {"zap": GIB}, None),
)


def section(bench: Bench) -> Iterator[Figure]:
    limit = GIB if bench.quick else largest_virt()
    try:
        with Runner(limit_s=600) as runner:
            for title, fields, least in CALLS:
                virt = min(limit, MOST_CALLS * fields["zap"])
                point = Scenario(virt=virt, sparsity=round(1 - SHARE, 4), **fields)
                yield compared(bench, runner, f"{title}, {virt // GIB} GiB", point, least)
    except (UnsupportedMachineError, RefusedError, LostError, TimedOutError) as error:
        bench.say(f"  left out: {error}")


def largest_virt() -> int:
    """Return the size of an address space, a power of two, whose tables and pages fit into a quarter of free memory."""
    most = psutil.virtual_memory().available // 4 * 2 * MIB // int(4 * KIB + 2 * MIB * SHARE)
    return 1 << min(most.bit_length() - 1, 38)


def compared(bench: Bench, runner: Runner, name: str, point: Scenario, least: float | None) -> Figure:
    seeds = 1 if bench.quick else SEEDS
    columns = columns_of([replace(point, seed=seed) for seed in range(seeds)])
    run_batch(columns)

    def once() -> dict[str, float]:
        seen = runner.run(point)
        engine = timed(lambda: run_batch(columns))
        kernel_s = (seen.install_ns + seen.zap_ns) / 1e9
        return {"kernel": kernel_s, "engine": engine.cpu_s / seeds, "wall_s": engine.wall_s / seeds}

    samples = bench.take(once, own_cpu="kernel")
    return Figure(
        section=SECTION,
        name=name,
        unit="CPU s",
        values=samples["kernel"],
        cpu_s=samples["engine"],
        wall_s=samples["wall_s"],
        yardstick="the engine",
        beside=samples["engine"],
        reach=Reach(at_least=least) if least else None,
        others=samples.others,
    )
