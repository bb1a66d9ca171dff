"""The options that several commands share, each declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sweep.common.errors import UserError

Format = Literal["table", "csv", "json", "md"]

GRID_FILE = typer.Argument(
    metavar="GRID", help="A grid file, or the name of a grid that ships (sweep grids).", show_default=False
)
GridFile = Annotated[Path, GRID_FILE]
MaybeGridFile = Annotated[Path | None, GRID_FILE]
Override = Annotated[
    list[str] | None,
    typer.Option("-S", "--set", metavar="KEY=VALUE", help="Replace a value of the grid: -S fixed.virt=4GiB."),
]
Where = Annotated[str | None, typer.Option("--where", metavar="SQL", help="Only points that fulfil this condition.")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Longest time for one point.")]
Results = Annotated[
    str, typer.Option("--results", metavar="DIR-or-URI", help="The store: a directory, or such as s3://bucket/prefix.")
]
HowToPrint = Annotated[Format, typer.Option("--format", help="How to print.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Facts = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PurgeSizes = Annotated[
    str, typer.Option("--zap", metavar="SIZES", help="Sizes of the calls to assess, separated by commas.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no words: errors and the data.")]

STORE = "results"
"""The store that is used without --results."""
ZAPS = "64KiB,2MiB,64MiB"
"""Sizes of calls that are assessed without --zap."""


def purge_sizes(text: str) -> tuple[int, ...]:
    """The sizes of --zap in bytes. Raises UserError."""
    from sweep.common.units import parse_size

    try:
        return tuple(parse_size(size.strip()) for size in text.split(","))
    except UserError as error:
        raise UserError(f"--zap: {error}") from error


def elsewhere(results: str) -> str:
    """What a command that is printed to be typed next needs, to look into the same store."""
    import shlex

    return "" if results == STORE else f" --results {shlex.quote(results)}"
