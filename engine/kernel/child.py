"""The process in which a point happens: a small server that forks a fresh child for each, and the child itself.

The server imports little, compiles the loop of calls, and then only forks: a child starts in milliseconds with nothing
of an earlier point in it. The child maps the VMA and rehearses every step on another one, which it unmaps, so that its
own pages and tables stand. From then on it only makes the point's calls, and waits while its parent reads /proc.
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

from engine.kernel.messages import Wire
from engine.kernel.syscalls import MADV_DONTNEED, MADV_FREE, UNMAP, loop_ns
from engine.kernel.vma import CallError, Hands, Stage, has_fifth_level, libc, rehearse
from engine.model.arch import GIB, MIB, TIB

ADVICE = {"dontneed": MADV_DONTNEED, "free": MADV_FREE, "munmap": UNMAP}
BASES = (TIB, 32 * TIB, 88 * TIB)
"""Where a VMA may start: on 512 GiB, with nothing else near. A 4-level x86-64 has programs at 85 TiB and libraries and
stacks at 127 TiB."""
PR_SET_PDEATHSIG, PR_SET_THP_DISABLE = 1, 41
SPARE_BYTES, SPARE_BYTES_A_THREAD = GIB, 160 * MIB
"""Address space beyond the VMA's. A thread's heap reserves 128 MiB."""


def serve() -> None:
    """The server's life, until the runner hangs up."""
    wire, parent = Wire(socket.socket(fileno=int(sys.argv[1]))), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        rehearse(Hands(1), guards=False)
    except CallError as error:
        wire.tell(unfit=f"the kernel lacks a call that is needed, Linux 5.14 has them all ({error})")
        return
    guards = has_guards()
    wire.tell(guards=guards, fifth_level=has_fifth_level(), loop_ns=loop_ns())
    gc.collect()
    gc.freeze()
    server = os.getpid()
    with contextlib.suppress(EOFError, OSError):
        while True:
            wire.take(1)
            child = os.fork()
            if child == 0:
                be_child(wire, guards, server)
            wire.tell(ended=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def has_guards() -> bool:
    """MADV_GUARD_INSTALL is there (Linux 6.13)."""
    try:
        rehearse(Hands(1), guards=True)
    except CallError:
        return False
    return True


def be_child(wire: Wire, guards: bool, server: int) -> None:
    """One point, then the end of this process."""
    try:
        gc.disable()
        die_with(server)
        perform(wire, guards)
        os._exit(0)
    except EOFError:
        os._exit(1)
    except BaseException as error:
        with contextlib.suppress(OSError):
            wire.tell(error=str(error) if isinstance(error, CallError) else f"{type(error).__name__}: {error}")
        os._exit(1)


def perform(wire: Wire, guards: bool) -> None:
    """Hear the point, get ready, do each half of a round when told to."""
    order = wire.hear()
    arrays = [wire.ranges(rows) for rows in order["rows"]]
    limit(order["virt"], order["threads"], order["limit_s"])
    hands = Hands(order["threads"])
    for _ in range(2):
        rehearse(hands, guards)
    stage = staged(order["virt"], hands)
    if stage is None:
        wire.tell(no_room=True)
        return
    advice = ADVICE[order["advice"]]
    wire.tell(ready=os.getpid(), base=stage.base)
    for number, (holes, installs, calls, offsets) in enumerate(order["rounds"]):
        wire.take(1)
        stage.again(arrays[holes])
        if number == 0 or advice == UNMAP:
            stage.guard(arrays[0])
        wire.tell(ns=stage.install(arrays[installs]))
        wire.take(1)
        wire.tell(ns=stage.zap(arrays[calls], offsets, advice))
    wire.take(1)


def staged(virt: int, hands: Hands) -> Stage | None:
    """The VMA at the first base with room for it."""
    for base in BASES:
        with contextlib.suppress(OSError):
            return Stage(base, virt, hands)
    return None


def limit(virt: int, threads: int, limit_s: float) -> None:
    """Go first when memory is short, leave no core, and neither run nor grow without end."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(limit_s * (os.cpu_count() or 1)) + 2),
        (resource.RLIMIT_AS, mapped + virt + SPARE_BYTES + threads * SPARE_BYTES_A_THREAD),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (prctl(2))."""
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
