"""A figure: what was measured, what ran beside it, how far it has to reach."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

LEAST, MOST, ENOUGH_S = 5, 25, 4.0
"""Repetitions: never fewer, never more, and in between until so much time has gone."""
TOO_LONG_S = 300.0
"""Fewer after all, once so much time has gone: the count stands beside each figure."""

Work = Callable[[], object]


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition. CPU time is that of this process and of the children that it has waited for."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """Repetitions of a thing and of its yardstick, in turn. `others`: CPUs that somebody else had meanwhile."""

    samples: tuple[Sample, ...]
    beside: tuple[Sample, ...]
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What the median has to be: of the figure, or of its ratio to the yardstick. `aim` is what would be better."""

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
    """`values` and `beside` are in `unit`, a value a repetition; `ratios` are value over yardstick, pair by pair."""

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
        """The number that the reach is about."""
        if self.reach is None:
            return None
        return median(self.ratios if self.reach.of == "ratio" else self.values)

    @property
    def met(self) -> bool | None:
        return None if self.reach is None or self.judged is None else self.reach.met_by(self.judged)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
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
    """CPU time of the whole machine, what a hypervisor took (steal) included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def timed(work: Work) -> Sample:
    cpu, wall = cpu_now_s(), time.perf_counter()
    work()
    return Sample(cpu_now_s() - cpu, time.perf_counter() - wall)


def in_turn(work: Work, yardstick: Work | None = None, *, quick: bool = False) -> Run:
    """Both, in turn: the machine's slow moments fall on both. The caller has warmed up what is to be warm."""
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
    """A figure of a run: `of` makes a value of a repetition."""
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
    """Count over CPU seconds."""
    return lambda sample: count / sample.cpu_s


def wall_s(sample: Sample) -> float:
    return sample.wall_s
