"""Random programs on the live kernel, recorded by strace: what /proc showed, beside the replay under --touch all.

`.venv/bin/python -m tests.support.random_programs 420` compares the programs of seeds 1 to 420, in minutes.
"""

import re
import subprocess
import sys
import tempfile
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from engine.model.policy import BUILT_IN
from sweep.traces.process_replay import ProcessReplay
from sweep.traces.trace_replay import TraceReplay

SOURCE = Path(__file__).with_name("random_program.c")
CALLS = 30
_MARK = re.compile(r"(\d+) +madvise\((0x[0-9a-f]+), 0, MADV_NORMAL\)")
_EXECUTED = re.compile(r"(\d+) +execve\(.*\) += 0")
_REGION = re.compile(r"\((0x100[0-9a-f]{9}),")
_OWN_KIB = 12
"""RES of the program's own memory may grow by so much: pages of its stack after a fork."""


class Seen(NamedTuple):
    """VmPTE and RES in KiB, after a call and after the touches that follow it, less those before the first call."""

    pte: int
    res: int
    pte_touched: int
    res_touched: int


class Mark(NamedTuple):
    """A row of the recording after which the program read /proc."""

    row: int
    pid: int
    program: int  #: 0 in a child, until it executes a program
    number: int


@dataclass
class History:
    """VmPTE and RES of one process after each row that changed it."""

    process: ProcessReplay
    rows: list[int] = field(default_factory=list)
    figures: list[tuple[int, int]] = field(default_factory=list)


def build(folder: Path) -> Path:
    """Compile the program. Raises CalledProcessError."""
    program = folder / "random_program"
    subprocess.run(["gcc", "-O1", "-o", program, SOURCE], check=True)
    return program


def differences(program: Path, seed: int, touch: str) -> list[str]:
    """Run the program of a seed under strace and replay the recording. Returns where the two differ.

    touch: all (VmPTE and RES must be equal after each call) or some (what is computed must not be less)
    """
    recording = program.with_name("calls.strace")
    tracer = ("strace", "-f", "--seccomp-bpf", "-o", str(recording), "-e", "trace=%memory,%process")
    words = (*tracer, str(program), str(seed), str(CALLS), touch)
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    rows = [[int(word) for word in line.split()] for line in run.stdout.splitlines()]
    seen = {(pid, program_number, number): Seen(*rest) for pid, program_number, number, *rest in rows}
    lines = recording.read_text().splitlines()
    histories = _replay(recording)
    found: list[str] = []
    last_row: dict[int, int] = {}
    bounded: set[int] = set()  # processes in which several calls followed each other: the replay touches in between
    for mark in _marks(lines):
        since, last_row[mark.pid] = last_row.get(mark.pid, 0), mark.row
        history = next((h for h in reversed(histories) if h.process.pid == mark.pid and h.rows[0] < mark.row), None)
        if history is None or not mark.program:
            continue
        first = next(i for i, row in enumerate(history.rows) if _REGION.search(lines[row - 1]))
        at, own = bisect(history.rows, mark.row) - 1, history.figures[first]
        pte, res = (now - before for now, before in zip(history.figures[at], own, strict=True))
        real = seen[mark.pid, mark.program, mark.number]
        most = history.process.figures["merged"]["vm_pte_kib_max"] - own[0]
        applied = history.rows[bisect(history.rows, since) : at + 1]
        if len(applied) > 1 or any(not lines[row - 1].startswith(f"{mark.pid} ") for row in applied):
            bounded.add(mark.pid)
        is_one_call = len(applied) == 1 and mark.pid not in bounded
        if max(real.pte, real.pte_touched) > most:
            found.append(f"row {mark.row}: VmPTE {max(real.pte, real.pte_touched)}, above the bound {most}")
        elif is_one_call and (real.pte > pte or (touch == "all" and pte != real.pte)):
            found.append(f"row {mark.row}: VmPTE {real.pte}, computed {pte}: {lines[applied[0] - 1]}")
        elif is_one_call and touch == "all" and abs(real.res - res) > _OWN_KIB:
            found.append(f"row {mark.row}: RES {real.res}, computed {res}: {lines[applied[0] - 1]}")
    return found


def _replay(recording: Path) -> list[History]:
    trace = TraceReplay(str(recording), "program", [BUILT_IN["merged"]], touch_all=True)
    histories: dict[ProcessReplay, History] = {}
    for row, process in trace:
        history = histories.setdefault(process, History(process))
        history.rows.append(row)
        history.figures.append((process.replay.vm_pte_kib("merged"), process.replay.res_kib("merged")))
    return list(histories.values())


def _marks(lines: list[str]) -> list[Mark]:
    programs: dict[int, int] = {}
    marks = []
    for row, line in enumerate(lines, 1):
        if match := _EXECUTED.match(line):
            programs[int(match[1])] = programs.get(int(match[1]), 0) + 1
        elif match := _MARK.match(line):
            pid = int(match[1])
            marks.append(Mark(row, pid, programs.get(pid, 0), int(match[2], 16) // 4096))
    return marks


def main(programs: int) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for seed in range(1, programs + 1):
            found = differences(program, seed, "some" if seed % 4 == 0 else "all")
            failed += bool(found)
            for difference in found[:3]:
                sys.stdout.write(f"program {seed}: {difference}\n")
    sys.stdout.write(f"{programs - failed} of {programs} programs: the replay agrees with the kernel\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
