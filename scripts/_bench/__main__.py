"""`scripts/bench [SECTION...]`: measure, print one table per section, and write the figures to a JSON file if asked."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _bench import machine, show
from _bench.bench import ROOT, Bench
from _bench.figure import number

PAGE = ROOT / "docs" / "speed.md"
SECTIONS = {
    "engine": "engine55",
    "small": "small",
    "policies": "onepass",
    "threads": "contention",
    "growth": "growth",
    "start": "startup",
    "sweep": "sweeping",
    "peers": "peers",
    "tasks": "tasks",
    "sql": "queries",
    "cli": "commands",
    "stores": "stores",
    "replay": "recordings",
    "record": "recorded",
    "kernel": "live",
    "guests": "guests",
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"default: all of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures to FILE; other sections in it stay as they are"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small points, one repetition: checks that the script works, the figures mean nothing",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help=f"measure nothing: update the tables of docs/{PAGE.name} from a --json FILE",
    )
    options = parser.parse_args(words)
    if options.page:
        PAGE.write_text(show.update_page(PAGE.read_text(), read_report(options.page, parser), list(SECTIONS)))
        return 0
    for name in options.sections:
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}; known: {', '.join(SECTIONS)}")
    bench, facts = Bench(options.quick), machine.facts()
    report: dict[str, Any] = {"machine": facts, "figures": []}
    if options.json and options.json.exists():
        report["figures"] = read_report(options.json, parser)["figures"]
    for name in options.sections or SECTIONS:
        when = {
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "commit": facts["commit"],
            "load": os.getloadavg()[0],
        }
        rows = [row | when for row in figures(name, bench)]
        show.print_table(rows, f"{name} (load {when['load']:.2f} at its start)")
        if options.json:
            others = [row for row in report["figures"] if row["section"] != name]
            report["figures"] = sorted(others + rows, key=lambda row: list(SECTIONS).index(row["section"]))
            options.json.write_text(show.json_text(report))
    return 0


def read_report(file: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Read a file that --json wrote; exits with a message if that fails."""
    try:
        report: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{file}: {error}")
    return report


def figures(name: str, bench: Bench) -> Iterator[dict[str, Any]]:
    """Measure a section and yield its figures as JSON objects."""
    section = importlib.import_module(f"_bench.{SECTIONS[name]}")
    bench.say(name)
    for figure in section.section(bench):
        facts = figure.facts() | ({"met": None} if bench.quick else {})
        bench.say(f"  {facts['figure']}: {number(facts['median'])} {facts['unit']}")
        yield facts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
