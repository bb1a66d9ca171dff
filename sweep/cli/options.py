"""Options that several commands share, each declared once, and what reads their values."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sweep.common.errors import UserError

Format = Literal["table", "csv", "json", "md"]

GRID_FILE = typer.Argument(
    metavar="GRID", help="A grid file, or the name of a grid that ships (see sweep grids).", show_default=False
)
GridFile = Annotated[Path, GRID_FILE]
OptionalGridFile = Annotated[Path | None, GRID_FILE]
Override = Annotated[
    list[str] | None,
    typer.Option("-S", "--set", metavar="KEY=VALUE", help="Replace a value of the grid, as in -S fixed.virt=4GiB."),
]
Where = Annotated[
    str | None, typer.Option("--where", metavar="SQL", help="Only points for which this SQL condition is true.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Longest time for one point.")]
Kernels = Annotated[
    list[str] | None,
    typer.Option(
        "--kernel",
        metavar="KERNEL",
        help="running, the beginning of a release of sweep kernel ls, or a file; may be repeated.",
    ),
]
Inside = Annotated[
    bool,
    typer.Option(
        "--inside", help="Count inside the running kernel too, by kprobes: needs root; times are not measured then."
    ),
]
Results = Annotated[
    str,
    typer.Option(
        "--results", metavar="DIR-or-URI", help="The store: a directory, or a URI such as s3://bucket/prefix."
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="Output format.")]
JsonFormat = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CallSizes = Annotated[
    str, typer.Option("--zap", metavar="SIZES", help="Sizes of the madvise calls to assess, separated by commas.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only the data and errors.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Lines as long as needed; else they fit the terminal, or 80 columns.")
]

STORE = "results"
"""The store that is used without --results."""
ZAPS = "64KiB,2MiB,64MiB"
"""Sizes of calls that are assessed without --zap."""


def parse_call_sizes(text: str) -> tuple[int, ...]:
    """The sizes of --zap in bytes. Raises UserError."""
    from sweep.common.units import parse_size

    try:
        return tuple(parse_size(size.strip()) for size in text.split(","))
    except UserError as error:
        raise UserError(f"--zap: {error}") from error


def missing_store(place: str, results: str) -> str:
    """The message for a store that does not exist: `place` is where it was looked for, `results` the option."""
    return f"{place}: no store there; check --results, or launch a grid: sweep launch GRID{results_option(results)}"


def results_option(results: str) -> str:
    """` --results DIR` for a command that is suggested to the user, quoted for a shell; empty for the default store."""
    import shlex

    return "" if results == STORE else f" --results {shlex.quote(results)}"
