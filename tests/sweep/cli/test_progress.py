"""Progress on stderr: plain lines, the bar, errors of the stream, --quiet."""

import io
import time

import pytest

from sweep.cli.progress import NoProgress, open_progress
from sweep.run.progress import ProgressState


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A fake time.monotonic: it returns the list's only number."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_intervals_of_plain_lines(clock: list[float]) -> None:
    """The first line comes after 2 s, the next ones every 10 s; while workers wait, a line gives the reason."""
    out = io.StringIO()
    progress = open_progress(False, out)
    for second in range(61):
        clock[0] = float(second)
        done = max(0, second - 25)
        waiting = "compiling the engine, once" if second < 25 else ""
        progress.show(ProgressState(100, done, work_ns=100.0, work_done_ns=done, waiting=waiting))
    assert out.getvalue().splitlines() == [
        "sweep: compiling the engine, once: 2 s",
        "sweep: compiling the engine, once: 12 s",
        "sweep: compiling the engine, once: 22 s",
        "sweep: 7 % of the work after 32 s, about 1.8 min left; 7 of 100 points",
        "sweep: 17 % of the work after 42 s, about 88 s left; 17 of 100 points",
        "sweep: 27 % of the work after 52 s, about 76 s left; 27 of 100 points",
    ]


def test_what_runs_and_is_left(clock: list[float]) -> None:
    """Share, time left and batches that run are those of the state."""
    out = io.StringIO()
    progress = open_progress(False, out)
    clock[0] = 9.0
    progress.show(ProgressState(9, 1, 1, work_ns=4.0, work_done_ns=3.0, left_ns=2.5e9, running=2))
    assert out.getvalue() == (
        "sweep: 75 % of the work after 9 s, about 2 s left; 1 of 9 points, 1 failed, 2 batches running\n"
    )


def test_bar_shows_why_workers_wait(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the bar shows the reason for waiting, with its seconds."""
    monkeypatch.setenv("TERM", "xterm")  # rich draws no bar on a dumb one
    out = Terminal()
    progress = open_progress(False, out)
    progress.show(ProgressState(3, waiting="compiling the engine, once"))
    clock[0] = 7.0
    progress.show(ProgressState(3, waiting="compiling the engine, once"))
    progress.stop()
    assert "compiling the engine, once: 7 s" in out.getvalue()


def test_bar_fits_80_columns(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The share, the time left, points, failures and running batches are all to be seen."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    progress = open_progress(False, out)
    clock[0] = 1e4
    state = ProgressState(1200, 900, 3, work_ns=1e12, work_done_ns=3.9e11, left_ns=125e9, running=2)
    progress.show(state)
    progress.stop()
    assert "39 %, about 2.1 min left, 900/1,200 points, 3 failed, 2 running" in out.getvalue()
    assert "…" not in out.getvalue()


class ClosedPipe(io.StringIO):
    """A stream whose writes fail."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal, self.writes = terminal, 0

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.writes += 1
        raise OSError(5, "gone")


@pytest.mark.parametrize("terminal", [False, True])
def test_write_errors_are_ignored(clock: list[float], terminal: bool) -> None:
    """After a failed write nothing more is written, and no error is raised."""
    out = ClosedPipe(terminal)
    progress = open_progress(False, out)
    progress.say("hello")
    assert out.writes
    writes = out.writes
    clock[0] = 30.0
    progress.say("again")
    progress.show(ProgressState(10, 1))
    progress.stop()
    assert out.writes == writes


def test_quiet_is_silent() -> None:
    """--quiet shows no progress."""
    assert isinstance(open_progress(True), NoProgress)
