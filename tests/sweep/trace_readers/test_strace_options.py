"""One program under strace with many combinations of its options: every output must be replayed to the same table."""

import csv
import ctypes
import io
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.paths import ROOT
from tests.support.live_kernel import why_not

SOURCE = ROOT / "tests" / "support" / "memory_calls.c"
MISSING = [tool for tool in ("strace", "gcc") if shutil.which(tool) is None]
ADDR_NO_RANDOMIZE = 0x40000
CALLS = "trace=%memory,%process,prctl,process_madvise"
CHOICES = (
    ("", "-t", "-tt", "-ttt", "-r", "-r -ttt", "-T", "-ttt -T"),
    ("", "-y", "-yy", "-Y"),
    ("", "-k", "-i", "-n", "-i -n", "-k -i -n"),
    ("", "-X raw", "-X verbose", "-X abbrev"),
    ("", "-s 2", "-s 500", "-v", "-v -s 2"),  # less than -s 2 does not show the two ranges of process_madvise
    ("", "-q", "-qq", "-a 1", "--seccomp-bpf"),
    (CALLS, CALLS, "trace=all"),
    ("file", "file", "terminal", "files"),
)
"""Each combination has one of each. -ff writes files, whose rows can be put in order if they have times."""


def combinations(number: int) -> Iterator[tuple[list[str], str]]:
    """(options, where the output goes) of so many random combinations."""
    choose = random.Random(6)
    for _ in range(number):
        *options, calls, where = [choose.choice(choice) for choice in CHOICES]
        if where == "files":
            options[0] = "-ttt"
        yield [*" ".join(options).split(), "-e", calls], where


def runs_alike() -> None:
    """Let the program, and what it starts, have the same addresses each time."""
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)


def table(capsys: pytest.CaptureFixture[str], files: list[Path]) -> list[list[str]]:
    """The rows of a replay without the names of recordings and the numbers of processes."""
    assert main(["replay", "--touch", "all", "--policy", "none,merged", "--format", "csv", *map(str, files)]) == 0
    return [list(row.values())[2:] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]


@pytest.mark.skipif(bool(why_not() or MISSING), reason=f"no live kernel: {why_not()}; missing: {MISSING}")
@pytest.mark.live
@pytest.mark.slow
def test_options_of_strace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """30 combinations of times, -T -y -yy -Y -k -i -n -X -s -v -q -a -z, to a file, the terminal, and files of -ff."""
    program = tmp_path / "calls"
    subprocess.run(["gcc", "-O1", "-o", program, SOURCE, "-lpthread"], check=True)
    expected: list[list[str]] = []
    for number, (options, where) in enumerate(combinations(30)):
        output = tmp_path / f"{number}.strace"
        follow = ["-f"] if where == "terminal" else ["-f" if where == "file" else "-ff", "-o", str(output)]
        command = ["strace", *follow, *options, str(program)]
        run = subprocess.run(command, capture_output=True, preexec_fn=runs_alike, text=True, timeout=60)
        if "PTRACE" in run.stderr:
            pytest.skip(f"ptrace is not permitted: {run.stderr.splitlines()[0]}")
        assert run.returncode == 0, (command, run.stderr)
        if where == "terminal":
            output.write_text(run.stderr)
        files = sorted(tmp_path.glob(f"{number}.strace*"))
        found = table(capsys, files)
        expected = expected or found
        assert len(found) == 8, command
        assert found == expected, command
