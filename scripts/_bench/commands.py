"""How long commands take at the terminal."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _bench.bench import ROOT, Bench, child
from _bench.figure import Figure, Reach, figure, wall_s
from _bench.grids import small_grid
from _bench.queries import quiet

SECTION = "cli"


def section(bench: Bench) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder, sweep = Path(temporary), str(ROOT / "scripts" / "sweep")
        store = str(folder / "store")
        million = small_grid(folder, "whole", 1_000 if bench.quick else 1_000_000)
        child("launched", small_grid(folder, "whole", 500), store, "processes", 1)
        bare = [sys.executable, "-c", "pass"]
        for name, words, seconds in (
            ("sweep --help", ["--help"], None),
            ("sweep plan, a million points", ["plan", str(million), "--results", store], 5.0),
            ("sweep query, 3,500 rows", ["query", "SELECT count(*) FROM outcomes", "--results", store], 1.0),
        ):
            run = bench.in_turn(lambda words=words: quiet([sweep, *words]), lambda: quiet(bare))  # type: ignore[misc]
            reach = Reach(of="value", at_most=seconds) if seconds else None
            yield figure(SECTION, name, run, unit="wall s", of=wall_s, yardstick="python -c pass", reach=reach)
