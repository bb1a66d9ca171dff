"""sweep grids: the grids that ship, with the question that each of them answers."""

from sweep.cli import messages, output_formats
from sweep.cli.options import AsJson

INDENT = "    "


def grids(as_json: AsJson = False) -> int:
    """List the grids that ship, each with its question. Every GRID argument also takes the name of one of them.

    Example: sweep grids
    """
    from sweep.grid.loader import load_grid
    from sweep.grid.shipped_grids import shipped_grids

    loaded = {path: load_grid(path) for path in shipped_grids().values()}
    if as_json:
        output_formats.print_json(
            [
                {"name": grid.name, "about": grid.about, "points": grid.raw_points, "file": str(path)}
                for path, grid in loaded.items()
            ]
        )
        return 0
    for grid in loaded.values():
        points = "1 point" if grid.raw_points == 1 else f"{grid.raw_points:,} points"
        output_formats.print_line(f"{grid.name} ({points})")
        output_formats.print_paragraph(f"{INDENT}{' '.join(grid.about.split())}", INDENT)
    messages.print_note()
    messages.print_note("sweep plan NAME; sweep launch NAME")
    return 0
