"""Figures as a table: on the terminal as they come, in Markdown for the page."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from _bench.figure import number

BEGIN, END = "<!-- figures: scripts/bench --page -->", "<!-- end of figures -->"
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


def lines(report: dict[str, Any]) -> str:
    """JSON, a figure a line."""
    rows = ",\n".join(json.dumps(row) for row in report["figures"])
    return f'{{"machine": {json.dumps(report["machine"])},\n"figures": [\n{rows}\n]}}\n'


def told(row: dict[str, Any]) -> str:
    return (
        f"{row['date']}, commit {row['commit']}, load {row['load']:.2f} at its start: `scripts/bench {row['section']}`."
    )


def page(text: str, report: dict[str, Any]) -> str:
    """The page with its figures, from BEGIN to END, made anew from a report."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no place for the figures: {BEGIN} and {END}")
    return f"{before}{begin}\n{markdown(report)}{end}{after}"


def markdown(report: dict[str, Any]) -> str:
    """Where and when, then a table a section."""
    machine = report["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    text = [
        f"{machine['cpu']}, {machine['cores']} cores, last cache {machine['last_cache_mib']} MiB, "
        f"{machine['memory_gib']:g} GiB; Linux {machine['kernel']}, Python {machine['python']}, {packages}.",
    ]
    sections = dict.fromkeys(row["section"] for row in report["figures"])
    for section in sections:
        rows = [row for row in report["figures"] if row["section"] == section]
        text += ["", f"### {section}", "", told(rows[0]), ""]
        text += [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        text += [f"| {' | '.join(cells(row))} |" for row in rows]
        notes = [f"{row['figure']}: {row['note']}." for row in rows if row["note"]]
        text += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(text) + "\n"
