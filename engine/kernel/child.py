"""The server process, which forks a child for each point, and the child itself.

The server imports little and compiles the loop of calls (engine.kernel.syscalls); after that it only forks. So a child
starts within milliseconds and holds nothing of an earlier point.

The child maps the VMA and runs every step once on another VMA, which it unmaps again: its own pages and page tables
exist then. From then on it only makes the point's calls, and waits after each half round while its parent reads /proc.
"""

import contextlib
import ctypes
import gc
import mmap
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from engine.kernel.messages import MessageSocket
from engine.kernel.syscalls import MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, UNMAP, loop_ns
from engine.kernel.vma import CallError, CallThreads, Vma, has_fifth_level, libc, rehearse
from engine.model.arch import GIB, MIB, TIB

ADVICE = {"dontneed": MADV_DONTNEED, "free": MADV_FREE, "munmap": UNMAP}
BASES = (TIB, 32 * TIB, 88 * TIB)
"""Addresses where a VMA may start: multiples of 512 GiB with nothing else in the same PUD table. With 4 levels, x86-64
has programs at 85 TiB, and libraries and stacks at 127 TiB."""
PR_SET_PDEATHSIG, PR_SET_THP_DISABLE = 1, 41  # prctl(2)
SPARE_BYTES, SPARE_BYTES_PER_THREAD = GIB, 160 * MIB
"""Address space that a child may use beside the VMA. The heap of a thread reserves 128 MiB."""


def server_main() -> None:
    """Run the server process until its parent closes the socket.

    Messages: first what the kernel supports, or `unsupported` with the reason. Then, for each point, a byte to read,
    the child's conversation with the parent (run_point), and `ended` with the child's exit status.
    """
    messages, parent = MessageSocket(socket.socket(fileno=int(sys.argv[1]))), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        rehearse(CallThreads(1), guards=False)
    except CallError as error:
        messages.send(unsupported=f"the kernel lacks a call that is needed, Linux 5.14 has them all ({error})")
        return
    guards = supports_guards()
    messages.send(guards=guards, fifth_level=has_fifth_level(), loop_ns=loop_ns())
    gc.collect()
    gc.freeze()
    server = os.getpid()
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages.read(1)
            child = os.fork()
            if child == 0:
                child_main(messages, guards, server)
            messages.send(ended=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def supports_guards() -> bool:
    """Whether the kernel has MADV_GUARD_INSTALL (Linux 6.13)."""
    try:
        rehearse(CallThreads(1), guards=True)
    except CallError:
        return False
    return True


def child_main(messages: MessageSocket, guards: bool, server: int) -> None:
    """Run one point and end this process. A failure is sent as `error`."""
    try:
        gc.disable()
        die_with_parent(server)
        run_point(messages, guards)
        os._exit(0)
    except EOFError:
        os._exit(1)
    except BaseException as error:
        with contextlib.suppress(OSError):
            messages.send(error=str(error) if isinstance(error, CallError) else f"{type(error).__name__}: {error}")
        os._exit(1)


def run_point(messages: MessageSocket, guards: bool) -> None:
    """Receive the point (Script.message), prepare, then do half a round for each byte that the parent sends.

    Answers `no_space` if the VMA cannot be mapped; else `ready` with its process id and the VMA's address, and after
    each half round `ns` with its CPU time.
    """
    point = messages.receive()
    arrays = [messages.read_ranges(rows) for rows in point["rows"]]
    set_limits(point["virt"], point["threads"], point["limit_s"])
    threads = CallThreads(point["threads"])
    for _ in range(2):
        rehearse(threads, guards)
    if point["thp"]:
        libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
    vma = map_vma(point["virt"], threads, point["thp"])
    if vma is None:
        messages.send(no_space=True)
        return
    threads.is_counted = point["is_counted"]
    advice = ADVICE[point["advice"]]
    messages.send(ready=os.getpid(), base=vma.base)
    for number, (holes, installs, calls, offsets) in enumerate(point["rounds"]):
        messages.read(1)
        vma.map_again(arrays[holes])
        if number == 0 or advice == UNMAP:
            vma.install_markers(arrays[0])
        ns = vma.install(arrays[installs])
        if point["thp"] and advice == MADV_FREE:
            vma.write_bytes(arrays[installs])
        messages.send(ns=ns)
        messages.read(1)
        messages.send(ns=vma.zap(arrays[calls], offsets, advice))
    messages.read(1)


def map_vma(length: int, threads: CallThreads, thp: bool) -> Vma | None:
    """A VMA of `length` bytes at the first of BASES that has space for it. thp: it may have huge pages."""
    for base in BASES:
        with contextlib.suppress(OSError):
            return Vma(base, length, threads, MADV_HUGEPAGE if thp else MADV_NOHUGEPAGE)
    return None


def set_limits(virt: int, threads: int, limit_s: float) -> None:
    """Make this process the first that the OOM killer takes; no core dump; limit its CPU time and address space."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    for limit, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(limit_s * (os.cpu_count() or 1)) + 2),
        (resource.RLIMIT_AS, mapped + virt + SPARE_BYTES + threads * SPARE_BYTES_PER_THREAD),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent (a process id) ends, prctl(2)."""
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
