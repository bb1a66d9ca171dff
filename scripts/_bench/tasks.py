"""One point over many tasks: 55 TiB with partial calls on one Ray worker and on two, and the rows byte for byte."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb

from _bench.bench import Bench, child
from _bench.figure import Figure, Reach
from _bench.grids import written
from _bench.points import RES, VIRT

SECTION = "tasks"
ROUNDS = 16
"""So many that the second worker's later start, about a second, does not show."""


def section(bench: Bench) -> Iterator[Figure]:
    part = 16 if bench.quick else 1
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        fields = f"virt: {VIRT // part}B, res: {RES // part}B, zap: 64KiB, order: random, coverage: 0.9"
        grid = written(folder / "one.yaml", f"fixed: {{{fields}, rounds: {1 if bench.quick else ROUNDS}}}\n")
        stores = (folder / str(number) for number in range(100)).__next__
        executor = "processes" if bench.quick else "ray"

        def once() -> dict[str, float]:
            places = {workers: stores() for workers in (1, 2)}
            seen = {workers: child("launched", grid, place, executor, workers) for workers, place in places.items()}
            if rows(places[1]) != rows(places[2]):
                raise SystemExit("scripts/bench: a sharded point has other rows than the whole one")
            both = {f"{what} {workers}": seen[workers][what] for workers in seen for what in ("work_s", "cpu_s")}
            return both | {"all_cpu_s": seen[1]["cpu_s"] + seen[2]["cpu_s"]}

        taken = bench.take(once, own_cpu="all_cpu_s")
        yield Figure(
            section=SECTION,
            name=f"55 TiB, 64 KiB calls in random order, {ROUNDS} rounds, {executor}: one worker against two",
            unit="wall s",
            values=taken["work_s 1"],
            cpu_s=taken["cpu_s 1"],
            wall_s=taken["work_s 1"],
            yardstick="two workers",
            beside=taken["work_s 2"],
            reach=Reach(at_least=1.8),
            others=taken.others,
            note="the point is whole on one worker and in shards on two; every row of both is the same, byte for byte",
        )


def rows(store: Path) -> list[tuple[object, ...]]:
    """All outcomes, but for the run's name."""
    files = [str(path) for path in store.rglob("*.parquet") if "outcomes" in str(path.relative_to(store))]
    query = "SELECT * EXCLUDE (run_id) FROM read_parquet($1) ORDER BY ALL"
    found: list[tuple[object, ...]] = duckdb.execute(query, [files]).fetchall()
    return found
