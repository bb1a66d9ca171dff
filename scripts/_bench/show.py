"""Tables of figures: for the terminal, and as Markdown for docs/speed.md."""

import json
import re
from typing import Any

from rich.console import Console
from rich.table import Table

from _bench.figure import number

BEGIN, END = "<!-- figures: scripts/bench --page -->", "<!-- end of figures -->"
COLUMNS = ("figure", "median", "spread", "CPU s", "wall s", "yardstick", "ratio", "reach", "met", "others")


def cells(row: dict[str, Any]) -> list[str]:
    """Return the texts of one figure's row, in the order of COLUMNS."""
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


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print figures and their notes to the terminal."""
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


def json_text(report: dict[str, Any]) -> str:
    """Return a report as JSON, one figure per line."""
    rows = ",\n".join(json.dumps(row) for row in report["figures"])
    return f'{{"machine": {json.dumps(report["machine"])},\n"figures": [\n{rows}\n]}}\n'


def update_page(text: str, report: dict[str, Any], sections: list[str]) -> str:
    """Return docs/speed.md with the tables of the report's sections replaced.

    Tables of other sections stay; all are in the order of `sections`. Raises ValueError if the page has no place for
    tables.
    """
    match = re.search(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", text, re.DOTALL)
    if match is None:
        raise ValueError(f"no place for the figures between {BEGIN} and {END}")
    tables = {table.partition("\n")[0]: table for table in re.split(r"^### ", match[1], flags=re.MULTILINE)[1:]}
    for section in {row["section"] for row in report["figures"]}:
        rows = [row for row in report["figures"] if row["section"] == section]
        tables[section] = section_text(section, rows, report["machine"])
    ordered = [f"### {tables[section].strip()}\n\n" for section in sections if section in tables]
    return f"{text[: match.start(1)]}\n{''.join(ordered)}{text[match.end(1) :]}"


def section_text(section: str, rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Return the Markdown of one section: its name, when and where it was measured, its table and notes."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    first = rows[0]
    lines = [
        section,
        "",
        f"`scripts/bench {section}`, {first['date']}, commit {first['commit']}, load {first['load']:.2f} at its start. "
        f"{machine['cpu']}, {machine['cores']} cores, last cache {machine['last_cache_mib']} MiB, "
        f"{machine['memory_gib']:g} GiB; Linux {machine['kernel']}, Python {machine['python']}, {packages}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    notes = [f"- {row['figure']}: {row['note']}." for row in rows if row["note"]]
    return "\n".join([*lines, "", *notes] if notes else lines)
