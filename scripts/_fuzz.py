"""Generated grids and SQL against the grid reader, the plan and the sealed DuckDB; prints counts and findings."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.grid_fuzzing import Tally, bombs, check_grid, fuzz_grids, memory_mib
from tests.support.sql_fuzzing import fuzz_sql


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument(
        "grids", type=int, nargs="?", default=100_000, metavar="N", help="number of grids; default 100,000"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of all inputs; default 1")
    options = parser.parse_args()
    for text in bombs().values():
        check_grid(text)
    print(f"bombs: {len(bombs())}, memory {memory_mib()} MiB at most")
    began = time.monotonic()
    grids = fuzz_grids(options.grids, options.seed, _progress("grids", began))
    with tempfile.TemporaryDirectory() as folder:
        sql = fuzz_sql(options.grids // 20, options.seed, Path(folder), _progress("SQL", began))
    print(f"grids: {grids.inputs:,} tried, {grids.accepted:,} accepted")
    print(f"guide: {grids.kept:,} grids kept, for {grids.pairs:,} pairs of lines")
    print(f"SQL: {sql.inputs:,} tried, {sql.accepted:,} answered")
    print(f"found: {len(grids.found) + len(sql.found)}; memory {memory_mib()} MiB at most")
    for text in grids.found + sql.found:
        print(f"\n{text}")
    return int(bool(grids.found or sql.found))


def _progress(inputs: str, began: float) -> Callable[[Tally], None]:
    """Return a function that prints a line of progress."""

    def report(tally: Tally) -> None:
        seconds = time.monotonic() - began
        print(f"scripts/fuzz: {tally.inputs:,} {inputs}, {len(tally.found)} found, {seconds:.0f} s", file=sys.stderr)

    return report


if __name__ == "__main__":
    sys.exit(main())
