"""The same points with peers: one Ray task per point, Ray Tune's grid_search, joblib, Hydra's basic multirun.

Each calls the same point function and writes its rows to files, for n and for 4n points, fewer where a peer is slow.
Points per second between T(n) and T(4n) of a peer's whole process are compared with those of `sweep launch` on Ray.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from _bench.bench import ROOT, Bench, child
from _bench.figure import Figure
from _bench.grids import CORES, KINDS, small_grid

SECTION = "peers"
VENV, LOCK = ROOT / ".venv-bench", ROOT / "requirements-bench.lock"
PEERS = {
    "tasks": ("one Ray task a point", 2_000),
    "tune": ("Ray Tune, grid_search", 8),
    "joblib": ("joblib, Parallel", 5_000),
    "hydra": ("Hydra, basic multirun", 50),
}
"""The name of each in figures, and n."""


def section(bench: Bench) -> Iterator[Figure]:
    python = str(ready_python(bench))
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        points = 400 if bench.quick else KINDS["whole"].points
        grid = small_grid(folder, "whole", points)
        places = (folder / str(number) for number in range(10_000)).__next__

        def once() -> dict[str, float]:
            ours = child("launched", grid, places(), "ray", CORES)
            row = {"sweep": points / ours["work_s"], "cpu_s": ours["cpu_s"], "wall_s": ours["wall_s"]}
            for peer, (_, count) in PEERS.items():
                n = 2 if bench.quick else count
                few, many = (seconds(python, peer, m, places()) for m in (n, 4 * n))
                row[peer] = 3 * n / (many - few)
                row[f"{peer} start"] = few - n / row[peer]
            return row

        samples = bench.take(once)
        for peer, (title, count) in PEERS.items():
            yield Figure(
                section=SECTION,
                name=f"sweep launch on Ray, 1 GiB, 2 MiB calls, {CORES} cores, against {title}",
                unit="points/s",
                values=samples["sweep"],
                cpu_s=samples["cpu_s"],
                wall_s=samples["wall_s"],
                yardstick=title,
                beside=samples[peer],
                others=samples.others,
                note=f"from {count:,} to {4 * count:,} points; its start-up {median(samples[f'{peer} start']):.3g} s",
            )


def seconds(python: str, peer: str, points: int, folder: Path) -> float:
    """Return the wall time of a peer's process."""
    folder.mkdir()
    began = time.perf_counter()
    child("peer", peer, points, CORES, folder, python=python)
    return time.perf_counter() - began


def is_ready() -> bool:
    stamp = VENV / ".ready"
    return stamp.exists() and stamp.read_text() == _stamp()


def ready_python(bench: Bench) -> Path:
    """Return the Python of the peers' venv; the first use installs it, as users of ptsweep do not need it."""
    python = VENV / "bin" / "python"
    if not is_ready():
        bench.say("installing the peers (joblib, Hydra, Ray Tune) from requirements-bench.lock, once")
        uv = shutil.which("uv") or str(ROOT / ".venv" / "bin" / "uv")
        for words in (
            ["venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)],
            ["pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(LOCK)],
        ):
            if subprocess.run([uv, *words], check=False).returncode:
                sys.exit(f"scripts/bench: could not install the peers: {uv} {' '.join(words)}")
        (VENV / ".ready").write_text(_stamp())
    return python


def _stamp() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()
