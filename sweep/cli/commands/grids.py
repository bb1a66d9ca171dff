"""sweep grids: the grids that ship, with the question that each of them answers."""

import json
import sys
import textwrap

from sweep.cli.options import Facts

COLUMNS = 80


def grids(as_json: Facts = False) -> int:
    """List the grids that ship, each with its question. Commands that take a GRID take their names too."""
    from sweep.grid.loader import load_grid
    from sweep.grid.shipped_grids import shipped_grids

    loaded = {path: load_grid(path) for path in shipped_grids().values()}
    if as_json:
        facts = [
            {"name": grid.name, "about": grid.about, "points": grid.raw_points, "file": str(path)}
            for path, grid in loaded.items()
        ]
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return 0
    for grid in loaded.values():
        points = "1 point" if grid.raw_points == 1 else f"{grid.raw_points:,} points"
        print(f"{grid.name} ({points})")
        print(textwrap.fill(grid.about, COLUMNS, initial_indent="    ", subsequent_indent="    "))
    print("\nsweep plan NAME; sweep launch NAME", file=sys.stderr)
    return 0
