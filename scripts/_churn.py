"""Run churn.c, or any program, under each allocator: `sweep inspect` at its end, `sweep replay` on its calls."""

import argparse
import csv
import json
import os
import shutil
import signal
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
    """An allocator: the library to preload and the environment variables to set."""

    name: str
    library: str
    settings: tuple[tuple[str, str], ...] = ()

    def environment(self) -> dict[str, str]:
        return ({"LD_PRELOAD": self.library} if self.library else {}) | dict(self.settings)

    def missing(self) -> str:
        """Return the dynamic loader's message if it cannot load the library, else an empty string."""
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

# Arguments of churn.c: threads, smallest and largest block, live and total bytes, seconds to settle.
CHURNS = {
    "large": (4, 32 << 10, 4 * MIB, 1000 * MIB, 10_000 * MIB, 2),
    "mixed": (4, 16, 256 << 10, 400 * MIB, 4_000 * MIB, 2),
}
COLUMNS = (
    *("allocator", "churn", "res_kib", "vm_pte_kib", "pte_tables", "empty_least", "empty_most"),
    *("zap_calls", "zapped_mib", "whole_slot_bytes_share", "whole_slots_share", "merged_freed_at_most"),
    *("refcount_async_kib", "merged_2mib_kib", "munmap_kib"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/churn", description=__doc__)
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md")
    parser.add_argument("--allocators", default=",".join(a.name for a in ALLOCATORS), help="names, separated by commas")
    parser.add_argument("--churns", default=",".join(CHURNS), help="names, separated by commas")
    parser.add_argument("program", nargs="*", metavar="-- PROGRAM", help="run this instead of churn.c")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = {"own": options.program} if options.program else _churns(Path(folder), options.churns.split(","))
        chosen = [a for a in ALLOCATORS if a.name in options.allocators.split(",")]
        rows = list(_rows(chosen, programs, Path(folder)))
    _write(rows, options.format)
    return 0


def _churns(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Compile churn.c into `folder`; return the command of each churn."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        sys.exit("scripts/churn: needs a C compiler for churn.c, or another program after --")
    binary = str(folder / "churn")
    subprocess.run([compiler, "-O2", "-pthread", "-o", binary, str(HERE / "churn.c"), "-lm"], check=True)
    return {name: [binary, *map(str, CHURNS[name])] for name in names}


def _rows(allocators: list[Allocator], programs: dict[str, list[str]], folder: Path) -> Iterator[dict[str, Any]]:
    strace = shutil.which("strace")
    if strace is None:
        print("scripts/churn: strace is not installed: the columns of calls stay empty", file=sys.stderr)
    for allocator in allocators:
        if reason := allocator.missing():
            print(f"scripts/churn: {allocator.name} left out: {reason}", file=sys.stderr)
            continue
        for name, command in programs.items():
            print(f"scripts/churn: {allocator.name}, {name}", file=sys.stderr)
            row = {"allocator": allocator.name, "churn": name} | _inspect_at_end(allocator, command)
            yield row | (_trace_columns(allocator, command, folder / "calls.strace") if strace else {})


def _inspect_at_end(allocator: Allocator, command: list[str]) -> dict[str, Any]:
    """Return the columns of the last `sweep inspect`: once churn.c has settled, or before another program ended."""
    is_churn = Path(command[0]).name == "churn"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if is_churn else {"stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | allocator.environment(), **pipes) as process:  # type: ignore[call-overload]
        if is_churn:
            process.stdout.readline()
            return _inspect_columns(_sweep("inspect", str(process.pid), "--zap", "64KiB,2MiB", "--json"))
        last: dict[str, Any] = {}
        while process.poll() is None:
            time.sleep(0.5)
            # Stopped meanwhile, as `sweep inspect` takes seconds on a busy machine, in which the program would end.
            process.send_signal(signal.SIGSTOP)
            try:
                last = _inspect_columns(_sweep("inspect", str(process.pid), "--zap", "64KiB,2MiB", "--json"))
            except subprocess.CalledProcessError:
                if process.poll() is None:
                    raise
            finally:
                process.send_signal(signal.SIGCONT)
    return last


def _inspect_columns(report: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that come from `sweep inspect --json`."""
    summary = {row["what"]: row for row in report["summary"]}
    policies = {(row["policy"], row["zap"]): row["kib_most"] for row in report["policy"]}
    return {
        "res_kib": summary["RES"]["at_most"],
        "vm_pte_kib": summary["VmPTE"]["at_most"],
        "pte_tables": summary["PTE tables"]["at_most"],
        "empty_least": summary["PTE tables without"]["at_least"],
        "empty_most": summary["PTE tables without"]["at_most"],
        "refcount_async_kib": policies["refcount", "64KiB"],
        "merged_2mib_kib": policies["merged", "2MiB"],
        "munmap_kib": policies["munmap", "64KiB"],
    }


def _trace_columns(allocator: Allocator, command: list[str], trace: Path) -> dict[str, Any]:
    """Run the program again under strace, and return the columns that come from `sweep replay` of its calls."""
    preload = [word for pair in allocator.environment().items() for word in ("-E", "=".join(pair))]
    strace = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CALLS}", *preload, *command]
    subprocess.run(strace, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    (merged,) = _sweep("replay", str(trace), "--policy", "merged", "--touch", "all", "--format", "json")
    return {
        "zap_calls": merged["zap_calls"],
        "zapped_mib": round(merged["zapped_bytes"] / MIB),
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
