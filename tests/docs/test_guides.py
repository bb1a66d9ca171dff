"""The tutorial and the how-to pages: every command shown runs, in the page's order, and finds what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.grid.loader import parse_grid
from tests.docs.pages import DOCS, blocks, run_commands
from tests.paths import ROOT
from tests.support.live_kernel import why_not

needs_kernel = pytest.mark.skipif(bool(why_not()), reason=f"no live kernel: {why_not()}")
pytestmark = pytest.mark.timeout(900)
REMEDY_RELEASE = (6, 14)


def like_a_checkout(folder: Path) -> Path:
    """Make a folder that looks like a checkout to the commands: it has the grids and the tests' recordings."""
    folder.mkdir(exist_ok=True)
    (folder / "grids").symlink_to(ROOT / "grids")
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return like_a_checkout(tmp_path)


def run_page(name: str, folder: Path) -> str:
    """What all `sh` blocks of a page print to stdout, run as one script; an error ends it and fails the test."""
    script = "".join(blocks((DOCS / name).read_text(), "sh")).replace("python3 ", f"{sys.executable} ")
    stop_children = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
    done = run_commands(stop_children + script, folder)
    assert done.returncode == 0, (name, done.stdout[-500:], done.stderr[-2000:])
    return done.stdout


def row_labels(table: str) -> list[str]:
    """The first column of each row, whose columns are at least two spaces apart."""
    return [re.split(r" {2,}", line)[0] for line in table.splitlines()]


@pytest.mark.slow
def test_tutorial(tmp_path: Path) -> None:
    """The demo keeps about 500 empty tables, of which merged frees none by calls of 64 KiB and about 500 by 2 MiB."""
    printed = ""
    for attempt in range(4):  # in some random layouts the demo's memory adjoins another mapping
        printed = run_page("tutorial.md", like_a_checkout(tmp_path / str(attempt)))
        if re.search(r"^PTE tables without +(\S+) +\1 ", printed, re.MULTILINE):
            break
    assert "Of 110.0 GiB of page tables at least 0 B and at most 108.6 GiB can come back." in printed
    shown = "".join(blocks((DOCS / "tutorial.md").read_text(), "text"))
    in_order = " ".join(row_labels(printed))  # a label may be wrapped
    assert all(label in in_order for label in row_labels(shown))
    empty = re.search(r"^PTE tables without +([\d,]+) +([\d,]+)", printed, re.MULTILINE)
    assert empty
    assert 495 <= int(empty[1]) <= int(empty[2]) <= 505
    freed = dict(re.findall(r"^.*\bmerged\b.* +(64KiB|2MiB) +([\d,]+) ", printed, re.MULTILINE))
    assert int(freed["64KiB"]) == 0
    assert 480 <= int(freed["2MiB"]) <= 501
    records = re.findall(r"^zap_calls +(\S+)\n(?:.*\n)*?reached_bytes_share +(\S+)$", printed, re.MULTILINE)
    assert records == [("16,000", "0"), ("500", "1")]
    assert re.search(r"^run_id like-\S+\n.*\n.*\n.*\n +2,048 +9\d", printed, re.MULTILINE)


@pytest.mark.live
def test_tutorial_remedy() -> None:
    """VmPTE of the demo is far smaller with calls of 2 MiB where the kernel frees tables, as the tutorial says."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    config = Path(f"/boot/config-{os.uname().release}")
    if why_not() or release < REMEDY_RELEASE or (config.exists() and "CONFIG_PT_RECLAIM=y" not in config.read_text()):
        pytest.skip("this kernel does not free empty page tables")
    (demo,) = re.findall(r"<< 'END'\n(.*?)END\n", (DOCS / "tutorial.md").read_text(), re.DOTALL)
    report = "print(open('/proc/self/status').read().partition('VmPTE:')[2].split()[0])\n"
    program = demo.replace("time.sleep", f"{report}time.sleep")

    def vm_pte_kb(call_kib: int) -> int:
        words = [sys.executable, "-c", program, str(call_kib), "0"]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert vm_pte_kb(64) > 2000
    assert vm_pte_kb(2048) < 250


@pytest.mark.slow
def test_recordings(folder: Path) -> None:
    """Each command of recordings.md runs; `--touch all` bounds VmPTE, and the grid of the page parses."""
    printed = run_page("recordings.md", folder)
    assert re.search(r"^(?:in all rows: .*agrees yes|sort .* yes)$", printed, re.MULTILINE)
    assert "trace jemalloc_mixed, zap_calls 532" in printed
    assert re.search(r"^second_walk, seed_inline, merged +52 ", printed, re.MULTILINE)
    assert "trace,step,policy,vm_pte_kib,res_kib,anon_huge_kib" in printed
    (grid,) = blocks((DOCS / "recordings.md").read_text(), "yaml")
    assert parse_grid(grid, str(folder / "grid.yaml")).raw_points == 2


@pytest.mark.slow
@pytest.mark.live
@needs_kernel
def test_live_kernel(folder: Path) -> None:
    """Each command of live-kernel.md runs, and the kernel agrees with the model."""
    printed = run_page("live-kernel.md", folder)
    agreed = re.findall(r"([\d,]+) comparisons on Linux .*: ([\d,]+) agree", printed)
    assert len(agreed) == 2
    assert all(compared == equal for compared, equal in agreed)
