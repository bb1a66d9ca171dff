"""The published cases, to the kB (Linux commit 6375e95f381e, its cover letter and the arm64 posting)."""

import pytest

from engine.model.arch import GIB, MIB, TIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from tests.support import process_55tib

COLUMN_INDEX = {name: i for i, name in enumerate(COLUMNS)}


def status_kib(scenario: Scenario, policy: str, base_kib: int) -> int:
    """Return VmPTE as /proc/PID/status shows it: `base_kib` of the process, and ours but for its shared PUD table."""
    row = run_batch(columns_of([scenario])).values[0, POLICIES.index(policy)]
    return base_kib + int(row[COLUMN_INDEX["vm_pte_kib_end"]] - 4 * row[COLUMN_INDEX["pud_tables_end"]])


def test_fifty_gib_loop() -> None:
    """Touch and zap 2 MiB, 25,600 times: VmPTE is 102,640 kB without and 240 kB with pt_reclaim (base 40 kB)."""
    scenario = Scenario(virt=50 * GIB, sparsity=0.0, zap=2 * MIB)
    assert status_kib(scenario, "none", 40) == 102_640
    assert status_kib(scenario, "merged", 40) == 240


def test_arm64_one_gib() -> None:
    """Touch and zap 2 MiB, 512 times, on arm64 under QEMU: VmPTE is 2,088 kB and 40 kB (base 36 kB)."""
    scenario = Scenario(virt=1 * GIB, sparsity=0.0, zap=2 * MIB, arch="arm64-4k")
    assert status_kib(scenario, "none", 36) == 2_088
    assert status_kib(scenario, "merged", 36) == 40


@pytest.mark.slow
def test_fifty_five_tib_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """VIRT 55t, RES 590g: none keeps 110g, a table for each slot ever used; merged one for each resident 2 MiB.

    Both keep all PMD and PUD tables: a GiB of 512 slots is used in every round.
    """
    row = process_55tib.results(tmp_path_factory).values[0, :, COLUMN_INDEX["vm_pte_kib_peak"]]
    slots, gibs, resident = 55 * TIB // (2 * MIB), 55 * TIB // GIB, 590 * GIB // (2 * MIB)
    upper = gibs + gibs // 512
    used = slots * (1 - (1 - resident / slots) ** 500)
    assert row[POLICIES.index("none")] == pytest.approx(4 * (used + upper), rel=2e-4)
    assert row[POLICIES.index("merged")] == pytest.approx(4 * (resident + upper), rel=0.01)
    assert round(row[POLICIES.index("none")] / 1024**2) == 110


def test_fifty_five_tib_spread_evenly() -> None:
    """If the 590g were spread evenly over 55t, 99.55 % of the tables would hold an entry after each install."""
    row = run_batch(columns_of([Scenario(virt=55 * TIB, res=590 * GIB)])).values[0, 0]
    share = row[COLUMN_INDEX["pte_tables_end"]] / (55 * TIB // (2 * MIB))
    assert abs(share - 0.9955) < 0.0005
