"""The pages of README, CONTRIBUTING and docs/, and the sections of them that are generated.

PTSWEEP_DOCS=write makes the tests of this folder bring the pages up to date instead of comparing them.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/data/README.md")),
    *sorted(DOCS.glob("*.md")),
]
WRITE = os.environ.get("PTSWEEP_DOCS") == "write"


def check_generated(page: Path, name: str, content: str) -> None:
    """Assert that a page's section between `<!-- generated: NAME -->` and `<!-- end -->` holds `content`."""
    text = page.read_text()
    pattern = re.compile(rf"(<!-- generated: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    match = pattern.search(text)
    assert match, f"{page.name} has no generated section {name}"
    if WRITE:
        page.write_text(text[: match.start(2)] + content + text[match.end(2) :])
    else:
        assert match[2] == content, f"{page.name} is out of date; run PTSWEEP_DOCS=write scripts/test tests/docs"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a vertical bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def blocks(text: str, language: str) -> list[str]:
    """The contents of a page's fenced code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_commands(script: str, folder: Path, columns: int = 100) -> subprocess.CompletedProcess[str]:
    """Run shell lines in a folder; `sweep` and `scripts/sweep` in them are this checkout's command line."""
    sweep = f'sweep() {{ {shlex.quote(sys.executable)} -m sweep.cli "$@"; }}\n'
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "PTSWEEP_CALLED_AS": "scripts/sweep"}
    lines = sweep + re.sub(r"\bscripts/sweep\b", "sweep", script)
    return subprocess.run(
        ["sh", "-e", "-c", lines], cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False
    )
