"""Signals end every command with one line and exit code 3, from its first moment on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.paths import ROOT

AT_ONCE = """
import os, signal, sys
from sweep.cli import __main__ as command
install = command.handle_signals
def install_and_receive():
    install()
    os.kill(os.getpid(), {number})
command.handle_signals = install_and_receive
command.run()
"""
WHILE_IMPORTING = """
import os, signal, sys
from sweep.cli import __main__ as command
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "sweep.common.errors":
            exec("os.kill(os.getpid(), {number})")
sys.meta_path.insert(0, Finder())
command.run()
"""
STUBBORN_SQL = "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))"
"""DuckDB does not look for an interrupt while it computes this, which takes an hour."""


@pytest.mark.parametrize("code", [AT_ONCE, WHILE_IMPORTING], ids=["at once", "while importing"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_in_the_first_moment(code: str, number: signal.Signals) -> None:
    """Also one that interrupts an exec() within an import, after which Python would end by the signal."""
    command = [sys.executable, "-c", code.format(number=int(number)), "ls"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "sweep: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_of_a_query_that_does_not_listen(tmp_path: Path, signals: int) -> None:
    """It ends within seconds, at once with the second Ctrl-C."""
    command = [sys.executable, "-m", "sweep.cli", "query", STUBBORN_SQL, "--results", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while _cpu_s(process.pid) < 2 and time.monotonic() < end:  # until it computes
            time.sleep(0.1)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (3, "", "sweep: interrupted\n")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
