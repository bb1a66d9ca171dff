"""Figures: measured values, the yardstick measured in turn with them, and the bound that they should meet."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

LEAST, MOST, ENOUGH_S = 5, 25, 4.0
"""Least and most repetitions; between the two, as many as fit into ENOUGH_S."""
TOO_LONG_S = 300.0
"""After this time fewer than LEAST repetitions are enough; the table shows their number."""

Work = Callable[[], object]


def number(value: float | None) -> str:
    """Return a number with three digits, or from 1,000 on as a whole number with commas."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition. CPU time includes the child processes that this process has waited for."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """Repetitions of the work and its yardstick, in turn. `others`: CPUs that other processes used, on average."""

    samples: tuple[Sample, ...]
    beside: tuple[Sample, ...]
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Bounds of the median of the value (`of="value"`) or of its ratio to the yardstick; `aim` is a stricter goal."""

    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None
    of: str = "ratio"

    def met_by(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        bounds = ((">=", self.at_least), ("<=", self.at_most))
        bound = " and ".join(f"{sign} {number(limit)}" for sign, limit in bounds if limit is not None)
        aim = f", aim {number(self.aim)}" if self.aim is not None else ""
        return f"{self.of} {bound}{aim}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`values` and `beside`, the yardstick's, have a number in `unit` per repetition; `ratios` are values / beside."""

    section: str
    name: str
    unit: str
    values: tuple[float, ...]
    cpu_s: tuple[float, ...] = ()
    wall_s: tuple[float, ...] = ()
    yardstick: str = ""
    beside: tuple[float, ...] = ()
    reach: Reach | None = None
    others: float = 0.0
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(value / yard for value, yard in zip(self.values, self.beside, strict=True)) if self.beside else ()

    @property
    def judged(self) -> float | None:
        """The median that `reach` bounds."""
        if self.reach is None:
            return None
        return median(self.ratios if self.reach.of == "ratio" else self.values)

    @property
    def met(self) -> bool | None:
        return None if self.reach is None or self.judged is None else self.reach.met_by(self.judged)

    def facts(self) -> dict[str, Any]:
        """Return the figure as a JSON object."""
        return {
            "section": self.section,
            "figure": self.name,
            "unit": self.unit,
            "median": median(self.values),
            "least": min(self.values),
            "most": max(self.values),
            "values": list(self.values),
            "cpu_s": median(self.cpu_s) if self.cpu_s else None,
            "wall_s": median(self.wall_s) if self.wall_s else None,
            "yardstick": self.yardstick or None,
            "yardstick_median": median(self.beside) if self.beside else None,
            "yardstick_values": list(self.beside),
            "ratio": median(self.ratios) if self.beside else None,
            "reach": str(self.reach) if self.reach else None,
            "met": self.met,
            "others_cpus": round(self.others, 2),
            "note": self.note or None,
        }


def cpu_now_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def busy_now_s() -> float:
    """Return the CPU seconds used on the whole machine, including those a hypervisor took (steal)."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def timed(work: Work) -> Sample:
    cpu, wall = cpu_now_s(), time.perf_counter()
    work()
    return Sample(cpu_now_s() - cpu, time.perf_counter() - wall)


def in_turn(work: Work, yardstick: Work | None = None, *, quick: bool = False) -> Run:
    """Measure both in turn, so that slow moments of the machine affect both. The caller warms caches up."""
    samples, beside = [], []
    began, own, busy = time.perf_counter(), cpu_now_s(), busy_now_s()
    while True:
        samples.append(timed(work))
        if yardstick is not None:
            beside.append(timed(yardstick))
        gone = time.perf_counter() - began
        if quick or len(samples) >= MOST or gone >= (TOO_LONG_S if len(samples) < LEAST else ENOUGH_S):
            break
    others = max(0.0, busy_now_s() - busy - (cpu_now_s() - own)) / max(gone, 1e-9)
    return Run(tuple(samples), tuple(beside), others)


def figure(
    section: str,
    name: str,
    run: Run,
    *,
    unit: str = "CPU s",
    of: Callable[[Sample], float] = lambda sample: sample.cpu_s,
    of_beside: Callable[[Sample], float] | None = None,
    yardstick: str = "",
    reach: Reach | None = None,
    note: str = "",
) -> Figure:
    """Return the figure of a run: `of` computes the value of a repetition, `of_beside` that of the yardstick."""
    return Figure(
        section=section,
        name=name,
        unit=unit,
        values=tuple(of(sample) for sample in run.samples),
        cpu_s=tuple(sample.cpu_s for sample in run.samples),
        wall_s=tuple(sample.wall_s for sample in run.samples),
        yardstick=yardstick,
        beside=tuple((of_beside or of)(sample) for sample in run.beside),
        reach=reach,
        others=run.others,
        note=note,
    )


def per_second(count: float) -> Callable[[Sample], float]:
    """Return a function that computes `count` per CPU second of a repetition."""
    return lambda sample: count / sample.cpu_s


def wall_s(sample: Sample) -> float:
    return sample.wall_s
