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
from _bench.bench import Bench
from _bench.figure import number

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
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures; written anew after each section")
    parser.add_argument("--quick", action="store_true", help="small points, one repetition: tries the script, no more")
    options = parser.parse_args(words)
    for name in options.sections:
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}; known: {', '.join(SECTIONS)}")
    bench, rows = Bench(options.quick), list[dict[str, Any]]()
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": " ".join(["scripts/bench", *words]),
        "quick": options.quick,
        "machine": machine.facts(),
        "figures": rows,
    }
    for name in options.sections or SECTIONS:
        load = os.getloadavg()[0]
        taken = [row | {"load": load} for row in figures(name, bench)]
        rows += taken
        show.plain(taken, f"{name} (load {load:.2f} at its start)")
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def figures(name: str, bench: Bench) -> Iterator[dict[str, Any]]:
    section = importlib.import_module(f"_bench.{SECTIONS[name]}")
    bench.say(name)
    for figure in section.section(bench):
        facts = figure.facts() | ({"met": None} if bench.quick else {})
        bench.say(f"  {facts['figure']}: {number(facts['median'])} {facts['unit']}")
        yield facts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
