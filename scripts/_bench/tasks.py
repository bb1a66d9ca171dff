"""One point in shards: 55 TiB with calls of 64 KiB on one Ray worker and on two; both must give the same rows."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb

from _bench.bench import Bench, child
from _bench.figure import Figure, Reach
from _bench.grids import write_grid
from _bench.points import RES, VIRT

SECTION = "tasks"
ROUNDS = 16
"""Enough rounds that the later start of the second worker, about a second, does not matter."""


def section(bench: Bench) -> Iterator[Figure]:
    part = 16 if bench.quick else 1
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        fields = f"virt: {VIRT // part}B, res: {RES // part}B, zap: 64KiB, order: random, coverage: 0.9"
        grid = write_grid(folder / "one.yaml", f"fixed: {{{fields}, rounds: {1 if bench.quick else ROUNDS}}}\n")
        stores = (folder / str(number) for number in range(100)).__next__
        executor = "processes" if bench.quick else "ray"

        def once() -> dict[str, float]:
            stores_of = {workers: stores() for workers in (1, 2)}
            times = {workers: child("launched", grid, store, executor, workers) for workers, store in stores_of.items()}
            if rows(stores_of[1]) != rows(stores_of[2]):
                raise SystemExit("scripts/bench: a sharded point has other rows than the unsharded one")
            both = {f"{what} {workers}": times[workers][what] for workers in times for what in ("work_s", "cpu_s")}
            return both | {"all_cpu_s": times[1]["cpu_s"] + times[2]["cpu_s"]}

        samples = bench.take(once, own_cpu="all_cpu_s")
        yield Figure(
            section=SECTION,
            name=f"55 TiB, 64 KiB calls in random order, {ROUNDS} rounds, {executor}: one worker against two",
            unit="wall s",
            values=samples["work_s 1"],
            cpu_s=samples["cpu_s 1"],
            wall_s=samples["work_s 1"],
            yardstick="two workers",
            beside=samples["work_s 2"],
            reach=Reach(at_least=1.8),
            others=samples.others,
            note="the point is whole on one worker and in shards on two; every row of both is the same, byte for byte",
        )


def rows(store: Path) -> list[tuple[object, ...]]:
    """Return all outcomes of a store without their run_id, sorted."""
    files = [str(path) for path in store.rglob("*.parquet") if "outcomes" in str(path.relative_to(store))]
    query = "SELECT * EXCLUDE (run_id) FROM read_parquet($1) ORDER BY ALL"
    outcomes: list[tuple[object, ...]] = duckdb.execute(query, [files]).fetchall()
    return outcomes
