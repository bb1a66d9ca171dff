"""scripts/churn: it can reproduce the table of docs/findings.md, for its own program and for another one."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.skipif(shutil.which("cc") is None, reason="churn.c needs a C compiler")
@pytest.mark.slow
def test_the_churn_compiles_and_settles(tmp_path: Path) -> None:
    """churn.c builds without a warning and prints `settled` at its end."""
    binary = tmp_path / "churn"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, "-o", str(binary), str(ROOT / "scripts/churn.c"), "-lm"], check=True)
    words = [str(binary), "2", "4096", "65536", str(4 << 20), str(8 << 20), "0"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "settled\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.slow
def test_another_program() -> None:
    """The row has what `sweep inspect` saw before the program ended, and its calls where strace is installed."""
    program = [sys.executable, "-c", "import time; x = bytearray(50_000_000); del x; time.sleep(1)"]
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
    assert bool(row["zap_calls"]) == bool(shutil.which("strace"))
