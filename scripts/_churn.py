"""A churn, or any program, under each allocator: what `sweep inspect` sees at its end, `sweep replay` in its calls."""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
CALLS = "mmap,munmap,madvise,mremap,brk,mprotect"


@dataclass(frozen=True, slots=True)
class Allocator:
    """How to put one under a program: a library to preload, and its settings."""

    name: str
    library: str
    settings: tuple[tuple[str, str], ...] = ()

    def environment(self) -> dict[str, str]:
        return ({"LD_PRELOAD": self.library} if self.library else {}) | dict(self.settings)

    def missing(self) -> str:
        """What the dynamic loader says if it cannot have the library."""
        if not self.library:
            return ""
        done = subprocess.run(
            ["true"], env=os.environ | self.environment(), capture_output=True, text=True, check=False
        )
        return done.stderr.strip()


ALLOCATORS = (
    Allocator("glibc", ""),
    Allocator("jemalloc", "libjemalloc.so.2"),
    Allocator("jemalloc decay 0", "libjemalloc.so.2", (("MALLOC_CONF", "dirty_decay_ms:0"),)),
    Allocator("jemalloc one arena", "libjemalloc.so.2", (("MALLOC_CONF", "narenas:1"),)),
    Allocator("mimalloc", "libmimalloc.so.2"),
    Allocator("tcmalloc", "libtcmalloc_minimal.so.4"),
    Allocator("tcmalloc decommit", "libtcmalloc_minimal.so.4", (("TCMALLOC_AGGRESSIVE_DECOMMIT", "1"),)),
)

# Threads, least, most, live and total bytes of the blocks, seconds to settle.
CHURNS = {
    "large": (4, 32 << 10, 4 * MIB, 1000 * MIB, 10_000 * MIB, 2),
    "mixed": (4, 16, 256 << 10, 400 * MIB, 4_000 * MIB, 2),
}
COLUMNS = (
    *("allocator", "churn", "res_kib", "vm_pte_kib", "pte_tables", "empty_least", "empty_most"),
    *("purges", "purged_mib", "whole_slot_bytes_share", "whole_slots_share", "merged_freed_at_most"),
    *("refcount_async_kib", "merged_2mib_kib", "munmap_kib"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/churn", description=__doc__)
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md")
    parser.add_argument("--allocators", default=",".join(a.name for a in ALLOCATORS), help="names, with commas")
    parser.add_argument("--churns", default=",".join(CHURNS), help="names, with commas")
    parser.add_argument("program", nargs="*", metavar="-- PROGRAM", help="instead of the churn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = {"own": options.program} if options.program else _churns(Path(folder), options.churns.split(","))
        chosen = [a for a in ALLOCATORS if a.name in options.allocators.split(",")]
        rows = list(_rows(chosen, programs, Path(folder)))
    _write(rows, options.format)
    return 0


def _churns(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Compiled, with the arguments of each."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        sys.exit("scripts/churn: needs a C compiler for churn.c, or a program of yours after --")
    binary = str(folder / "churn")
    subprocess.run([compiler, "-O2", "-pthread", "-o", binary, str(HERE / "churn.c"), "-lm"], check=True)
    return {name: [binary, *map(str, CHURNS[name])] for name in names}


def _rows(allocators: list[Allocator], programs: dict[str, list[str]], folder: Path) -> Iterator[dict[str, Any]]:
    strace = shutil.which("strace")
    if strace is None:
        print("scripts/churn: no strace here, so that the columns of calls stay empty", file=sys.stderr)
    for allocator in allocators:
        if reason := allocator.missing():
            print(f"scripts/churn: {allocator.name} left out: {reason}", file=sys.stderr)
            continue
        for name, command in programs.items():
            print(f"scripts/churn: {allocator.name}, {name}", file=sys.stderr)
            row = {"allocator": allocator.name, "churn": name} | _at_the_end(allocator, command)
            yield row | (_calls(allocator, command, folder / "calls.strace") if strace else {})


def _at_the_end(allocator: Allocator, command: list[str]) -> dict[str, Any]:
    """The last that `sweep inspect` saw: of a churn when it has settled, of another program before it ended."""
    ours = Path(command[0]).name == "churn"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if ours else {"stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | allocator.environment(), **pipes) as process:  # type: ignore[call-overload]
        if ours:
            process.stdout.readline()
            return _figures(_sweep("inspect", str(process.pid), "--zap", "64KiB,2MiB", "--json"))
        seen: dict[str, Any] = {}
        while process.poll() is None:
            time.sleep(0.5)
            try:
                seen = _figures(_sweep("inspect", str(process.pid), "--zap", "64KiB,2MiB", "--json"))
            except subprocess.CalledProcessError:
                break  # it ended
    return seen


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    known = {row["what"]: row for row in found["summary"]}
    policies = {(row["policy"], row["zap"]): row["kib_most"] for row in found["policy"]}
    return {
        "res_kib": known["RES"]["at_most"],
        "vm_pte_kib": known["VmPTE"]["at_most"],
        "pte_tables": known["PTE tables"]["at_most"],
        "empty_least": known["PTE tables without"]["at_least"],
        "empty_most": known["PTE tables without"]["at_most"],
        "refcount_async_kib": policies["refcount", "64KiB"],
        "merged_2mib_kib": policies["merged", "2MiB"],
        "munmap_kib": policies["munmap", "64KiB"],
    }


def _calls(allocator: Allocator, command: list[str], trace: Path) -> dict[str, Any]:
    """What the program asked for in another run, under strace, which changes its times but not what it asks."""
    preload = [word for pair in allocator.environment().items() for word in ("-E", "=".join(pair))]
    strace = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CALLS}", *preload, *command]
    subprocess.run(strace, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    (merged,) = _sweep("replay", str(trace), "--policy", "merged", "--touch", "all", "--format", "json")
    return {
        "purges": merged["purges"],
        "purged_mib": round(merged["purged_bytes"] / MIB),
        "whole_slot_bytes_share": merged["acting_bytes_share"],
        "whole_slots_share": merged["reached_bytes_share"],
        "merged_freed_at_most": merged["tables_freed"],
    }


def _sweep(*words: str) -> Any:
    command = [sys.executable, "-m", "sweep.cli", *words]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _write(rows: list[dict[str, Any]], form: str) -> None:
    if form == "json":
        print(json.dumps(rows, indent=1))
        return
    cells = [["" if (value := row.get(name)) is None else str(value) for name in COLUMNS] for row in rows]
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([COLUMNS, *cells])
        return
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for row in cells:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    sys.exit(main())
