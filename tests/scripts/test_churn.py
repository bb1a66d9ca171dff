"""scripts/churn: the table of findings can be made again, for the churn and for a program of one's own."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


def test_the_script_is_posix_shell() -> None:
    """It parses, and asks for nothing but sh."""
    assert subprocess.run(["sh", "-n", str(ROOT / "scripts/churn")], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="churn.c needs a C compiler")
def test_the_churn_compiles_and_settles(tmp_path: Path) -> None:
    """It builds without a warning, and says when it has settled."""
    binary = tmp_path / "churn"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, "-o", str(binary), str(ROOT / "scripts/churn.c"), "-lm"], check=True)
    words = [str(binary), "2", "4096", "65536", str(4 << 20), str(8 << 20), "0"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "settled\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_program_of_ones_own() -> None:
    """What `sweep inspect` saw before it ended, and its calls where strace is installed."""
    program = [sys.executable, "-c", "import time; x = bytearray(50_000_000); del x; time.sleep(4)"]
    words = [
        sys.executable,
        str(ROOT / "scripts/_churn.py"),
        "--format",
        "csv",
        "--allocators",
        "glibc",
        "--",
        *program,
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["allocator"], row["churn"]) == ("glibc", "own")
    assert int(row["vm_pte_kib"]) > 0
    assert bool(row["purges"]) == bool(shutil.which("strace"))
