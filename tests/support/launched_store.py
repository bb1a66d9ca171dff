"""Stores with real runs of small grids, made in this process."""

from pathlib import Path

from sweep.grid.loader import parse_grid
from sweep.run.launch import LaunchOptions, launch
from sweep.store.store import Store
from tests.support.fake_engine import RecordingProgress

ZAPS = """
schema: sweep/1
name: zaps
about: What does each design give back, by the size of a call and of extents?
fixed: {virt: 64MiB, coverage: 0.9}
axes:
  sparsity: [0.9, 0.99]
  cluster: [4KiB, 64KiB, 2MiB]
  zap: [64KiB, 1MiB, 2MiB, 4MiB, 64MiB]
derive: {pages_a_table: "512 * (1 - sparsity)", size: "CASE WHEN zap < 2097152 THEN 'small' ELSE 'large' END"}
"""
ROUNDS = """
schema: sweep/1
name: rounds
about: How do tables grow?
fixed: {virt: 64MiB, sparsity: 0.99, zap: 2MiB}
axes: {rounds: [1, 10, 100], threads: [1, 2]}
"""
ONE = """
schema: sweep/1
name: one
about: One point.
policies: [none, merged]
fixed: {virt: 64MiB, sparsity: 0.99}
"""


def launched(root: Path, *texts: str) -> Store:
    """A store with a finished run of each of these grids, the last one launched last."""
    for text in texts:
        summary = launch(parse_grid(text, "grid.yaml"), LaunchOptions(root, executor="inline"), RecordingProgress())
        assert summary.status == "ok"
    return Store(root)
