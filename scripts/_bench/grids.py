"""Writes the grids that the sections launch."""

import os
from dataclasses import dataclass
from pathlib import Path

CORES = len(os.sched_getaffinity(0))
SPARSITIES = "[0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99]"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of small points: its name in figures, the number measured, and the fields beside virt."""

    title: str
    points: int
    fields: str


KINDS = {
    "whole": Kind("1 GiB, 2 MiB calls", 100_000, ""),
    "partial": Kind("1 GiB, 64 KiB calls in random order, 4 rounds", 20_000, ", zap: 64KiB, order: random, rounds: 4"),
}


def small_grid(folder: Path, kind: str, points: int) -> Path:
    """Write a grid of `points` points: ten sparsities, five coverages, and repeats."""
    return write_grid(
        folder / f"{kind}-{points}.yaml",
        f"fixed: {{virt: 1GiB{KINDS[kind].fields}}}\n"
        f"axes:\n  sparsity: {SPARSITIES}\n  coverage: [0.5, 0.6, 0.7, 0.8, 0.9]\n"
        f"repeats: {points // 50}\nseed: 1\n",
    )


def write_grid(path: Path, text: str) -> Path:
    """Write a grid with this text after its schema and name; return the path."""
    path.write_text(f"schema: sweep/1\nname: {path.stem}\n{text}")
    return path
