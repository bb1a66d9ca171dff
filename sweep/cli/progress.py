"""Progress of a command on stderr: a bar on a terminal, otherwise a plain line from time to time."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from sweep.cli.messages import message_lines
from sweep.cli.output_streams import VisibleStream
from sweep.run.progress import Progress, ProgressState

FIRST_LINE_S, LEAST_INTERVAL_S, INTERVAL_SHARE = 2.0, 10.0, 1 / 20
"""Plain lines: seconds to the first; then least seconds between two, and the interval as a share of the time passed."""

LEAST_BAR, TEXT_WIDTH = 6, 72
"""Columns of the bar at least, and of what stands beside it."""


def open_progress(quiet: bool, stream: TextIO | None = None) -> Progress:
    """Progress for a stream, stderr by default. `quiet`: none is shown."""
    out = stream or sys.stderr
    if quiet:
        return NoProgress()
    if not out.isatty():
        return ProgressUntilError(ProgressLines(out))
    # A bar writes control characters: it needs the stream below the one that makes them visible.
    return ProgressUntilError(ProgressBar(out.raw if isinstance(out, VisibleStream) else out))


class NoProgress:
    def say(self, text: str) -> None:
        pass

    def show(self, state: ProgressState) -> None:
        pass

    def stop(self) -> None:
        pass


class ProgressUntilError:
    """Writes nothing more after an OSError: a closed pipe or terminal must not end a launch."""

    def __init__(self, inner: Progress) -> None:
        self._inner, self._has_failed = inner, False

    def say(self, text: str) -> None:
        self._try(self._inner.say, text)

    def show(self, state: ProgressState) -> None:
        self._try(self._inner.show, state)

    def stop(self) -> None:
        self._try(self._inner.stop)

    def _try(self, method: Callable[..., None], *arguments: object) -> None:
        if self._has_failed:
            return
        try:
            method(*arguments)
        except OSError:
            self._has_failed = True


class Clock:
    """Time passed and time left. The start of workers and the compilation do not count towards the rate."""

    def __init__(self) -> None:
        self._start = self._work_start = time.monotonic()
        self._waiting, self._waiting_since = "", self._start

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def waiting_text(self, state: ProgressState) -> str:
        """`compiling the engine, once: 12 s`, or an empty string if work is under way."""
        now = time.monotonic()
        if state.waiting != self._waiting:
            self._waiting, self._waiting_since = state.waiting, now
        if not state.waiting:
            return ""
        self._work_start = now
        return f"{state.waiting}: {now - self._waiting_since:.0f} s"

    def left_text(self, state: ProgressState) -> str:
        """`, about 40 s left`: as the launch expects, else by the rate so far; empty before any work is done."""
        seconds, done_ns = time.monotonic() - self._work_start, state.work_done_ns
        if done_ns <= 0 or state.done >= state.points or seconds < 1:
            return ""
        left_ns = state.left_ns or seconds * 1e9 * (state.work_ns - done_ns) / done_ns
        return f", about {_rounded_time(left_ns / 1e9)} left"


class ProgressLines:
    def __init__(self, out: TextIO) -> None:
        self._out, self._clock = out, Clock()
        self._next_s = FIRST_LINE_S

    def say(self, text: str) -> None:
        for line in message_lines(f"sweep: {text}", self._out):
            print(line, file=self._out, flush=True)

    def show(self, state: ProgressState) -> None:
        waiting, seconds = self._clock.waiting_text(state), self._clock.seconds
        if seconds < self._next_s:
            return
        self._next_s = seconds + max(LEAST_INTERVAL_S, seconds * INTERVAL_SHARE)
        self.say(waiting or _state_text(state, seconds, self._clock.left_text(state)))

    def stop(self) -> None:
        pass


class ProgressBar:
    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._out, self._console = out, Console(file=out, highlight=False)
        text = TextColumn("{task.description}", markup=False)
        bar = BarColumn(max(LEAST_BAR, min(40, self._console.width - TEXT_WIDTH)))
        self._bar = RichProgress(bar, text, TimeElapsedColumn(), console=self._console, transient=True)
        self._task: Any = None
        self._clock = Clock()

    def say(self, text: str) -> None:
        for line in message_lines(f"sweep: {text}", self._out):
            self._console.print(line, markup=False, soft_wrap=True)

    def show(self, state: ProgressState) -> None:
        text = self._clock.waiting_text(state) or _bar_text(state, self._clock.left_text(state))
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(text, total=None)
        total = None if state.waiting else state.work_ns
        self._bar.update(self._task, completed=state.work_done_ns, total=total, description=text)

    def stop(self) -> None:
        self._bar.stop()


def _bar_text(state: ProgressState, left: str) -> str:
    """`38 %, about 40 s left, 90/120 points, 2 running`: a narrow terminal cuts the end."""
    share = f"{100 * state.work_done_ns / state.work_ns:.0f} %" if state.work_ns else ""
    failed = f"{state.bad:,} failed" if state.bad else ""
    running = f"{state.running} running" if state.running else ""
    points = f"{state.done:,}/{state.points:,} points"
    return ", ".join(filter(None, (share, left.removeprefix(", "), points, failed, running)))


def _state_text(state: ProgressState, seconds: float, left: str) -> str:
    """`38 % of the work after 25 s, about 40 s left; 90 of 120 points, 2 batches running`; the share is the bar's."""
    share = f"{100 * state.work_done_ns / state.work_ns:.0f} % of the work " if state.work_ns else ""
    failed = f", {state.bad:,} failed" if state.bad else ""
    running = f", {state.running} batch{'es' * (state.running > 1)} running" if state.running else ""
    return f"{share}after {seconds:.0f} s{left}; {state.done:,} of {state.points:,} points{failed}{running}"


def _rounded_time(seconds: float) -> str:
    """`40 s`, `6.8 min`, `12 min`, `3.1 h`: no more digits than an estimate has."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    minutes = seconds / 60
    return f"{minutes:.2g} min" if minutes < 90 else f"{minutes / 60:.1f} h"
