"""CPU time and memory of `sweep replay`, per form of recording. The recordings are generated, the same at every run."""

import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

from _bench.bench import Bench, child
from _bench.figure import Figure, Reach, figure

SECTION = "replay"
PAGE, MIB = 4096, 1 << 20
ARENAS, HEAP, LARGE = 0x100000000000, 0x555555559000, 0x7F0000000000
SIZES = (PAGE, 8 * PAGE, 16 * PAGE, 64 * PAGE, MIB, 2 * MIB, 4 * MIB)


def section(bench: Bench) -> Iterator[Figure]:
    rows = 2_000 if bench.quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pages, one, ten, empty = (Path(folder, name) for name in ("pages.csv", "one.strace", "ten.strace", "empty.csv"))
        with pages.open("w") as file:
            write_page_by_page(file, rows)
        with one.open("w") as file:
            write_allocator(file, rows, [4001])
        with ten.open("w") as file:
            write_allocator(file, rows, range(4001, 4011))
        empty.write_text("step,op,start,length,stride\n0,mmap,4194304,4096,\n1,write,4194304,1,4096\n")
        for name, path, words in (
            ("kernel trace, page by page, two policies", pages, ["--policy", "none,merged"]),
            ("strace of one process", one, []),
            ("strace of one process, --touch all", one, ["--touch", "all"]),
            ("strace of ten processes, --touch all", ten, ["--touch", "all"]),
        ):
            peaks: list[float] = []
            run = bench.in_turn(
                lambda words=words, path=path, peaks=peaks: peaks.append(child("recordings", path, *words)),  # type: ignore[misc]
                lambda: child("recordings", empty),
            )
            title = f"{rows:,} rows: {name}"
            most = (None, None) if bench.quick else (Reach(of="value", at_most=15), Reach(of="value", at_most=40))
            yield figure(SECTION, title, run, yardstick="a trace of two rows", reach=most[0])
            yield Figure(
                section=SECTION,
                name=f"{title}, peak",
                unit="MiB",
                values=tuple(peaks),
                others=run.others,
                reach=most[1],
            )


def write_page_by_page(file: TextIO, rows: int) -> None:
    """A kernel trace of pages that are written, then zapped one by one but every 33rd."""
    pages = rows * 33 // 65
    file.write(f"step,op,start,length,stride\n0,mmap,{ARENAS},{pages * PAGE},\n")
    for i in range(pages):
        file.write(f"{i + 1},write,{ARENAS + i * PAGE},{PAGE},{PAGE}\n")
    for i in range(pages):
        if i % 33:
            file.write(f"{pages + 1 + i},dontneed,{ARENAS + i * PAGE},{PAGE},\n")


def write_allocator(file: TextIO, rows: int, pids: Sequence[int]) -> None:
    """Output of strace of processes that zap parts of arenas of 1 GiB, and map, unmap, protect and grow."""
    choose = random.Random(1)
    large: dict[int, list[tuple[int, int]]] = {pid: [] for pid in pids}
    free = dict.fromkeys(pids, LARGE)
    protections = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS"
    for pid in pids:
        file.write(f'{pid} execve("./app", ["./app"], 0x7ffe00 /* 20 vars */) = 0\n{pid} brk(NULL) = {HEAP:#x}\n')
        for at in range(ARENAS, ARENAS + 1024 * MIB, 64 * MIB):
            file.write(f"{pid} mmap({at:#x}, {64 * MIB}, {protections}|MAP_FIXED, -1, 0) = {at:#x}\n")
    for row in range(rows):
        pid, kind = pids[row % len(pids)], choose.random()
        mapped = large[pid]
        if kind < 0.45:
            size = choose.choice(SIZES)
            at = ARENAS + choose.randrange(0, 1024 * MIB - size, PAGE)
            advice = "MADV_DONTNEED" if choose.random() < 0.8 else "MADV_FREE"
            file.write(f"{pid} madvise({at:#x}, {size}, {advice}) = 0\n")
        elif kind < 0.6 or not mapped:
            size, at = choose.choice((PAGE, 33 * PAGE, MIB, 4 * MIB)), free[pid]
            free[pid] += size + PAGE
            mapped.append((at, size))
            file.write(f"{pid} mmap(NULL, {size}, {protections}, -1, 0) = {at:#x}\n")
        elif kind < 0.75:
            at, size = mapped.pop(choose.randrange(len(mapped)))
            file.write(f"{pid} munmap({at:#x}, {size}) = 0\n")
        elif kind < 0.85:
            at, _ = choose.choice(mapped)
            rights = choose.choice(("PROT_READ", "PROT_READ|PROT_WRITE"))
            file.write(f"{pid} mprotect({at:#x}, {PAGE}, {rights}) = 0\n")
        elif kind < 0.9:
            at = HEAP + choose.randrange(1, 2000) * PAGE
            file.write(f"{pid} brk({at:#x}) = {at:#x}\n")
        else:
            file.write(f"{pid} futex(0x7f00, FUTEX_WAKE_PRIVATE, 1) = 1\n")


def peak_mib() -> float:
    """The most resident memory of this process so far (VmHWM). ru_maxrss would count what ran before exec, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    from sweep.cli.main import main

    with Path("/dev/null").open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = main(["replay", "--format", "csv", *sys.argv[1:]])
    print(json.dumps(peak_mib()))
    sys.exit(code)
