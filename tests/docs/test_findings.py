"""The figures of findings.md that a model computes are those that its commands print."""

import re
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.docs.pages import DOCS, check_generated

PAGE = DOCS / "findings.md"


@pytest.mark.slow
def test_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Section 4 has what the grid `filters` gives, in 80 columns, and its sentences have the figures of the table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["launch", "filters", "-q", "--executor", "inline"]) == 0
    capsys.readouterr()
    assert main(["query", "filters"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    check_generated(PAGE, "filters", f"```\n{printed}```\n")
    rows = [line.split() for line in printed.splitlines() if line.lstrip()[:1].isdigit()]
    found = {(row[0], row[1]): row[3:] for row in rows}
    text = " ".join(PAGE.read_text().partition("## 4.")[2].partition("- **")[2].split())
    for size in ("1,024", "64", "16", "2,048"):
        percent, _, ns_a_call, ns_a_table = (float(cell.replace(",", "")) for cell in found[size, "scan"])
        assert f"{ns_a_table / 1000:.2g} µs" in text
        assert size == "2,048" or f"{ns_a_call / 1000:.2g} µs" in text
        assert size in ("16", "2,048") or f"gives back {percent:.0f} %" in text
    for size in ("1,024", "16", "65,536"):
        rest, scan = (round(float(found[size, otherwise][1])) for otherwise in ("rest", "scan"))
        assert re.search(rf"\b{rest} (entries )?instead of {scan}\b", text)
