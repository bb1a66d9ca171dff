"""What a section gets: how thorough to be, and where to say what it is doing."""

import sys
from dataclasses import dataclass

from _bench.figure import Run, Work, in_turn


@dataclass(frozen=True, slots=True)
class Bench:
    """`quick` is for trying the script: small points, one repetition, figures that mean nothing."""

    quick: bool = False

    def in_turn(self, work: Work, yardstick: Work | None = None) -> Run:
        return in_turn(work, yardstick, quick=self.quick)

    def say(self, words: str) -> None:
        print(f"bench: {words}", file=sys.stderr, flush=True)
