"""Where a point happens: the VMA, what is done to it, and the threads that do it."""

import ctypes
import mmap
import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernel.syscalls import (
    MADV_DONTNEED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_NOHUGEPAGE,
    MADV_POPULATE_WRITE,
    UNMAP,
    make_calls,
)
from engine.model.arch import GIB, MIB

REHEARSAL_BASE, REHEARSAL_BYTES = 512 * GIB, 4 * MIB
STACK_BYTES = 512 << 10
MAP_FIXED, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x10, 0x4000, 0x100000
PLAIN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
EINVAL = 22

Ranges = NDArray[np.int64]
"""int64[n, 2]: first byte, counted from the VMA's start, and length."""

libc: Any = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

OPEN: NDArray[np.int64] = np.array([0, 1], np.int64)
"""The gate of a thread that waits for no other."""


class CallError(OSError):
    """A call of the point failed."""


def act(what: str, base: int, ranges: Ranges, advice: int, warm: int = 0) -> int:
    """Make calls in this thread; CPU ns."""
    made, error, ns = make_calls(base, ranges, advice, OPEN, 0, warm)
    check(what, made, error)
    return int(ns)


def check(what: str, made: int, error: int) -> None:
    if error:
        raise CallError(error, f"{what}: {os.strerror(error)} after {made} calls")


class Hands:
    """The threads that make a round's calls. They stand ready from the start; one alone is this thread itself."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._gate: NDArray[np.int64] = np.zeros(count + 1, np.int64)
        self._work: list[tuple[int, Ranges, int]] = [(0, np.zeros((0, 2), np.int64), 0)] * count
        self._answers: list[tuple[int, int, int]] = [(0, 0, 0)] * count
        self._called = [threading.Semaphore(0) for _ in range(count)]
        self._done = threading.Semaphore(0)
        # A page each to warm up on, where the kernel likes to have it: beside the process's own memory.
        self._warm: int = libc.mmap(None, count * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, PLAIN, -1, 0)
        if count > 1:
            threading.stack_size(STACK_BYTES)
            for place in range(count):
                threading.Thread(target=self._live, args=(place,), daemon=True).start()

    def make(self, base: int, ranges: Ranges, offsets: list[int], advice: int) -> int:
        """Make the calls, thread t those from offsets[t] on; CPU ns of all threads."""
        if self.count == 1:
            return act("zap", base, ranges, advice, self._warm)
        for place in range(self.count):
            self._work[place] = base, ranges[offsets[place] : offsets[place + 1]], advice
            self._called[place].release()
        while not self._gate[:-1].all():
            os.sched_yield()
        self._gate[-1] = 1
        for _ in range(self.count):
            self._done.acquire()
        self._gate[:] = 0
        total = 0
        for made, error, ns in self._answers:
            check("zap", made, error)
            total += ns
        return total

    def _live(self, place: int) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[place % len(cpus)]})  # else they start on one CPU, and short rounds end there
        while True:
            self._called[place].acquire()
            base, ranges, advice = self._work[place]
            warm = self._warm + place * mmap.PAGESIZE
            self._answers[place] = make_calls(base, ranges, advice, self._gate, place, warm)
            self._done.release()


class Stage:
    """One private anonymous VMA. Raises OSError where there is no room for it."""

    def __init__(self, base: int, length: int, hands: Hands) -> None:
        self.base, self._hands = base, hands
        self._map(base, length, PLAIN | MAP_FIXED_NOREPLACE)

    def again(self, holes: Ranges) -> None:
        """Map what was unmapped."""
        for start, length in holes:
            self._map(self.base + int(start), int(length), PLAIN | MAP_FIXED)

    def guard(self, ranges: Ranges) -> None:
        act("guard", self.base, ranges, MADV_GUARD_INSTALL)

    def install(self, ranges: Ranges) -> int:
        return act("install", self.base, ranges, MADV_POPULATE_WRITE)

    def zap(self, ranges: Ranges, offsets: list[int], advice: int) -> int:
        return self._hands.make(self.base, ranges, offsets, advice)

    def _map(self, start: int, length: int, flags: int) -> None:
        if libc.mmap(start, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != start:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        whole: Ranges = np.array([[0, length]], np.int64)
        made, error, _ = make_calls(start, whole, MADV_NOHUGEPAGE, OPEN, 0, 0)
        if error != EINVAL:  # which a kernel without huge pages says
            check("MADV_NOHUGEPAGE", made, error)


def rehearse(hands: Hands, guards: bool) -> None:
    """Every step once, on a VMA that is gone afterwards with all its tables. Raises CallError."""
    stage = Stage(REHEARSAL_BASE, REHEARSAL_BYTES, hands)
    page = mmap.PAGESIZE
    each: Ranges = np.array([[page * (i + 1), page] for i in range(hands.count)], np.int64)
    offsets = list(range(hands.count + 1))
    try:
        if guards:
            stage.guard(np.array([[0, page]], np.int64))
        stage.install(each)
        for advice in (MADV_FREE, MADV_DONTNEED, UNMAP):
            stage.zap(each, offsets, advice)
        stage.again(each)
    finally:
        libc.munmap(REHEARSAL_BASE, REHEARSAL_BYTES)


def has_fifth_level() -> bool:
    """Whether addresses above 2^47 can be mapped: x86-64 with five levels."""
    high = 1 << 48
    found: int | None = libc.mmap(high, mmap.PAGESIZE, mmap.PROT_READ, PLAIN | MAP_FIXED_NOREPLACE, -1, 0)
    if found == high:
        libc.munmap(high, mmap.PAGESIZE)
    return found == high
