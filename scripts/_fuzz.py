"""Made-up grids and SQL against the reader, the plan and the sealed DuckDB: counts, and what was found, if anything."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.grid_fuzzing import Tally, bombs, fuzz_grids, judge_grid, memory_mib
from tests.support.sql_fuzzing import fuzz_sql


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("grids", type=int, nargs="?", default=100_000, metavar="N", help="how many; default 100,000")
    parser.add_argument("--seed", type=int, default=1, help="of all of it; default 1")
    options = parser.parse_args()
    for text in bombs().values():
        judge_grid(text)
    print(f"bombs: {len(bombs())}, memory {memory_mib()} MiB at most")
    began = time.monotonic()
    grids = fuzz_grids(options.grids, options.seed, _told("grids", began))
    with tempfile.TemporaryDirectory() as folder:
        sql = fuzz_sql(options.grids // 20, options.seed, Path(folder), _told("SQL", began))
    print(f"grids: {grids.inputs:,} tried, {grids.accepted:,} accepted")
    print(f"guide: {grids.kept:,} grids kept, for {grids.pairs:,} pairs of lines")
    print(f"SQL: {sql.inputs:,} tried, {sql.accepted:,} answered")
    print(f"found: {len(grids.found) + len(sql.found)}; memory {memory_mib()} MiB at most")
    for text in grids.found + sql.found:
        print(f"\n{text}")
    return int(bool(grids.found or sql.found))


def _told(what: str, began: float) -> Callable[[Tally], None]:
    def tell(tally: Tally) -> None:
        seconds = time.monotonic() - began
        print(f"scripts/fuzz: {tally.inputs:,} {what}, {len(tally.found)} found, {seconds:.0f} s", file=sys.stderr)

    return tell


if __name__ == "__main__":
    sys.exit(main())
