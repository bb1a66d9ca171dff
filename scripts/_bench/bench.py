"""What a section gets: how thorough to be, and where to say what it is doing."""

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
class Taken:
    """Repetitions that yield several numbers each, by name. `others`: CPUs that somebody else had meanwhile."""

    numbers: dict[str, tuple[float, ...]]
    others: float

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self.numbers[name]


@dataclass(frozen=True, slots=True)
class Bench:
    """`quick` is for trying the script: small points, one repetition, figures that mean nothing."""

    quick: bool = False

    def in_turn(self, work: Work, yardstick: Work | None = None) -> Run:
        return in_turn(work, yardstick, quick=self.quick)

    def take(self, once: Callable[[], dict[str, float]], own_cpu: str = "") -> Taken:
        """As many repetitions as a median needs. `own_cpu` names CPU seconds that no process of ours waited for."""
        began, own, busy = time.perf_counter(), cpu_now_s(), busy_now_s()
        rows = [once() for _ in range(1 if self.quick else LEAST)]
        ours = cpu_now_s() - own + sum(row.get(own_cpu, 0.0) for row in rows)
        others = max(0.0, busy_now_s() - busy - ours) / (time.perf_counter() - began)
        return Taken({name: tuple(row[name] for row in rows) for name in rows[0]}, others)

    def say(self, words: str) -> None:
        print(f"bench: {words}", file=sys.stderr, flush=True)


def child(module: str, *words: object, python: str = sys.executable) -> Any:
    """What a module of ours prints, as JSON, when it runs in a fresh process."""
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
