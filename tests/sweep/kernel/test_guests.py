"""Two real kernels in guests agree with the model; what goes wrong there is a failed point; no guest is left over."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.guest.runner import GuestRunner
from engine.kernel.server import LostError, TimedOutError
from engine.model.arch import MIB
from engine.model.scenario import Scenario
from sweep.cli.main import main
from sweep.query.database import Database
from sweep.store.store import Store
from tests.paths import ROOT
from tests.support.guest_kernels import RELEASES, agents_folder, image, need_kernels

pytestmark = [pytest.mark.slow, pytest.mark.live]

GRID = """schema: sweep/1
name: guests
policies: [none, merged, munmap]
kernels: ["6.12", "7.3"]
fixed: {sparsity: 0.9}
axes: {virt: [2052KiB, 30MiB], zap: [64KiB, 2MiB, 3MiB], threads: [1, 2], thp: [never, always]}
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[GuestRunner]:
    need_kernels()
    with GuestRunner(image("7.3"), agents_folder()) as runner:
        yield runner


def rows(sql: str) -> list[dict[str, Any]]:
    with Database(Store(Path("results"))) as database:
        return list(database.query(sql).to_pylist())


def test_a_launch_on_two_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dozen points: each kernel follows the policy of its release, and every memory column equals the model's."""
    need_kernels()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guests.yaml").write_text(GRID)
    assert main(["launch", "guests.yaml", "--engine", "kernel", "-q"]) == 0
    assert main(["launch", "guests.yaml", "--executor", "inline", "-q"]) == 0
    compared = "res_bytes_peak, res_bytes_end, vm_pte_kib_peak, vm_pte_kib_end, vm_pte_kib_max, vm_pte_kib_needed_end,"
    compared += "pte_tables_end, pte_tables_empty_end, zap_calls, ptes_installed, ptes_zapped, pte_tables_freed,"
    compared += "anon_huge_kib_peak, anon_huge_kib_end, thp_faults, thp_splits"
    differ = f"SELECT point_id, policy, {compared} FROM outcomes WHERE engine = 'kernel' EXCEPT "
    differ += f"SELECT point_id, policy, {compared} FROM outcomes WHERE engine = 'model'"
    assert rows(differ) == []
    inside = "pte_tables_allocated, force_breaks, tlb_flushes_full, tlb_invlpgs"
    exact = "(policy <> 'munmap' OR thp = 'never') AND threads = 1"
    differ = f"SELECT point_id, policy, {inside} FROM outcomes WHERE accel = 'tcg' AND {exact} EXCEPT "
    assert rows(f"{differ} SELECT point_id, policy, {inside} FROM outcomes WHERE engine = 'model' AND {exact}") == []
    followed = rows(
        "SELECT DISTINCT kernel_release[:4] AS k, policy FROM outcomes WHERE policy <> 'munmap' AND k <> ''"
    )
    assert sorted((row["k"].rstrip("."), row["policy"]) for row in followed) == [("6.12", "none"), ("7.3", "merged")]
    (counts,) = rows(
        "SELECT count(*) AS n, count(zap_ns) AS times, any_value(accel) AS accel FROM outcomes WHERE accel <> ''"
    )
    assert counts["n"] == 24 * 2 * 2
    assert counts["times"] == (0 if counts["accel"] == "tcg" else counts["n"])


def test_times_of_an_emulated_kernel_are_refused(guest: GuestRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """calibrate needs KVM."""
    if guest.has_times:
        pytest.skip("guests run with KVM here")
    assert main(["calibrate", "--kernel", "7.3"]) == 2
    assert "is emulated, where times mean nothing" in capsys.readouterr().err


def test_a_panic_is_a_failed_point(guest: GuestRunner) -> None:
    """The error says so, the console's last lines are there, and the next point boots another guest."""
    with pytest.raises(LostError, match="sysrq triggered crash") as caught:
        guest.write_file("/proc/sysrq-trigger", "c")
    assert "Kernel panic" in caught.value.last_lines
    guest.close()
    assert guest.run(Scenario(virt=2 * MIB, sparsity=0)).values["pte_tables_freed"] == 1


def test_a_hang_is_a_timeout(guest: GuestRunner) -> None:
    """A point that takes longer than its limit ends with its guest."""
    guest.limit_s = 0.01
    with pytest.raises(TimedOutError, match=r"no answer in 0\.01 s"):
        guest.run_script(script(256 * MIB))
    guest.limit_s = 120
    assert guest.run(Scenario(virt=2 * MIB, sparsity=0)).values["pte_tables_freed"] == 1


def test_out_of_memory_is_a_failed_point(guest: GuestRunner) -> None:
    """A point that takes more than the guest has loses its process; the guest's kernel says so on the console."""
    with pytest.raises(LostError) as caught:
        guest.run_script(script(4096 * MIB))
    assert "out of memory" in caught.value.last_lines.lower()


def script(virt: int) -> Any:
    """A point that writes every page, without a check whether they fit."""
    from engine.kernel.script import script_of

    return script_of(Scenario(virt=virt, sparsity=0), False)


def test_no_guest_survives_its_driver() -> None:
    """QEMU ends with the process that started it, also by kill -9."""
    need_kernels()
    code = (
        "import sys, time; from engine.guest.booted_guest import Guest; from tests.support.guest_kernels import *;"
        "g = Guest(image(sys.argv[1]), 'tcg', agents_folder()); print(g._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, RELEASES[0]], stdout=subprocess.PIPE, cwd=ROOT) as driver:
        assert driver.stdout is not None
        guest = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
    end = time.monotonic() + 10
    while guest.is_running() and guest.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    assert not guest.is_running() or guest.status() == psutil.STATUS_ZOMBIE
