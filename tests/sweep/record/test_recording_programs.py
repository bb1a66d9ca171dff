"""The command record on programs that the tests run: VmPTE as it was seen is VmPTE as a replay computes it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.model.policy import ALL
from sweep.cli.main import main
from sweep.record.present_pages import PresentPages
from sweep.traces.trace_replay import TraceReplay
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace as here is Linux's")

PROLOGUE = """
import ctypes, mmap, os, subprocess, sys, threading, time
libc = ctypes.CDLL(None)
def filled(mib):
    m = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m[::4096] = b"x" * (mib << 8)
    return m
"""
ZAPS = """
m = filled(32)
m.madvise(mmap.MADV_DONTNEED, 0, 16 << 20)
for half in (20, 21, 23): m.madvise(mmap.MADV_DONTNEED, half << 20, 1 << 20)
time.sleep(0.25)
m[0] = 1; m[17 << 20] = 1
m.resize(64 << 20)
m[60 << 20] = 1
m.madvise(mmap.MADV_DONTNEED, 2 << 20, 30 << 20)
sys.exit(7)
"""
PEAK = """
m = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for start in range(0, 1 << 30, 1 << 20): m[start] = 1
for start in range(0, 1 << 30, 4 << 20): m.madvise(mmap.MADV_DONTNEED, start, 4 << 20)
"""
SPLITS = """
import struct
m = filled(32)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
slots = -(-at >> 21) << 21
def middle(slot): return ctypes.c_void_p(slots + (slot << 21) + (1 << 20))
page = ctypes.c_size_t(4096)
libc.mlock(middle(1), page)  # DONTNEED acts up to the lock, and fails there
libc.madvise(ctypes.c_void_p(slots), ctypes.c_size_t(8 << 20), 4)
libc.munlock(middle(1), page)
nodes = ctypes.c_ulong(1)
libc.mbind(middle(6), page, 2, ctypes.byref(nodes), ctypes.c_ulong(64), 0) if hasattr(libc, "mbind") else libc.syscall(
    ctypes.c_long(237), middle(6), page, ctypes.c_long(2), ctypes.byref(nodes), ctypes.c_ulong(64), ctypes.c_long(0))
libc.madvise(ctypes.c_void_p(slots + (5 << 21)), ctypes.c_size_t(6 << 20), 4)
libc.mmap.restype = ctypes.c_void_p
for flags in (0x22 | 0x10, 0x4022 | 0x10):  # beside each other, one of them MAP_NORESERVE
    place = slots + (10 << 21) + (1 << 20) * (flags >> 14)
    libc.mmap(ctypes.c_void_p(place), ctypes.c_size_t(1 << 20), 3, flags, -1, ctypes.c_long(0))
    ctypes.memset(place, 1, 1 << 20)
libc.madvise(ctypes.c_void_p(slots + (10 << 21)), ctypes.c_size_t(2 << 20), 4)
time.sleep(0.3)
"""
HUGETLB = """
m = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
m[:: 1 << 20] = b"x" * 8
n = filled(4)
if not os.fork():
    m[0] = 2; time.sleep(0.2); os._exit(0)
os.wait()
"""
CHILDREN = """
m = filled(16)
child = os.fork()
if not child:
    m.madvise(mmap.MADV_DONTNEED, 0, 4 << 20)
    n = filled(6); time.sleep(0.15); os._exit(0)
os.waitpid(child, 0)
subprocess.run(["sort", "/etc/hostname"], stdout=subprocess.DEVNULL)
def work():
    for i in range(40):
        n = mmap.mmap(-1, 4 << 20); n[0] = 1; n[3 << 20] = 1
        n.madvise(mmap.MADV_DONTNEED, 1 << 20, 3 << 20); n.close()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
threading.Thread(target=lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"])).start()
time.sleep(9)
"""
SERVER = """
m = filled(32)
for half in range(8, 16): m.madvise(mmap.MADV_DONTNEED, half << 20, 1 << 20)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
m.madvise(mmap.MADV_DONTNEED, 24 << 20, 4 << 20)
libc.madvise(ctypes.c_void_p(at + (26 << 20)), ctypes.c_size_t(1 << 20), 102)  # MADV_GUARD_INSTALL (Linux 6.13)
for line in sys.stdin:
    for i in range(4): m.madvise(mmap.MADV_DONTNEED, i << 20, 2 << 20); m[:8 << 20:4096] = b"x" * 2048
    print("done", flush=True)
    if line == "wait\\n": time.sleep(0.3)
"""
STATIC = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static void *work(void *number) {
    unsigned state = (long)number + 1;
    for (int i = 0; i < 40; i++) {
        size_t size = (size_t)(rand_r(&state) % 4 + 1) << 20;
        char *p = mmap(0, size, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t at = 0; at < size; at += 4096 * (rand_r(&state) % 99 + 1)) p[at] = 1;
        madvise(p + rand_r(&state) % 128 * 4096, size / 2, MADV_DONTNEED);
        if (rand_r(&state) % 3 == 0) p = mremap(p, size, size * 2, MREMAP_MAYMOVE), size *= 2;
        pid_t child = 0;
        char *words[] = {"true", 0};
        if (i % 10 == 3) posix_spawn(&child, "/bin/true", 0, 0, words, environ);
        if (i % 10 == 7 && !(child = fork())) p[0] = 2, madvise(p, size, MADV_DONTNEED), _exit(0);
        if (child) waitpid(child, 0, 0);
        if (rand_r(&state) % 4) munmap(p, size);
    }
    return 0;
}
int main(void) {
    pthread_t threads[3];
    for (long i = 0; i < 3; i++) pthread_create(&threads[i], 0, work, (void *)i);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
    abort();
}
"""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sweep.cli", "record", *map(str, words)]


def run(*words: object) -> tuple[int, str]:
    """The exit code and stderr of `sweep record`. Skips where ptrace or its requests are missing."""
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, check=False)
    if "may not be traced" in done.stderr or "ptrace: Input/output error" in done.stderr:
        pytest.skip(done.stderr.strip())
    return done.returncode, done.stderr


def replayed(path: Path, *, has_threads: bool = False) -> TraceReplay:
    """The replay of a recording, all of whose moments agree with /proc.

    has_threads: a thread may be about to fill a table when it is looked at, so one moment in twenty may be a table off.
    """
    trace = TraceReplay(str(path), "a", ALL, touch_all=False)
    for _ in trace:
        pass
    assert trace.moments
    wrong = [moment for moment in trace.moments if not moment.agrees]
    assert len(wrong) <= (1 + len(trace.moments) // 20 if has_threads else 0)
    assert all(abs(moment.computed_kib - moment.most_kib) <= 8 for moment in wrong)
    return trace


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    """A process that gives memory back and touches it again for each line that it is sent."""
    with subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert asked(process) == "done\n"
        yield process
        assert asked(process) == "done\n"  # it runs on as before
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def asked(process: subprocess.Popen[str], line: str = "go") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_zaps(tmp_path: Path) -> None:
    """The rows agree with /proc, the exit code of the program is printed, and the file is far smaller than strace's."""
    path = tmp_path / "a.rec.gz"
    code, err = run("-o", path, "--", sys.executable, "-c", PROLOGUE + ZAPS)
    assert code == 0
    assert re.search(r"python\S* exited with 7\n", err)
    trace = replayed(path)
    assert len(trace.moments) >= 3  # ten a second, and at the end: fewer on a busy machine
    (process,) = trace.processes
    merged, none = process.figures["merged"], process.figures["none"]
    assert none["vm_pte_kib_max"] > merged["vm_pte_kib_max"]
    assert merged["pte_tables_freed"] >= 7 + 7  # by the first and the last call
    assert list(trace.notes()) == []


def test_a_short_peak_is_seen(tmp_path: Path) -> None:
    """512 tables that exist for some milliseconds before the first call are all in the peak."""
    path = tmp_path / "a.rec.gz"
    code, _ = run("-o", path, "--", sys.executable, "-c", PROLOGUE + PEAK)
    assert code == 0
    (process,) = replayed(path).processes
    assert process.figures["merged"]["vm_pte_kib_max"] >= 512 * 4


def test_splits_of_mappings(tmp_path: Path) -> None:
    """mlock, mbind and MAP_NORESERVE keep mappings apart, so MADV_DONTNEED frees no table over their borders."""
    path = tmp_path / "a.rec"
    assert run("-o", path, "--", sys.executable, "-c", PROLOGUE + SPLITS)[0] == 0
    trace = replayed(path)
    text = path.read_text()
    assert re.search(r"^d \S+ \S+ locked$", text, re.MULTILINE)
    assert re.search(r"^m \S+ \S+ rwn$", text, re.MULTILINE)
    assert re.search(r"^a \S+ \S+ 2 0$", text, re.MULTILINE)
    assert all(moment.agrees for moment in trace.moments)


def test_a_child_has_no_tables_for_hugetlb_either(tmp_path: Path) -> None:
    """Pages of MAP_HUGETLB that a fork copies are no pages of tables: VmPTE of the child agrees."""
    free = re.search(r"^HugePages_Free: +(\d+)$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if free is None or int(free[1]) < 4:
        pytest.skip("no 4 free pages of hugetlb: see /proc/sys/vm/nr_hugepages")
    path = tmp_path / "a.rec"
    assert run("-o", path, "--", sys.executable, "-c", PROLOGUE + HUGETLB)[0] == 0
    trace = replayed(path)
    assert len({moment.process.pid for moment in trace.moments}) == 2
    assert all(moment.agrees for moment in trace.moments)


def test_known_pages_are_inherited() -> None:
    """A forked process has its parent's mappings of hugetlb; what one of them maps later is its own."""
    parent, child = PresentPages(os.getpid()), PresentPages(os.getpid())
    parent.without_tables.add(1 << 40, 2 << 40)
    child.inherit(parent)
    parent.without_tables.subtract(1 << 40, 2 << 40)
    assert child.without_tables.covers(1 << 40, 2 << 40)
    parent.close()
    child.close()


def test_threads_and_children(tmp_path: Path) -> None:
    """Forks, vforks, threads and a program that a thread executes."""
    path = tmp_path / "a.rec"
    assert run("-o", path, "--", sys.executable, "-c", PROLOGUE + CHILDREN)[0] == 0
    trace = replayed(path, has_threads=True)
    first, *others = trace.processes
    assert [process.program for process in others[-1:]] == ["sh"]
    assert others[-1].pid == first.pid
    assert "sort" in {process.program for process in others}
    forked = next(process for process in others if process.program == first.program)
    assert forked.figures["none"]["vm_pte_kib_end"] > forked.figures["merged"]["vm_pte_kib_end"]


def test_a_static_program_with_threads(tmp_path: Path) -> None:
    """Threads whose calls race for the same addresses, and that start children; the program ends by a signal."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (tmp_path / "a.c").write_text(STATIC)
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", "a", "a.c"], cwd=tmp_path, check=True)
    code, err = run("-o", tmp_path / "a.rec", "--", tmp_path / "a")
    assert (code, "a was killed by signal 6\n" in err) == (0, True)
    assert len(replayed(tmp_path / "a.rec", has_threads=True).moments) >= 25


@pytest.mark.slow
def test_a_process_that_runs(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    """What is mapped and touched is recorded first; tables that are empty by then are bounded."""
    path = tmp_path / "a.rec"
    with subprocess.Popen(
        command("--pid", server.pid, "--seconds", 1.5, "-o", path), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as recorder:
        while recorder.poll() is None:
            assert asked(server, "wait") == "done\n"
        assert recorder.stderr is not None
        err = recorder.stderr.read()
    if "may not be traced" in err:
        pytest.skip(err)
    assert recorder.returncode == 0
    trace = replayed(path)
    assert trace.moments[0].unknown_kib >= 4 * 4
    assert trace.processes[0].figures["merged"]["pte_tables_freed"] >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_recording(tmp_path: Path, server: subprocess.Popen[str], number: signal.Signals) -> None:
    """A process that ran before runs on; what was recorded is kept."""
    path = tmp_path / "a.rec"
    with subprocess.Popen(
        command("--pid", server.pid, "-o", path), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as recorder:
        while not _traced_by(server.pid) and recorder.poll() is None:
            pass
        asked(server, "wait")
        recorder.send_signal(number)
        assert recorder.stderr is not None
        err = recorder.stderr.read()
    if "may not be traced" in err:
        pytest.skip(err)
    assert (recorder.returncode, "interrupted; what was recorded is kept" in err) == (3, True)
    assert _traced_by(server.pid) == 0
    replayed(path)


def test_a_signal_ends_a_program_that_was_started(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    words = PROLOGUE + 'm = filled(8)\nprint("ready", flush=True)\ntime.sleep(60)'
    with subprocess.Popen(
        command("-o", path, "--", sys.executable, "-c", words),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as recorder:
        assert recorder.stdout is not None
        if recorder.stdout.readline() != "ready\n":
            pytest.skip(recorder.communicate()[1])
        recorder.send_signal(signal.SIGTERM)
        _, err = recorder.communicate(timeout=30)
    assert (recorder.returncode, "was killed by signal 15" in err) == (3, True)
    assert max(moment.computed_kib for moment in replayed(path).moments) > 16


def test_a_tenth_of_strace(tmp_path: Path) -> None:
    """The compressed recording, with its touches, has a tenth of the bytes of strace's rows, without them."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    words = [sys.executable, "-c", PROLOGUE + "x = [bytearray(300_000) for _ in range(900)]"]
    strace = ["strace", "-f", "-o", str(tmp_path / "a.strace"), "-e", "trace=%memory,%process", *words]
    if subprocess.run(strace, capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    assert run("-o", tmp_path / "a.rec.gz", "--", *words)[0] == 0
    assert (tmp_path / "a.rec.gz").stat().st_size < (tmp_path / "a.strace").stat().st_size / 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "record: give either -- PROGRAM [ARG...] or --pid PID"),
        (["--pid", "1", "--", "true"], "record: give either -- PROGRAM [ARG...] or --pid PID"),
        (["--seconds", "1", "--", "true"], "--seconds: needs --pid PID"),
        (["--", "no-such-program"], "no-such-program: no such program"),
        (["--", "/etc/passwd"], "/etc/passwd: is not an executable file"),
        (["--", "./nothing"], "./nothing: no such program"),
        (["--pid", "4194304"], "no process 4194304: it does not exist, or it ended"),
        (["--pid", "x"], "invalid value for '--pid'"),
        (["-o", "there", "--", "true"], "-o there: exists already; give another name"),
        (["-o", "no/a.rec", "--", "true"], "-o no/a.rec: No such file or directory"),
    ],
)
def test_bad_input(
    words: Sequence[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and exit code 2; nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("mine")
    assert main(["record", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_program_that_the_kernel_refuses(tmp_path: Path) -> None:
    """It is found, but it is no program: that shows when it is executed, and no file is left."""
    (tmp_path / "a").write_text("no program")
    (tmp_path / "a").chmod(0o755)
    assert run("-o", tmp_path / "a.rec", "--", tmp_path / "a") == (2, f"sweep: {tmp_path}/a: Exec format error\n")
    assert not (tmp_path / "a.rec").exists()


def test_a_process_that_is_traced(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    """A second recording of the same process is refused with the number of the first."""
    with subprocess.Popen(
        command("--pid", server.pid, "-o", tmp_path / "a.rec"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as recorder:
        while not _traced_by(server.pid) and recorder.poll() is None:
            pass
        if recorder.poll() is not None:
            pytest.skip("may not trace")
        code, err = run("--pid", server.pid, "-o", tmp_path / "b.rec")
        recorder.send_signal(signal.SIGINT)
    assert (code, err) == (2, f"sweep: process {server.pid} is traced by process {recorder.pid} already\n")
    assert not (tmp_path / "b.rec").exists()


def _traced_by(pid: int) -> int:
    """The process that traces this one, or 0."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("TracerPid:")))
