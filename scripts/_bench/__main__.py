"""`scripts/bench [SECTION...]`: measure, print a table a section, and keep all in a JSON file."""

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
    "kernel": "live",
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"default: all of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keep the figures; other sections in it stay as they are"
    )
    parser.add_argument("--quick", action="store_true", help="small points, one repetition: tries the script, no more")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help=f"measure nothing: put a --json FILE into {PAGE.name}"
    )
    options = parser.parse_args(words)
    if options.page:
        PAGE.write_text(show.page(PAGE.read_text(), kept(options.page, parser)))
        return 0
    for name in options.sections:
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}; known: {', '.join(SECTIONS)}")
    bench, facts = Bench(options.quick), machine.facts()
    report: dict[str, Any] = {"machine": facts, "figures": []}
    if options.json and options.json.exists():
        report["figures"] = kept(options.json, parser)["figures"]
    for name in options.sections or SECTIONS:
        when = {
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "commit": facts["commit"],
            "load": os.getloadavg()[0],
        }
        taken = [row | when for row in figures(name, bench)]
        show.plain(taken, f"{name} (load {when['load']:.2f} at its start)")
        if options.json:
            report["figures"] = sorted([row for row in report["figures"] if row["section"] != name] + taken, key=place)
            options.json.write_text(show.lines(report))
    return 0


def kept(file: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What --json kept."""
    try:
        report: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{file}: {error}")
    return report


def place(row: dict[str, Any]) -> int:
    return list(SECTIONS).index(row["section"])


def figures(name: str, bench: Bench) -> Iterator[dict[str, Any]]:
    section = importlib.import_module(f"_bench.{SECTIONS[name]}")
    bench.say(name)
    for figure in section.section(bench):
        facts = figure.facts() | ({"met": None} if bench.quick else {})
        bench.say(f"  {facts['figure']}: {number(facts['median'])} {facts['unit']}")
        yield facts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
