"""The grids that ship with the package: grids/ of a checkout, shipped/grids/ beside this file in an installation."""

from pathlib import Path

from sweep.common.errors import did_you_mean, one_line

INSTALLED = Path(__file__).parent / "shipped" / "grids"
FOLDER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "grids"


def shipped_grids() -> dict[str, Path]:
    """The file of each shipped grid by the grid's name, sorted."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_grid(path: Path) -> Path:
    """The shipped grid of this name unless there is a file of this name; else `path` as it is, which may not exist."""
    shipped = shipped_grids().get(str(path))
    return path if shipped is None or path.is_file() else shipped


def missing_grid(path: Path) -> str:
    """The message for a grid that is neither a file nor shipped: `firts: no such file; did you mean 'first'? ...`."""
    names = shipped_grids()
    nearest = did_you_mean(path.stem, names) or ";"
    return f"{one_line(str(path), 200)}: no such file{nearest} grids that ship: {', '.join(names)}"
