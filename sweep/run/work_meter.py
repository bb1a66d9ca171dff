"""Estimates how much of a launch's work is done, and how long the rest takes, for the progress bar and the time left.

Work is the estimated CPU time of the points. A finished batch counts in full, a running one by its age. The estimates
are corrected by the times that the latest batches took, and by the latest rate of work: points that are alike follow
each other in a grid, so the next ones resemble the last ones more than the first.
"""

import math
import time
from collections import deque

ALMOST = 0.95
"""Most of a running batch that counts as done, however old it is."""
LATE_SHARE = 0.15
"""The latest share of all work, which gives the rate. Until so much is done, the times of batches count too."""


class WorkMeter:
    """The work of one launch. Of the submitted batches the oldest `workers` run; the others wait."""

    def __init__(self, total_ns: float, workers: int) -> None:
        self._total_ns, self._workers = max(total_ns, 1.0), workers
        self._submitted: dict[int, float] = {}  # estimate of each batch without an answer, in ns, by its number
        self._began: dict[int, float] = {}  # when each of those that run did so, in seconds
        self._finished_ns = self._measured_ns = self._measured_estimate_ns = 0.0
        self._history: deque[tuple[float, float]] = deque()  # times of answers, and the work done then

    def submit(self, number: int, estimate_ns: float) -> None:
        self._submitted[number] = estimate_ns
        self._mark_running()

    def end(self, number: int, wall_ns: float, *, is_done: bool) -> None:
        """Remove a batch that worked for `wall_ns`, 0 if not known.

        is_done: it will not be tried again, so its work counts as done
        """
        estimate_ns = self._submitted.pop(number)
        self._began.pop(number, None)
        if is_done:
            self._finished_ns += estimate_ns
        if wall_ns:
            keep = math.exp(-estimate_ns / (LATE_SHARE * self._total_ns))
            self._measured_ns = keep * self._measured_ns + wall_ns
            self._measured_estimate_ns = keep * self._measured_estimate_ns + estimate_ns
        self._mark_running()
        self._history.append((time.monotonic(), self.done_ns))
        while len(self._history) > 1 and self._history[1][1] <= self.done_ns - LATE_SHARE * self._total_ns:
            self._history.popleft()

    @property
    def running(self) -> int:
        """Batches that run now."""
        return len(self._began)

    @property
    def done_ns(self) -> float:
        """Work done, in estimated nanoseconds: that of finished batches, and a share of those that run."""
        return self._finished_ns + sum(self._share_done(n) * self._submitted[n] for n in self._began)

    @property
    def left_ns(self) -> float:
        """Expected wall time of the rest; 0 before the first answer."""
        if not self._history:
            return 0.0
        now, done_ns = time.monotonic(), self.done_ns
        rest_ns = max(0.0, self._total_ns - done_ns)
        by_batches = rest_ns * self._correction / self._workers
        began, before_ns = self._history[0]
        gained_ns = done_ns - before_ns
        trust = min(1.0, gained_ns / (LATE_SHARE * self._total_ns))
        by_rate = rest_ns * (now - began) * 1e9 / gained_ns if gained_ns > 0 else by_batches
        rests = [self._submitted[n] * self._correction * (1 - self._share_done(n)) for n in self._began]
        return max([trust * by_rate + (1 - trust) * by_batches, *rests])

    @property
    def _correction(self) -> float:
        """Time that batches took for each estimated nanosecond; 1 before the first measurement."""
        return self._measured_ns / self._measured_estimate_ns if self._measured_estimate_ns else 1.0

    def _share_done(self, number: int) -> float:
        expected_ns = self._submitted[number] * self._correction
        age_ns = (time.monotonic() - self._began[number]) * 1e9
        return min(ALMOST, age_ns / expected_ns) if expected_ns else ALMOST

    def _mark_running(self) -> None:
        for number in list(self._submitted)[: self._workers]:
            self._began.setdefault(number, time.monotonic())
