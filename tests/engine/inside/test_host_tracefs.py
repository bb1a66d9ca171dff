"""Counters inside the running kernel, with a folder in place of tracefs: what is set, taken, and removed again."""

import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from threading import Thread, get_native_id

import numpy as np
import pytest

from engine.inside import host_tracefs
from engine.inside.host_tracefs import HostTracefs, NoTracefsError
from engine.inside.probes import PROBES
from engine.kernel.outcome import Observation
from engine.kernel.runner import Runner
from engine.kernel.syscalls import NO_NAMES, NOTHING, UNMAP, make_calls, names_of
from engine.model.arch import MIB
from engine.model.scenario import Scenario
from tests.support.live_kernel import kernel

__all__ = ["kernel"]

EMPTY = "Totals:\n    Hits: 0\n    Entries: 0\n    Dropped: 0\n"
FAST = "{ ret:          1 } hitcount:         %d\n" + EMPTY


@pytest.fixture
def tracefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of tracefs that are used, all probes known, empty histograms; this process is root."""
    (tmp_path / "kprobe_events").write_text("")
    for name in PROBES:
        (tmp_path / "events/sweep" / name).mkdir(parents=True)
        (tmp_path / "events/sweep" / name / "trigger").write_text("")
        (tmp_path / "events/sweep" / name / "hist").write_text(EMPTY)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    yield tmp_path
    assert_no_triggers(tmp_path)


def assert_no_triggers(folder: Path) -> None:
    assert {file.read_text() for file in folder.glob("events/sweep/*/trigger")} <= {""}


def test_probes_are_set_and_removed(tracefs: Path) -> None:
    """Each with a histogram of the threads of its name; at the end its trigger goes first, then the probe."""
    with HostTracefs(tracefs) as opened:
        assert "fast_paths" in opened.probes.columns
        lines = (tracefs / "kprobe_events").read_text().splitlines()
        assert "p:sweep/table_freed ___pte_free_tlb " in lines
        trigger = (tracefs / "events/sweep/table_allocated/trigger").read_text()
        assert trigger.startswith("hist:keys=common_flags:")
        assert trigger.endswith('if comm == "sweep-install"')
    assert (tracefs / "kprobe_events").read_text().splitlines()[-len(PROBES) :] == [f"-:sweep/{n}" for n in PROBES]
    assert_no_triggers(tracefs)


def test_a_killed_sweeps_probes_are_removed_first(tracefs: Path) -> None:
    """What it left is gone before the new probes are set."""
    (tracefs / "events/sweep/flush/trigger").write_text("hist:of a killed process")
    with HostTracefs(tracefs):
        assert "killed" not in (tracefs / "events/sweep/flush/trigger").read_text()
        assert (tracefs / "kprobe_events").read_text().startswith("-:sweep/flush\n")


def test_one_process_at_a_time(tracefs: Path) -> None:
    """The lock ends with its process; the probes of the one that has it stay."""
    with (tracefs / "kprobe_events").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NoTracefsError, match="another sweep counts inside"), HostTracefs(tracefs):
            pass
        assert (tracefs / "kprobe_events").read_text() == ""


def test_a_kernel_that_takes_no_probe(tracefs: Path) -> None:
    """The options that it needs are named, and nothing stays locked."""
    for name in PROBES:
        (tracefs / "events/sweep" / name / "trigger").unlink()
    for _ in range(2):
        with pytest.raises(NoTracefsError, match="CONFIG_HIST_TRIGGERS"), HostTracefs(tracefs):
            pass


def test_why_nothing_can_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root, a kernel without kprobes, and tracefs that is not mounted are told apart, each in a line."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in host_tracefs.why_not(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host_tracefs, "KALLSYMS", tmp_path / "kallsyms")
    assert f"Linux {platform.release()} was built without CONFIG_KPROBES" in host_tracefs.why_not(tmp_path)
    (tmp_path / "kallsyms").write_text("ffffffff81000000 T register_kprobe\n")
    assert host_tracefs.why_not(tmp_path) == f"tracefs is not mounted: mount -t tracefs tracefs {tmp_path}"
    (tmp_path / "events").mkdir()
    assert "CONFIG_KPROBE_EVENTS" in host_tracefs.why_not(tmp_path)


@pytest.mark.live
@pytest.mark.usefixtures("kernel")
def test_a_point_has_what_its_threads_did(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hits between two points are the second one's; a column of /proc is replaced by what was counted."""
    monkeypatch.setattr("engine.kernel.runner.HostTracefs", lambda: HostTracefs(tracefs))
    scenario = Scenario(virt=4 * MIB, sparsity=0.5, threads=2)
    run_rounds, hits = Runner._run_rounds, iter([5, 12])

    def run_and_count(*arguments: object) -> Observation:
        (tracefs / "events/sweep/trylock/hist").write_text(FAST % next(hits))
        return run_rounds(*arguments)  # type: ignore[arg-type]

    with Runner(inside=True) as runner:
        monkeypatch.setattr(Runner, "_run_rounds", run_and_count)
        seen = [runner.run(scenario).values for _ in range(2)]
        assert set(seen[0]) == set(runner.columns)
    assert [values["fast_paths"] for values in seen] == [5, 7]
    assert seen[0]["pte_tables_freed"] == 0  # by the empty histogram; VmPTE shows two


def test_threads_have_the_name_that_probes_look_for() -> None:
    """During the calls, and another one after them; no name is set where nothing is counted."""
    ranges, gate = np.full((2_000_000, 2), 4096, np.int64), np.array([0, 1], np.int64)
    make_calls(0, ranges[:1], NOTHING, gate, 0, 0, NO_NAMES)
    seen, ids = set[str](), list[int]()

    def call() -> None:
        ids.append(get_native_id())
        make_calls(0, ranges, NOTHING, gate, 0, 0, names_of(UNMAP))
        seen.add(Path(f"/proc/self/task/{ids[0]}/comm").read_text())

    before = Path("/proc/self/comm").read_text()
    for _ in range(20):
        seen.clear()
        ids.clear()
        thread = Thread(target=call)
        thread.start()
        while thread.is_alive() and "sweep-zap\n" not in seen:
            if ids:
                seen.add(comm_of(ids[0]))
        thread.join()
        if "sweep-zap\n" in seen:
            break
    assert {"sweep-zap\n", "sweep-idle\n"} <= seen
    make_calls(0, ranges[:1], NOTHING, gate, 0, 0, NO_NAMES)
    assert Path("/proc/self/comm").read_text() == before


def comm_of(thread: int) -> str:
    """The name of a thread of this process, empty once it has ended."""
    try:
        return Path(f"/proc/self/task/{thread}/comm").read_text()
    except OSError:
        return ""
