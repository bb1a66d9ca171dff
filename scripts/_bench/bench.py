"""What all sections use: repetitions, child processes, and messages."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bench.figure import LEAST, Run, Work, busy_now_s, cpu_now_s, in_turn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass(frozen=True, slots=True)
class Samples:
    """The named numbers of several repetitions. `others`: CPUs that other processes used, on average."""

    numbers: dict[str, tuple[float, ...]]
    others: float

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self.numbers[name]


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure. `quick` only checks that the script works: small points, one repetition, meaningless figures."""

    quick: bool = False

    def in_turn(self, work: Work, yardstick: Work | None = None) -> Run:
        return in_turn(work, yardstick, quick=self.quick)

    def take(self, once: Callable[[], dict[str, float]], own_cpu: str = "") -> Samples:
        """Repeat `once` as often as a median needs.

        `own_cpu` names a number of `once`: CPU seconds of our processes that getrusage does not report.
        """
        began, own, busy = time.perf_counter(), cpu_now_s(), busy_now_s()
        rows = [once() for _ in range(1 if self.quick else LEAST)]
        ours = cpu_now_s() - own + sum(row.get(own_cpu, 0.0) for row in rows)
        others = max(0.0, busy_now_s() - busy - ours) / (time.perf_counter() - began)
        return Samples({name: tuple(row[name] for row in rows) for name in rows[0]}, others)

    def say(self, words: str) -> None:
        print(f"bench: {words}", file=sys.stderr, flush=True)


def child(module: str, *words: object, python: str = sys.executable) -> Any:
    """Run a module of _bench in a fresh process and return the JSON that it prints last."""
    path = os.pathsep.join([str(HERE.parent), str(ROOT)])
    done = subprocess.run(
        [python, "-m", f"_bench.{module}", *map(str, words)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        sys.exit(f"scripts/bench: {module} {' '.join(map(str, words))}: ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
