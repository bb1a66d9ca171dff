"""Interrupts and kills of the real command: exit code 3, finished points stored, no process left, resumable."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sweep.query.database import Database
from sweep.run.interrupts import Interrupts
from sweep.store.store import Store
from tests.paths import ROOT

pytestmark = pytest.mark.slow

PATIENCE_S = 300.0  # the first launch may have to compile the engine
GRID = """schema: sweep/1
name: slow
fixed: {virt: 512GiB, sparsity: 0.99, zap: 64KiB}
repeats: 3000
"""


Begin = Callable[..., "Launch"]


class Launch:
    """`sweep launch` in a process, and all its descendants."""

    def __init__(self, folder: Path, *words: str) -> None:
        (folder / "slow.yaml").write_text(GRID)
        self.results = folder / "results"
        self.temporary = tempfile.mkdtemp(prefix="t", dir="/tmp")  # short: Ray puts sockets there
        command = [sys.executable, "-m", "sweep.cli", "launch", str(folder / "slow.yaml"), *words]
        self.process = subprocess.Popen(
            [*command, "-j", "2", "--results", str(self.results)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={n: v for n, v in os.environ.items() if n != "RAY_ADDRESS"} | {"TMPDIR": self.temporary},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.processes = {psutil.Process(self.process.pid)}

    def clear(self) -> None:
        """Kill what a failed test left running."""
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.communicate()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def wait_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "too slow"
            time.sleep(0.05)
        self.processes |= set(psutil.Process(self.process.pid).children(recursive=True))

    def committed(self) -> list[Path]:
        return list(self.results.glob("*/points/part-*.parquet"))

    def named(self, name: str) -> list[psutil.Process]:
        """Its living descendants of this name."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.name() == name:
                    found.append(process)
        return found

    def end(self) -> tuple[int, str, str]:
        """Wait for the end: exit code, stdout, stderr. No descendant and no temporary file may be left."""
        out, err = self.process.communicate(timeout=60)
        _, alive = psutil.wait_procs([p for p in self.processes if p.is_running()], timeout=10)
        assert not alive
        assert not list(Path(self.temporary).iterdir())
        return self.process.returncode, out, err

    def rows(self) -> tuple[int, int]:
        """Points that are ok, and how many of them are distinct."""
        with Database(Store(self.results)) as database:
            table = database.query(
                "SELECT count(*) AS n, count(DISTINCT point_id) AS d FROM points WHERE status = 'ok'"
            )
        return table.to_pylist()[0]["n"], table.to_pylist()[0]["d"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """A function that starts launches into one store."""
    launches: list[Launch] = []

    def one(*words: str) -> Launch:
        launches.append(Launch(tmp_path, *words))
        return launches[-1]

    yield one
    for launch in launches:
        launch.clear()


def test_a_launch_that_is_ended_repeatedly_loses_nothing(begin: Begin) -> None:
    """After Ctrl-C, kill -9 and SIGQUIT committed points stay, none twice; the next launch adds to them."""
    stored = 0
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGQUIT):
        launch = begin("--executor", "processes")
        parts = len(launch.committed())
        launch.wait_until(lambda: len(launch.committed()) > parts)  # noqa: B023 - called within the loop
        launch.process.send_signal(number)
        code, out, err = launch.end()
        ok, distinct = launch.rows()
        assert ok == distinct > stored
        stored = ok
        run = Store(launch.results).runs()[0]
        assert (run.status, run.todo) == ("interrupted", 3000 - stored)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 3
            assert ": interrupted; points: " in out
            assert "the same command continues from here" in err


def test_the_second_signal_ends_at_once(begin: Begin) -> None:
    """A second signal, also during the handling of the first, ends the launch at once: exit code 3, no process left."""
    launch = begin("--executor", "processes")
    launch.wait_until(launch.committed)
    started = time.monotonic()
    for _ in range(2):
        launch.process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    code, _, _ = launch.end()
    assert code == 3
    assert time.monotonic() - started < 10
    assert launch.rows()[0] > 0


def test_a_killed_worker_costs_no_point(begin: Begin) -> None:
    """A killed worker is replaced and its batch runs again."""
    launch = begin("--executor", "processes", "-S", "repeats=400")
    launch.wait_until(launch.committed)
    psutil.Process(launch.process.pid).children()[0].kill()
    code, out, _ = launch.end()
    assert code == 0, out
    assert launch.rows() == (400, 400)


@pytest.mark.cluster
def test_ray_ends_with_the_first_signal(begin: Begin) -> None:
    """SIGTERM to a launch on Ray: exit code 3, rows stored, no process and no directory of Ray left."""
    launch = begin("--executor", "ray")
    launch.wait_until(launch.committed)
    launch.process.send_signal(signal.SIGTERM)
    code, out, err = launch.end()
    assert code == 3
    assert ": interrupted; points: " in out
    assert "Traceback" not in err
    assert launch.rows()[0] > 0


@pytest.mark.cluster
@pytest.mark.parametrize("killed", ["the launch", "gcs_server", "raylet"])
def test_a_kill_while_ray_starts(begin: Begin, killed: str) -> None:
    """SIGTERM to the launch: code 3. The death of a part of Ray: code 2. One line, and nothing of Ray is left."""
    launch = begin("--executor", "ray")
    seen = "gcs_server" if killed == "the launch" else killed
    launch.wait_until(lambda: launch.named(seen))
    began = time.monotonic()
    if killed == "the launch":
        launch.process.send_signal(signal.SIGTERM)
    else:
        launch.named(seen)[0].kill()
    code, _, err = launch.end()
    assert time.monotonic() - began < 30
    assert code == (3 if killed == "the launch" else 2)
    why = "interrupted;" if killed == "the launch" else f"the local Ray is gone: its {killed} has died;"
    assert err.splitlines()[-1].startswith(f"sweep: {why}")
    assert all(line.startswith("sweep: ") for line in err.splitlines())


@pytest.mark.cluster
def test_the_next_command_removes_what_a_killed_launch_left(begin: Begin) -> None:
    """All processes of its Ray, also those that have renamed themselves, and its directory."""
    launch = begin("--executor", "ray")
    launch.wait_until(lambda: launch.named("raylet"))
    launch.process.kill()
    launch.process.communicate()
    command = [sys.executable, "-m", "sweep.cli", "ls", "--results", str(launch.results)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"TMPDIR": launch.temporary}, capture_output=True, check=True)
    launch.end()


def test_interrupts_restore_the_handlers() -> None:
    """After a launch the former signal handlers are back; signals that were ignored stay ignored during it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handler = signal.getsignal(signal.SIGINT)
        with Interrupts() as interrupts:
            assert signal.getsignal(signal.SIGINT) != handler
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            interrupts.defers_first = True
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.received == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # cleaning up is not interrupted
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_while_planning_one_signal_is_enough() -> None:
    """Before any point runs, the first signal raises KeyboardInterrupt."""
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
