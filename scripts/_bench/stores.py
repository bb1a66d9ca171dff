"""Commands on a store of 100,000 failed points, and on an object store with 300 ms a request."""

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _bench.bench import ROOT, Bench
from _bench.figure import Figure, Reach, figure, wall_s
from _bench.grids import small_grid, write_grid
from _bench.queries import quiet
from sweep.common.units import human_ns
from sweep.grid.loader import load_grid
from sweep.run.launch import LaunchOptions, launch
from tests.support.fake_engine import RecordingProgress
from tests.support.s3_server import BUCKET, Proxy, s3

SECTION = "stores"
SWEEP = str(ROOT / "scripts" / "sweep")
REQUEST_S, RUNS = 0.3, 10


def section(bench: Bench) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        yield from failed(bench, Path(temporary))
        yield from far(bench, Path(temporary))


def failed(bench: Bench, folder: Path) -> Iterator[Figure]:
    points, store = 100 if bench.quick else 100_000, folder / "failed"
    grid = small_grid(folder, "whole", points)
    options = LaunchOptions(store, executor="inline", runner="_bench.stores:fail")
    launch(load_grid(grid, ()), options, RecordingProgress())
    for name, words in (("ls", ["ls"]), ("plan", ["plan", str(grid)]), ("query failures", ["query", "failures"])):
        yield measured(bench, f"{points:,} failed points, {name}", words, str(store), 5)


def fail(columns: object) -> None:
    """A runner with which every point fails."""
    raise ValueError("no")


def far(bench: Bench, folder: Path) -> Iterator[Figure]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3() as proxy:
        store, grid = f"s3://{BUCKET}/far", folder / "none.yaml"
        runs = 2 if bench.quick else RUNS
        for number in range(runs):
            text = f"fixed: {{virt: 2MiB, sparsity: 0.5}}\nrepeats: 10\nseed: {number}\n"
            grid = write_grid(folder / f"far{number}.yaml", text)
            quiet([SWEEP, "launch", str(grid), "--executor", "inline", "--quiet", "--results", store])
        proxy.fault = slow
        yield from far_commands(bench, proxy, grid, store, runs)


def far_commands(bench: Bench, proxy: Proxy, grid: Path, store: str, runs: int) -> Iterator[Figure]:
    last = ["query", "savings", "--run", "last"]
    for name, words in (("ls", ["ls"]), ("plan", ["plan", str(grid)]), ("query of one", last), ("query", last[:2])):
        before, title = proxy.requests, f"object store, {human_ns(REQUEST_S * 1e9)} a request, {runs} runs, {name}"
        result = measured(bench, title, words, store, 5)
        requests = (proxy.requests - before) // len(result.values)
        bench.say(f"  {requests} requests")
        yield result


def slow(method: str, path: str) -> str:
    """No failure, after a while."""
    time.sleep(REQUEST_S)
    return ""


def measured(bench: Bench, name: str, words: list[str], store: str, seconds: float) -> Figure:
    run = bench.in_turn(lambda: quiet([SWEEP, *words, "--results", store]))
    return figure(SECTION, name, run, unit="wall s", of=wall_s, reach=Reach(of="value", at_most=seconds))
