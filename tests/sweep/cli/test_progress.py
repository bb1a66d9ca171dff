"""What a launch says on the way: what it waits for, with seconds; how far it is; and nothing to nobody."""

import io
import time

import pytest

from sweep.cli.progress import NoProgress, open_progress
from sweep.run.progress import ProgressState


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until its one number is changed."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_now_and_then(clock: list[float]) -> None:
    """Soon at first, then every ten seconds, then ever more seldom; the wait for a compiler is told as such."""
    out = io.StringIO()
    shown = open_progress(False, out)
    for second in range(61):
        clock[0] = float(second)
        done = max(0, second - 25)
        waiting = "compiling the engine, once" if second < 25 else ""
        shown.show(ProgressState(100, done, work_ns=100.0, work_done_ns=done, waiting=waiting))
    assert out.getvalue().splitlines() == [
        "sweep: compiling the engine, once: 2 s",
        "sweep: compiling the engine, once: 12 s",
        "sweep: compiling the engine, once: 22 s",
        "sweep: 7 of 100 points, 32 s, 0.875 points/s, 106 s left",
        "sweep: 17 of 100 points, 42 s, 0.944 points/s, 87.9 s left",
        "sweep: 27 of 100 points, 52 s, 0.964 points/s, 75.7 s left",
    ]


def test_cpu_times_say_what_is_left_until_the_clock_can(clock: list[float]) -> None:
    """One of a hundred in the first 9 s is no rate while the other workers are at the rest."""
    out = io.StringIO()
    shown = open_progress(False, out)
    shown.show(ProgressState(100))
    for second, done in ((9, 1), (19, 50), (32, 99)):
        clock[0] = float(second)
        shown.show(ProgressState(100, done, work_ns=100.0, work_done_ns=done, left_ns=(100 - done) * 0.2e9))
    assert [line.rpartition(", ")[2] for line in out.getvalue().splitlines()] == [
        "28.5 s left",
        "14.5 s left",
        "322 ms left",
    ]


def test_a_bar_shows_what_it_waits_for(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal too: the words and the seconds stand beside the bar."""
    monkeypatch.setenv("TERM", "xterm")  # rich draws no bar on a dumb one
    out = Terminal()
    shown = open_progress(False, out)
    shown.show(ProgressState(3, waiting="compiling the engine, once"))
    clock[0] = 7.0
    shown.show(ProgressState(3, waiting="compiling the engine, once"))
    shown.stop()
    assert "compiling the engine, once: 7 s" in out.getvalue()


class Gone(io.StringIO):
    """A pipe whose reader went away."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal, self.tried = terminal, 0

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.tried += 1
        raise OSError(5, "gone")


@pytest.mark.parametrize("terminal", [False, True])
def test_nobody_listens(clock: list[float], terminal: bool) -> None:
    """Words that cannot be told are no error, and are not tried again."""
    out = Gone(terminal)
    shown = open_progress(False, out)
    shown.say("hello")
    assert out.tried
    tried = out.tried
    clock[0] = 30.0
    shown.say("again")
    shown.show(ProgressState(10, 1))
    shown.stop()
    assert out.tried == tried


def test_quiet_is_silent() -> None:
    """-q: not a word."""
    assert isinstance(open_progress(True), NoProgress)
