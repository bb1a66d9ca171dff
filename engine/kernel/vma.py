"""The VMA of a point, the steps that are done to it, and the threads that do them. Used in the child process."""

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
    NO_NAMES,
    UNMAP,
    make_calls,
    names_of,
)
from engine.model.arch import GIB, MIB

REHEARSAL_BASE, REHEARSAL_BYTES = 512 * GIB, 4 * MIB
STACK_BYTES = 512 << 10
MAP_FIXED, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x10, 0x4000, 0x100000
MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
EINVAL = 22

ByteRanges = NDArray[np.int64]
"""int64[n, 2]: offset from the VMA's start and length, in bytes."""

libc: Any = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

OPEN_GATE: NDArray[np.int64] = np.array([0, 1], np.int64)
"""The gate (see make_calls) of a thread that waits for no other."""


class CallError(OSError):
    """A system call of the point failed."""


def call_ranges(step: str, base: int, ranges: ByteRanges, advice: int, warm: int = 0, is_counted: bool = False) -> int:
    """Make one call per range in this thread. Returns CPU ns. Raises CallError, in which `step` is named.

    is_counted: probes count what the calls do
    """
    names = names_of(advice) if is_counted else NO_NAMES
    calls, error, ns = make_calls(base, ranges, advice, OPEN_GATE, 0, warm, names)
    check_errno(step, calls, error)
    return int(ns)


def check_errno(step: str, calls: int, error: int) -> None:
    """Raise CallError if errno `error` is not 0."""
    if error:
        raise CallError(error, f"{step}: {os.strerror(error)} after {calls} calls")


class CallThreads:
    """The threads that make the calls of a round. They are started once, and wait between rounds.

    With a count of 1 the main thread makes the calls. is_counted: probes count what the calls do
    """

    def __init__(self, count: int) -> None:
        self.count, self.is_counted = count, False
        self._gate: NDArray[np.int64] = np.zeros(count + 1, np.int64)
        self._tasks: list[tuple[int, ByteRanges, int]] = [(0, np.zeros((0, 2), np.int64), 0)] * count
        self._answers: list[tuple[int, int, int]] = [(0, 0, 0)] * count
        self._started = [threading.Semaphore(0) for _ in range(count)]
        self._done = threading.Semaphore(0)
        # One page per thread to warm up on, where the kernel chooses: beside the process's own memory.
        flags, rights = MAP_FLAGS, mmap.PROT_READ | mmap.PROT_WRITE
        self._warm: int = libc.mmap(None, count * mmap.PAGESIZE, rights, flags, -1, 0)
        if count > 1:
            threading.stack_size(STACK_BYTES)
            for thread in range(count):
                threading.Thread(target=self._run, args=(thread,), daemon=True).start()

    def make(self, base: int, ranges: ByteRanges, offsets: list[int], advice: int) -> int:
        """Make one call per range; thread t makes ranges[offsets[t] : offsets[t + 1]]. Returns CPU ns of all threads.

        Raises CallError.
        """
        if self.count == 1:
            return call_ranges("zap", base, ranges, advice, self._warm, self.is_counted)
        for thread in range(self.count):
            self._tasks[thread] = base, ranges[offsets[thread] : offsets[thread + 1]], advice
            self._started[thread].release()
        while not self._gate[:-1].all():
            os.sched_yield()
        self._gate[-1] = 1
        for _ in range(self.count):
            self._done.acquire()
        self._gate[:] = 0
        total = 0
        for calls, error, ns in self._answers:
            check_errno("zap", calls, error)
            total += ns
        return total

    def _run(self, thread: int) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        # All threads start on one CPU, and short rounds would end before the kernel spreads them.
        os.sched_setaffinity(0, {cpus[thread % len(cpus)]})
        while True:
            self._started[thread].acquire()
            base, ranges, advice = self._tasks[thread]
            warm = self._warm + thread * mmap.PAGESIZE
            names = names_of(advice) if self.is_counted else NO_NAMES
            self._answers[thread] = make_calls(base, ranges, advice, self._gate, thread, warm, names)
            self._done.release()


class Vma:
    """A private anonymous mapping at address `base`. Raises OSError if it overlaps another mapping.

    advice: MADV_NOHUGEPAGE or MADV_HUGEPAGE
    install_markers, install and zap raise CallError.
    """

    def __init__(self, base: int, length: int, threads: CallThreads, advice: int = MADV_NOHUGEPAGE) -> None:
        self.base, self._threads, self._advice = base, threads, advice
        self._map(base, length, MAP_FLAGS | MAP_FIXED_NOREPLACE)

    def map_again(self, holes: ByteRanges) -> None:
        """Map ranges that were unmapped."""
        for start, length in holes:
            self._map(self.base + int(start), int(length), MAP_FLAGS | MAP_FIXED)

    def install_markers(self, ranges: ByteRanges) -> None:
        call_ranges("guard", self.base, ranges, MADV_GUARD_INSTALL, is_counted=self._threads.is_counted)

    def install(self, ranges: ByteRanges) -> int:
        """Write all pages of the ranges. Returns CPU ns."""
        is_counted = self._threads.is_counted
        return call_ranges("install", self.base, ranges, MADV_POPULATE_WRITE, is_counted=is_counted)

    def write_bytes(self, ranges: ByteRanges) -> None:
        """Write a byte that is not zero to each page: MADV_FREE that splits a huge page takes those of zeros away."""
        for start, length in ranges:  # no list of them: the heap shall not grow
            for offset in range(int(start), int(start + length), mmap.PAGESIZE):
                ctypes.memset(self.base + offset, 1, 1)

    def zap(self, ranges: ByteRanges, offsets: list[int], advice: int) -> int:
        """Call madvise with `advice`, or munmap, on each range (CallThreads.make). Returns CPU ns."""
        return self._threads.make(self.base, ranges, offsets, advice)

    def _map(self, start: int, length: int, flags: int) -> None:
        if libc.mmap(start, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != start:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        mapping: ByteRanges = np.array([[0, length]], np.int64)
        calls, error, _ = make_calls(start, mapping, self._advice, OPEN_GATE, 0, 0, NO_NAMES)
        if self._advice != MADV_NOHUGEPAGE or error != EINVAL:  # from a kernel without huge pages
            check_errno("advice on huge pages", calls, error)


def rehearse(threads: CallThreads, guards: bool) -> None:
    """Do every step once on a VMA that is unmapped afterwards, with all its tables. Raises CallError."""
    vma = Vma(REHEARSAL_BASE, REHEARSAL_BYTES, threads)
    page = mmap.PAGESIZE
    one_page_per_thread: ByteRanges = np.array([[page * (i + 1), page] for i in range(threads.count)], np.int64)
    offsets = list(range(threads.count + 1))
    try:
        if guards:
            vma.install_markers(np.array([[0, page]], np.int64))
        vma.install(one_page_per_thread)
        for advice in (MADV_FREE, MADV_DONTNEED, UNMAP):
            vma.zap(one_page_per_thread, offsets, advice)
        vma.map_again(one_page_per_thread)
    finally:
        libc.munmap(REHEARSAL_BASE, REHEARSAL_BYTES)


def has_fifth_level() -> bool:
    """Whether addresses above 2^47 can be mapped: x86-64 with five levels of page tables."""
    high = 1 << 48
    address: int | None = libc.mmap(high, mmap.PAGESIZE, mmap.PROT_READ, MAP_FLAGS | MAP_FIXED_NOREPLACE, -1, 0)
    if address == high:
        libc.munmap(high, mmap.PAGESIZE)
    return address == high
