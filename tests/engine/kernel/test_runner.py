"""The live kernel agrees with the model. Points that it cannot run are refused before anything is mapped."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel import feasibility, host, proc_reader
from engine.kernel.host import AvailableMemory, Machine, UnsupportedMachineError
from engine.kernel.huge_page_events import HugePageEvents, run_undisturbed
from engine.kernel.outcome import HUGE_COLUMNS, Observation
from engine.kernel.proc_reader import count_spans
from engine.kernel.runner import LostError, RefusedError, Runner, TimedOutError
from engine.kernel.scenario_pages import Ranges
from engine.kernel.script import Round, Script, common_pages, merge_ranges, pages_below
from engine.model.arch import GIB, KIB, MIB, TIB
from engine.model.policy import POLICIES
from engine.model.results import COLUMNS
from engine.model.scenario import Scenario, columns_of
from engine.run import run_batch
from tests.support.live_kernel import kernel

__all__ = ["kernel"]

NONE: Ranges = np.zeros((0, 2), np.int64)
CALLS: Ranges = np.array([[0, 1]] * 1000, np.int64)
POINTS = [
    Scenario(virt=4 * KIB, sparsity=0),
    Scenario(virt=2 * MIB, sparsity=0),
    Scenario(virt=30 * MIB + 12 * KIB, sparsity=0.5, zap=64 * KIB, coverage=0.7, order="random", seed=1),
    Scenario(virt=64 * MIB, sparsity=0.9, zap=3 * MIB, zap_shift=4 * KIB, rounds=3, seed=2),
    Scenario(virt=64 * MIB, sparsity=0.5, cluster=2 * MIB, coverage=0.5, rounds=3, seed=3),
    Scenario(virt=64 * MIB, sparsity=0.5, cluster=6 * MIB, zap=4 * MIB, pinned=0.0001, rounds=2, seed=4),
    Scenario(virt=16 * MIB, sparsity=0.5, pinned=0.01, zap=2 * MIB - 4 * KIB, seed=5),
    Scenario(virt=32 * MIB, sparsity=0.5, advice="free", rounds=2, seed=6),
    Scenario(virt=48 * MIB, sparsity=0.2, threads=4, partition="interleaved", coverage=0.8, rounds=2, seed=7),
    Scenario(virt=GIB + 2 * MIB, sparsity=0.999, zap=GIB, seed=8),
    Scenario(virt=33 * MIB, sparsity=0.9, zap=3 * MIB, coverage=0.8, rounds=3, thp="always", seed=10),
    Scenario(virt=33 * MIB, sparsity=0.9, zap=3 * MIB, rounds=2, thp="always", advice="free", seed=11),
    Scenario(virt=512 * GIB + 8 * MIB, sparsity=0.9999999, zap=64 * GIB, rounds=2, seed=9),
]


@pytest.mark.parametrize("scenario", POINTS, ids=range(len(POINTS)))
@pytest.mark.parametrize("unmap", [False, True], ids=["madvise", "munmap"])
@pytest.mark.live
def test_the_kernel_agrees_with_the_model(kernel: Runner, scenario: Scenario, unmap: bool) -> None:
    """VmPTE to the byte and RES to the page after installs and zaps of every round, and all observed columns.

    With huge pages AnonHugePages too.
    """
    policy = POLICIES.index("munmap" if unmap else kernel.policy)
    model, observation = run_batch(columns_of([scenario])), kernel.run(scenario, unmap)
    assert observation.rounds[:, 2:].tolist() == model.rounds[:, policy, 2:].tolist()
    if kernel.counts_pages:
        assert observation.rounds.tolist() == model.rounds[:, policy].tolist()
        assert observation.values == {name: model.values[0, policy, COLUMNS.index(name)] for name in observation.values}
        hidden = set(kernel.columns) - set(observation.values)
        assert hidden <= ({"ptes_installed", "ptes_zapped", *HUGE_COLUMNS} if scenario.thp == "always" else set())
        assert "anon_huge_kib_peak" in observation.values
    assert observation.install_ns > 0


@pytest.mark.live
def test_the_loop_costs_little(kernel: Runner) -> None:
    """The measured cost of the loop is less than that of a call that does nothing."""
    nothing = Script(Scenario(virt=2 * MIB, sparsity=1), False, NONE, (Round(NONE, NONE, CALLS, np.array([0, 1000])),))
    assert 0 < kernel.info.loop_ns < kernel.run_script(nothing).zap_ns / 1000


@pytest.mark.live
def test_points_that_need_too_much_memory_are_refused(kernel: Runner) -> None:
    """By the estimate if they need far too much, else by the model. The message has the figures."""
    with pytest.raises(RefusedError, match=r"needs about 10\d{3}\.\d\d GiB .* MemAvailable"):
        kernel.run(Scenario(virt=10 * TIB, sparsity=0))
    scenario = Scenario(virt=GIB, sparsity=0.5)
    with pytest.raises(RefusedError, match=r"needs 0\.\d\d GiB .*; 0\.60 GiB may be taken, by the test"):
        feasibility.check_memory(scenario, AvailableMemory(int(0.6 * GIB), "the test"))
    feasibility.check_memory(scenario, AvailableMemory(GIB, "the test"))


@pytest.mark.parametrize(
    ("scenario", "unmap", "because"),
    [
        (Scenario(virt=MIB, sparsity=0, arch="arm64-16k", zap=32 * MIB, cluster=16 * KIB), False, "arch arm64-16k"),
        (Scenario(virt=MIB, sparsity=0, refault=0.1), False, r"refault 0\.1"),
        (Scenario(virt=MIB, sparsity=0, folio=64 * KIB), False, "folio 65536"),
        (Scenario(virt=MIB, sparsity=0, threads=17), False, "threads 17: at most 16"),
        (Scenario(virt=MIB, sparsity=0, pinned=0.5), False, "lacks MADV_GUARD_INSTALL"),
        (Scenario(virt=MIB, sparsity=0, thp="always", advice="free"), False, r"Linux 6\.10 keeps the pages of zeros"),
        (Scenario(virt=TIB, sparsity=1, zap=4 * KIB), False, "268,435,456 calls"),
        (Scenario(virt=GIB, sparsity=1, zap=4 * KIB, coverage=0.5), True, "262,401 mappings"),
    ],
)
def test_scenarios_that_no_kernel_can_run_are_refused(scenario: Scenario, unmap: bool, because: str) -> None:
    """The message names the field and the reason."""
    machine = Machine("6.10", "x86_64", 4096, "madvise", 65530, 0, threads=16, cpus=2)
    with pytest.raises(RefusedError, match=because):
        feasibility.check(scenario, unmap, machine, guards=False)


def test_a_point_whose_huge_pages_were_disturbed_runs_again() -> None:
    """Until the kernel has refused, made and split none by itself meanwhile. After three times it is refused."""
    quiet, disturbed = HugePageEvents(1, 1, 1, 1, 1), HugePageEvents(9, 9, 2, 1, 1)
    point = Script(Scenario(virt=2 * MIB, sparsity=0, thp="always"), False, NONE, ())
    observation = Observation({}, np.zeros((0, 4), np.int64), np.zeros((0, 2), np.int64), 0, np.zeros((0, 2), np.int64))
    readings, runs = iter([quiet, disturbed, disturbed, disturbed._replace(split_pmd=12)]), list[int]()

    def run() -> Observation:
        runs.append(1)
        return observation

    again = run_undisturbed(point, run, lambda: next(readings), counts_point=True)
    assert (len(runs), again.values["thp_splits"], again.values["thp_faults"]) == (2, 3, 0)
    counted = iter(range(100))
    with pytest.raises(RefusedError, match="not comparable: thp_fault_fallback"):
        run_undisturbed(point, run, lambda: quiet._replace(collapse_alloc=next(counted)))
    assert len(runs) == 5


@pytest.mark.live
def test_a_point_that_takes_too_long_is_killed(kernel: Runner) -> None:
    """It raises TimedOutError, its process is gone, and the next point runs."""
    with Runner() as impatient:
        impatient.limit_s = 0.02
        with pytest.raises(TimedOutError, match=r"no answer in 0\.02 s"):
            impatient.run(Scenario(virt=256 * MIB, sparsity=0))
        impatient.limit_s = 60
        assert impatient.run(Scenario(virt=2 * MIB, sparsity=0)).values["zap_calls"] == 1


@pytest.mark.live
def test_a_killed_child_is_lost_and_the_next_point_runs(kernel: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that dies costs only its own point."""
    read_status = proc_reader.read_status

    def kill(pid: int) -> proc_reader.Status:
        os.kill(pid, signal.SIGKILL)
        return read_status(os.getpid())

    with Runner() as runner:
        monkeypatch.setattr(proc_reader, "read_status", kill)
        with pytest.raises(LostError):
            runner.run(Scenario(virt=2 * MIB, sparsity=0))
        monkeypatch.setattr(proc_reader, "read_status", read_status)
        assert runner.run(Scenario(virt=2 * MIB, sparsity=0)).values["zap_calls"] == 1


@pytest.mark.live
def test_a_child_has_limits(kernel: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The OOM killer takes it first; it dumps no core; its CPU time and address space are limited."""
    read_status, limits = proc_reader.read_status, dict[str, str]()

    def spy(pid: int) -> proc_reader.Status:
        limits["oom"] = Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            limits[line[:26].strip()] = line[26:].split()[0]
        return read_status(pid)

    monkeypatch.setattr(proc_reader, "read_status", spy)
    kernel.run(Scenario(virt=64 * MIB, sparsity=0))
    assert (limits["oom"], limits["Max core file size"]) == ("1000", "0")
    assert int(limits["Max cpu time"]) <= kernel.limit_s * (os.cpu_count() or 1) + 2
    assert 64 * MIB < int(limits["Max address space"]) < 16 * GIB


def test_other_systems_than_linux_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line that says so."""
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UnsupportedMachineError, match="needs Linux"):
        Runner()


@pytest.mark.parametrize(
    ("line", "group", "limit", "usage", "stat"),
    [
        ("0::/a/b", "sys/fs/cgroup/a", "memory.max", "memory.current", "inactive_file 100"),
        ("4:memory:/a/b", "sys/fs/cgroup/memory/a", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_x 1"),
    ],
    ids=["version 2", "version 1"],
)
def test_limits_of_all_parent_cgroups_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, group: str, limit: str, usage: str, stat: str
) -> None:
    """The limit of a parent counts too; inactive page cache does not count as used."""
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "SYS", tmp_path / "sys")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"1:cpu:/\n{line}\n")
    (tmp_path / group / "b").mkdir(parents=True)
    for name, text in ((limit, "1000"), (usage, "300"), ("memory.stat", stat)):
        (tmp_path / group / name).write_text(f"{text}\n")
    (tmp_path / group / "b" / limit).write_text("max\n")
    free = 800 if "inactive" in stat else 700
    assert list(host.cgroup_headroom()) == [(free, "the limit of cgroup /a")]


RANGES = st.lists(st.integers(0, 60), max_size=12, unique=True).map(
    lambda ends: np.array(sorted(ends)[: len(ends) // 2 * 2], np.int64).reshape(-1, 2)
)


@settings(max_examples=100, deadline=None)
@given(RANGES, RANGES, st.integers(1, 9))
def test_range_arithmetic_equals_sets_of_pages(some: Ranges, others: Ranges, span: int) -> None:
    """pages_below, common_pages, count_spans and merge_ranges give what counting page by page gives."""
    pages = {page for start, end in some.tolist() for page in range(start, end)}
    other_pages = {page for start, end in others.tolist() for page in range(start, end)}
    bounds = np.arange(0, 64, span, dtype=np.int64)
    shuffled = some[::-1].copy()
    assert pages_below(shuffled, bounds).tolist() == [sum(page < bound for page in pages) for bound in bounds]
    assert common_pages(some, others) == len(pages & other_pages)
    assert count_spans(some, span) == len({page // span for page in pages})
    merged = merge_ranges(shuffled)
    assert {page for start, end in merged.tolist() for page in range(start, end)} == pages
    assert (merged[1:, 0] > merged[:-1, 1]).all()
