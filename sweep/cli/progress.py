"""How a launch says where it stands, on stderr: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from sweep.cli.output_streams import VisibleStream
from sweep.common.errors import printable
from sweep.common.units import human_ns
from sweep.run.progress import Progress, ProgressState

FIRST_LINE_S, SOON_S, SELDOM = 2.0, 10.0, 20
"""Plain lines: when the first comes, how far apart they are at first, and later (a twentieth of the time gone)."""


def progress(quiet: bool, stream: TextIO | None = None) -> Progress:
    """The right one for the stream, stderr by default."""
    out = stream or sys.stderr
    if quiet:
        return Silent()
    if not out.isatty():
        return Unheard(Lines(out))
    # A bar moves the cursor: it needs the stream below the one that makes control characters visible.
    return Unheard(Bar(out.raw if isinstance(out, VisibleStream) else out))


class Silent:
    def say(self, text: str) -> None:
        pass

    def show(self, state: ProgressState) -> None:
        pass

    def stop(self) -> None:
        pass


class Unheard:
    """One that goes silent when nobody hears it any more: a closed pipe or a terminal that hung up ends no sweep."""

    def __init__(self, inner: Progress) -> None:
        self._inner, self._gone = inner, False

    def say(self, text: str) -> None:
        self._try(self._inner.say, text)

    def show(self, state: ProgressState) -> None:
        self._try(self._inner.show, state)

    def stop(self) -> None:
        self._try(self._inner.stop)

    def _try(self, tell: Callable[..., None], *what: object) -> None:
        if self._gone:
            return
        try:
            tell(*what)
        except OSError:
            self._gone = True


class Clock:
    """How long it has taken and will take. The start of workers and the compiling do not count into the rate."""

    def __init__(self) -> None:
        self.began = self.worked = time.monotonic()
        self._waiting, self._waited = "", self.began

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def waiting(self, state: ProgressState) -> str:
        """What is waited for, with seconds; empty if nothing is."""
        now = time.monotonic()
        if state.waiting != self._waiting:
            self._waiting, self._waited = state.waiting, now
        if not state.waiting:
            return ""
        self.worked = now
        return f"{state.waiting}: {now - self._waited:.0f} s"

    def left(self, state: ProgressState) -> str:
        """`, 12 points/s, 3 min left`, once a part of the work is done.

        At first most of the work under way is in no rate yet, and CPU times tell more; at the end the clock does.
        """
        gone, done = time.monotonic() - self.worked, state.work_done_ns
        if done <= 0 or state.done >= state.points or gone < 1:
            return ""
        left_ns, share = gone * 1e9 * (state.work_ns - done) / done, done / state.work_ns
        if state.left_ns:
            left_ns = share * left_ns + (1 - share) * state.left_ns
        return f", {state.done / gone:,.3g} points/s, {human_ns(left_ns)} left"


class Lines:
    def __init__(self, out: TextIO) -> None:
        self._out, self._clock = out, Clock()
        self._next = FIRST_LINE_S

    def say(self, text: str) -> None:
        print(f"sweep: {printable(text)}", file=self._out, flush=True)

    def show(self, state: ProgressState) -> None:
        waiting, seconds = self._clock.waiting(state), self._clock.seconds
        if seconds < self._next:
            return
        self._next = seconds + max(SOON_S, seconds / SELDOM)
        self.say(waiting or f"{told(state)}, {seconds:.0f} s{self._clock.left(state)}")

    def stop(self) -> None:
        pass


class Bar:
    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(file=out, highlight=False)
        text = TextColumn("{task.description}", markup=False)
        self._bar = RichProgress(BarColumn(), text, TimeElapsedColumn(), console=self._console, transient=True)
        self._task: Any = None
        self._clock = Clock()

    def say(self, text: str) -> None:
        self._console.print(f"sweep: {printable(text)}", markup=False, soft_wrap=True)

    def show(self, state: ProgressState) -> None:
        text = self._clock.waiting(state) or told(state) + self._clock.left(state)
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(text, total=None)
        total = None if state.waiting else state.work_ns
        self._bar.update(self._task, completed=state.work_done_ns, total=total, description=text)

    def stop(self) -> None:
        self._bar.stop()


def told(state: ProgressState) -> str:
    bad = f", {state.bad:,} failed" if state.bad else ""
    return f"{state.done:,} of {state.points:,} points{bad}"
