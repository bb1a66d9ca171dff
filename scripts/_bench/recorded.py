"""What `sweep record` costs the recorded program, and how large its files are, beside strace where it is installed."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from _bench.bench import ROOT, Bench
from _bench.figure import Figure, figure, wall_s

SECTION = "record"
PROGRAM = """
import mmap, sys
for i in range(int(sys.argv[1])):
    size = (1 + i * 7 % 16) << 18
    m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m[::4096] = b"x" * (size >> 12)
    m.madvise(mmap.MADV_DONTNEED, 0, size // 2)
    m.close()
"""
"""Three calls on memory in each turn, one of them MADV_DONTNEED, and 2 MiB of touches."""
TURNS = 2_000
STRACE = ("strace", "-f", "-e", "trace=%memory,%process")


def section(bench: Bench) -> Iterator[Figure]:
    sweep = [str(ROOT / "scripts" / "sweep"), "record"]
    turns = 20 if bench.quick else TURNS
    program = [sys.executable, "-c", PROGRAM, str(turns)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        recording, rows = Path(folder) / "a.rec.gz", Path(folder) / "a.strace"
        recorded = _runs([*sweep, "-o", str(recording), "--", *program], recording)
        if not _works(recorded):
            bench.say("  left out: ptrace is not permitted here")
            return
        started = _runs([*sweep, "-o", str(recording), "--", "true"], recording)
        run = bench.in_turn(started, _runs(["true"]))
        yield figure(SECTION, "record -- true", run, unit="wall s", of=wall_s, yardstick="true")
        name = f"{3 * turns:,} calls, {2 * turns:,} MiB touched"
        alone = _runs(program)
        yield figure(SECTION, f"{name}: sweep record", bench.in_turn(recorded, alone), yardstick="the program alone")
        traced = _runs([*STRACE, "-o", str(rows), *program])
        if not _works(traced):
            bench.say("  left out: strace")
            return
        yield figure(SECTION, f"{name}: strace -f", bench.in_turn(traced, alone), yardstick="the program alone")
        _works(recorded)
        size = float(recording.stat().st_size)
        yield Figure(
            section=SECTION,
            name=f"{name}: size of the recording",
            unit="bytes",
            values=(size,),
            yardstick="strace's rows, without touches",
            beside=(float(rows.stat().st_size),),
        )


def _runs(command: list[str], output: Path | None = None) -> Callable[[], object]:
    """What runs a command without output, after it removed the file that the command writes."""

    def run() -> object:
        if output is not None:
            output.unlink(missing_ok=True)
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return run


def _works(work: Callable[[], object]) -> bool:
    try:
        work()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
