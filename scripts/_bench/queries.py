"""SQL over stores of a million and ten million outcomes: a group-by over two axes, and a shipped query."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _bench.bench import HERE, ROOT, Bench, child
from _bench.figure import Figure, figure, wall_s
from _bench.grids import CORES, SPARSITIES, write_grid

SECTION = "sql"
POLICIES = 7
GROUP_BY = "SELECT sparsity, zap, policy, avg(vm_pte_kib_end), sum(pte_tables_freed) FROM {} GROUP BY ALL ORDER BY ALL"
BARE = "import duckdb, sys; print(len(duckdb.execute(sys.argv[1]).fetchall()))"


def section(bench: Bench) -> Iterator[Figure]:
    for rows in (70_000,) if bench.quick else (1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            store = fill_store(bench, Path(folder), rows)
            yield from questions(bench, store, rows)


def fill_store(bench: Bench, folder: Path, rows: int) -> Path:
    """Launch a grid that gives at least `rows` outcomes; return its store."""
    repeats = -(-rows // (POLICIES * 50))
    axes = f"axes:\n  sparsity: {SPARSITIES}\n  zap: [64KiB, 256KiB, 1MiB, 2MiB, 4MiB]\n"
    grid = write_grid(folder / "rows.yaml", f"fixed: {{virt: 4MiB}}\n{axes}repeats: {repeats}\nseed: 1\n")
    bench.say(f"  launching a store of {rows:,} rows")
    child("launched", grid, folder / "store", "processes", CORES)
    return folder / "store"


def questions(bench: Bench, store: Path, rows: int) -> Iterator[Figure]:
    parts = sorted(str(p) for p in store.rglob("*.parquet") if "outcomes" in str(p.relative_to(store)))
    bare = [sys.executable, "-c", BARE, GROUP_BY.format(f"read_parquet({parts})")]
    ours = {
        "group by two axes and the policy": [GROUP_BY.format("outcomes")],
        "the shipped question savings, to its answer": ["savings"],
    }
    for name, words in ours.items():
        command = [str(ROOT / "scripts" / "sweep"), "query", *words, "--format", "csv", "--results", str(store)]
        run = bench.in_turn(lambda command=command: quiet(command), lambda: quiet(bare))  # type: ignore[misc]
        yield figure(
            SECTION,
            f"{rows:,} rows, {name}",
            run,
            unit="wall s",
            of=wall_s,
            yardstick="bare DuckDB over the same files, the group-by",
        )


def quiet(command: list[str]) -> None:
    """Run a command without its output; exits if it fails."""
    path = os.pathsep.join([str(HERE.parent), str(ROOT)])
    done = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path}, check=False)
    if done.returncode:
        sys.exit(f"scripts/bench: {' '.join(command)}: ended with {done.returncode}")
