"""The grid that resembles a process has its RES and its VmPTE."""

import sys
from pathlib import Path

import pytest

from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.run import run_batch
from sweep.cli.main import main
from sweep.grid.loader import load_grid
from sweep.process import table_census
from sweep.process.similar_scenario import similar_scenario
from tests.support.mapper import GIB, HALF_EMPTY, SLOT, mapper

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")

EMPTIED_TWICE = """
for turn in range(2):
    for slot in range(turn, 4096, 2):
        for page in range(40):
            write(slot * SLOT + page * 4096)
    EMPTIED = range(turn, 4096 - 1024 * turn, 2)
    for slot in EMPTIED:
        libc.madvise(BASE + slot * SLOT, 1 << 20, 4)
"""
FULL = "EMPTIED = []\nfor slot in range(1024):\n    ctypes.memset(BASE + slot * SLOT, 1, 1 << 16)"
STREWN = """
EMPTIED = []
for i in range(226):
    ctypes.memset(BASE + (i * 32_479 % 7_340_000) * SLOT, 1, 1 << 14 + i % 5)
"""
FEW_LARGE = """
EMPTIED = []
for i in range(9):
    ctypes.memset(BASE + (i * 4_477_713 % 20_971_520) * SLOT, 1, (i * 7 % 32 + 1) << 20)
"""
DENSE_AND_STREWN = "ctypes.memset(BASE, 1, 1 << 28)\n" + STREWN
LIKE = {
    "one slot": ("EMPTIED = []\nwrite(0)", SLOT),
    "few large": (FEW_LARGE, 41 << 40),
    "dense and strewn": (DENSE_AND_STREWN, 14 << 40),
    "half": (HALF_EMPTY, 1 << 40),
    "emptied": (EMPTIED_TWICE, 8 * GIB),
    "full": (FULL, 2 * GIB),
    "strewn": (STREWN, 14 << 40),
}


@pytest.mark.parametrize("case", LIKE)
@pytest.mark.slow
def test_the_similar_grid_has_as_many_tables(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The grid of --grid, run by the engine, has the RES of the process and its VmPTE within 5 %, or a table if few."""
    path, (body, size) = tmp_path / "like.yaml", LIKE[case]
    with mapper(body, size) as process:
        assert main(["inspect", str(process.pid), "--by", "summary", "--json", "--grid", str(path)]) == 0
        census = table_census.take_census(process.pid)
    capsys.readouterr()
    columns = next(load_grid(path).chunks()).columns
    ran = dict(zip(COLUMNS, run_batch(columns).values[0, POLICIES.index("none")].tolist(), strict=True))
    a_table = 4 if case in ("one slot", "few large") else 0  # of few tables one is more than a twentieth
    assert ran["vm_pte_kib_peak"] == pytest.approx(census.sizes.vm_pte_kib, rel=0.05, abs=a_table)
    assert similar_scenario(census).similar_vm_pte_kib == pytest.approx(ran["vm_pte_kib_peak"], rel=0.01)
    assert columns["res"][0] == sum(vma.present for vma in census.vmas if vma.mapping.is_anonymous) * 4096
