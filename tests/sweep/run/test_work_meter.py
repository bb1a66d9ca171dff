"""The share of work done and the time left, against simulated launches whose times are known."""

import time

import pytest

from sweep.run.work_meter import WorkMeter
from tests.paths import DATA

WORKERS = 2


def simulate(
    monkeypatch: pytest.MonkeyPatch, estimates: list[float], factors: list[float]
) -> list[tuple[float, float]]:
    """(time left as told, true time left) four times a second; batch i takes factors[i] times its estimate, in s."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter, told, waiting, ends = (
        WorkMeter(sum(estimates) * 1e9, WORKERS),
        [],
        list(range(len(estimates))),
        dict[int, float](),
    )
    shares = []
    while waiting or ends:
        for number in [n for n, end in ends.items() if end <= now[0]]:
            del ends[number]
            meter.end(number, estimates[number] * factors[number] * 1e9, is_done=True)
        while waiting and len(ends) < WORKERS:
            number = waiting.pop(0)
            meter.submit(number, estimates[number] * 1e9)
            ends[number] = now[0] + estimates[number] * factors[number]
        assert meter.running == len(ends)
        told.append((now[0], meter.left_ns / 1e9))
        shares.append(meter.done_ns / sum(estimates) / 1e9)
        now[0] += 0.25
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    return [(left, now[0] - 0.25 - at) for at, left in told]


@pytest.mark.parametrize(
    ("estimates", "factors"),
    [
        ([1.0] * 60, [1.0] * 60),
        ([1.0] * 60, [3.0] * 60),
        ([1.0] * 60, [0.3] * 60),
        ([0.1] * 100 + [2.0] * 30, [1.0] * 100 + [2.0] * 30),
        ([4.0] * 3 + [0.5] * 40, [1.5] * 43),
        ([1.0] * 60, [1.0 + 0.01 * i for i in range(60)]),
    ],
)
def test_time_left(monkeypatch: pytest.MonkeyPatch, estimates: list[float], factors: list[float]) -> None:
    """From a third of the run on the time left is within 1.5 of the truth, also if the estimates are wrong."""
    told = simulate(monkeypatch, estimates, factors)
    late = [(left, true) for left, true in told if true <= told[0][1] * 2 / 3 and true > 2]
    assert len(late) > 10
    assert max(max(left / true, true / left) for left, true in late) < 1.5


def test_time_left_of_a_recorded_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is with the batches of a shipped grid as they were timed on a machine whose load changed all the time.

    But for the last 5 s, in which the batches that still run decide.
    """
    rows = (DATA / "batches-process-55tib.csv").read_text().splitlines()[2:]
    estimates, walls = zip(*(map(float, row.split(",")) for row in rows), strict=True)
    factors = [wall / estimate for estimate, wall in zip(estimates, walls, strict=True)]
    told = simulate(monkeypatch, list(estimates), factors)
    late = [(left, true) for left, true in told if true <= told[0][1] * 2 / 3 and true > 5]
    assert len(late) > 1000
    assert max(max(left / true, true / left) for left, true in late) < 1.5


def test_before_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no estimate before anything was seen; a batch that runs longer than expected never counts as done."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = WorkMeter(4e9, WORKERS)
    for number in range(4):
        meter.submit(number, 1e9)
    now[0] = 100.0
    assert meter.left_ns == 0
    assert meter.running == WORKERS
    assert meter.done_ns == pytest.approx(2 * 0.95e9)
    meter.end(0, 0, is_done=False)
    assert meter.done_ns == pytest.approx(0.95e9)
