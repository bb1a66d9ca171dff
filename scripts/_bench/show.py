"""Figures as a table: on the terminal as they come, in Markdown for the page."""

from typing import Any

from rich.console import Console
from rich.table import Table

from _bench.figure import number

COLUMNS = ("figure", "median", "spread", "CPU s", "wall s", "yardstick", "ratio", "reach", "met", "others")


def cells(row: dict[str, Any]) -> list[str]:
    """One figure's cells, in the order of COLUMNS."""
    yardstick = f"{row['yardstick']}: {number(row['yardstick_median'])}" if row["yardstick"] else ""
    met = {None: "", True: "yes", False: "no"}[row["met"]]
    return [
        row["figure"],
        f"{number(row['median'])} {row['unit']}",
        f"{number(row['least'])} - {number(row['most'])} ({len(row['values'])})",
        number(row["cpu_s"]),
        number(row["wall_s"]),
        yardstick,
        number(row["ratio"]),
        row["reach"] or "",
        met,
        number(row["others_cpus"]),
    ]


def plain(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title, title_justify="left", show_lines=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("figure", "yardstick", "reach") else "right")
    for row in rows:
        table.add_row(*cells(row))
    console = Console()
    console = console if console.is_terminal else Console(width=220)
    console.print(table)
    for row in rows:
        if row["note"]:
            console.print(f"{row['figure']}: {row['note']}", highlight=False)


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"
