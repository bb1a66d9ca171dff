"""The published cases, to the kB (Linux commit 6375e95f381e, its cover letter and the arm64 posting)."""

from engine.model.arch import GIB, MIB, TIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from tests.support import process_55tib

AT = {name: i for i, name in enumerate(COLUMNS)}


def status_kib(scenario: Scenario, policy: str, base_kib: int) -> int:
    """VmPTE as /proc/PID/status would show: the process's own tables, and ours but for the PUD table that it shares."""
    row = run_batch(columns_of([scenario])).values[0, POLICIES.index(policy)]
    return base_kib + int(row[AT["vm_pte_kib_end"]] - 4 * row[AT["pud_tables_end"]])


def test_fifty_gib_loop() -> None:
    """25,600 times 2 MiB touched and given back: VmPTE 102,640 kB without, 240 kB with (base 40 kB)."""
    scenario = Scenario(virt=50 * GIB, sparsity=0.0, zap=2 * MIB)
    assert status_kib(scenario, "none", 40) == 102_640
    assert status_kib(scenario, "merged", 40) == 240


def test_arm64_one_gib() -> None:
    """The same 512 times on arm64 under QEMU: 2,088 and 40 kB (base 36 kB)."""
    scenario = Scenario(virt=1 * GIB, sparsity=0.0, zap=2 * MIB, arch="arm64-4k")
    assert status_kib(scenario, "none", 36) == 2_088
    assert status_kib(scenario, "merged", 36) == 40


def test_fifty_five_tib_process() -> None:
    """VIRT 55t, RES 590g, VmPTE 110g: every slot had a table; dense residents need 1.2g, and 108g come back."""
    row = process_55tib.judged().values[0]
    none, merged = row[POLICIES.index("none")], row[POLICIES.index("merged")]
    gib = 1024 * 1024
    assert round(none[AT["vm_pte_kib_peak"]] / gib) == 110
    assert 1.1 < merged[AT["vm_pte_kib_peak"]] / gib < 1.5
    saved = (none[AT["vm_pte_kib_peak"]] - merged[AT["vm_pte_kib_peak"]]) / gib
    assert 107.5 < saved < 109


def test_fifty_five_tib_spread_evenly() -> None:
    """Were the same 590g spread evenly, 99.5 % of the tables would hold an entry after each install."""
    row = run_batch(columns_of([Scenario(virt=55 * TIB, res=590 * GIB)])).values[0, 0]
    share = row[AT["pte_tables_end"]] / (55 * TIB // (2 * MIB))
    assert abs(share - 0.9955) < 0.0005
