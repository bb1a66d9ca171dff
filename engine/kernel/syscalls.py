"""Makes the system calls of a point in one compiled loop over prepared ranges.

A call from Python costs as much as the madvise that is to be measured. This loop costs 2 ns per call (`loop_ns`), does
not hold the GIL, and lets all threads start together. process_madvise is no substitute: it makes one call with one TLB
flush for all its ranges.
"""

import ctypes
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from engine.inside.probes import INSTALLING, UNCOUNTED, ZAPPING
from engine.numeric.jit import shared

MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_WRITE = 4, 8, 14, 15, 23
MADV_GUARD_INSTALL = 102
UNMAP, NOTHING = -1, -2
"""Other values for `advice`: munmap; and posix_madvise(POSIX_MADV_DONTNEED), which glibc and musl do not pass on to the
kernel."""

CLOCK_THREAD_CPUTIME_ID, PR_SET_NAME = 3, 15
WARM_UPS, PAGE = 4, 4096

_madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.uintp, types.int32))
_munmap = types.ExternalFunction("munmap", types.int32(types.intp, types.uintp))
_posix_madvise = types.ExternalFunction("posix_madvise", types.int32(types.intp, types.uintp, types.int32))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_prctl = types.ExternalFunction("prctl", types.int32(types.int32, types.intp, types.intp, types.intp, types.intp))
_errno = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())


@shared
def cpu_ns(stamp: Any) -> Any:
    """CPU time of this thread in ns. Writes stamp: int64[2], scratch."""
    _clock_gettime(CLOCK_THREAD_CPUTIME_ID, stamp.ctypes.data)
    return stamp[0] * 1_000_000_000 + stamp[1]


@shared
def make_calls(
    base: Any, ranges: Any, advice: Any, gate: Any, thread: Any, warm: Any, names: Any
) -> tuple[Any, Any, Any]:
    """Call madvise with `advice` on each range, until one fails.

    Returns (successful calls, errno of the failed one or 0, CPU ns of this thread without the cost of the clock).

    base: address; ranges: int64[n, 2], offset and length in bytes
    gate: int64[threads + 1]; each thread sets gate[thread] and starts when gate[-1] is set
    warm: address of a page that is written and zapped WARM_UPS times before the clock starts, so that a point of few
    calls does not measure cold caches; 0: no warm-up
    names: int64[2], addresses of the thread's name during the calls and after them (names_of)
    """
    stamp = np.zeros(2, np.int64)
    gate[thread] = 1
    while gate[-1] == 0:
        _sched_yield()
    if warm != 0:
        for _ in range(WARM_UPS):
            _madvise(warm, PAGE, MADV_POPULATE_WRITE)
            _madvise(warm, PAGE, MADV_DONTNEED)
    if names[0] != 0:
        _prctl(PR_SET_NAME, names[0], 0, 0, 0)
    before = cpu_ns(stamp)
    start = cpu_ns(stamp)
    calls, failed = 0, 0
    for i in range(len(ranges)):
        if advice == UNMAP:
            failed = _munmap(base + ranges[i, 0], ranges[i, 1])
        elif advice == NOTHING:
            failed = _posix_madvise(base + ranges[i, 0], ranges[i, 1], MADV_DONTNEED)
        else:
            failed = _madvise(base + ranges[i, 0], ranges[i, 1], advice)
        if failed != 0:
            break
        calls += 1
    error = _errno()[0] if failed != 0 else 0
    ns = max(cpu_ns(stamp) - start - (start - before), 0)
    if names[1] != 0:
        _prctl(PR_SET_NAME, names[1], 0, 0, 0)
    return calls, error, ns


NO_NAMES: NDArray[np.int64] = np.zeros(2, np.int64)
"""For make_calls of a thread that keeps its name."""
_texts = {name: ctypes.create_string_buffer(name.encode()) for name in (INSTALLING, ZAPPING, UNCOUNTED)}
_names = {
    name: np.array([ctypes.addressof(_texts[name]), ctypes.addressof(_texts[UNCOUNTED])], np.int64)
    for name in (INSTALLING, ZAPPING)
}


def names_of(advice: int) -> NDArray[np.int64]:
    """For make_calls with this advice, if probes count what the calls do (engine.inside.probes)."""
    return _names[INSTALLING if advice in (MADV_POPULATE_WRITE, MADV_GUARD_INSTALL) else ZAPPING]


def loop_ns(calls: int = 200_000) -> float:
    """The cost of the loop, ns per call, measured with a call that returns at once. The least of 5 measurements."""
    ranges: NDArray[np.int64] = np.full((calls, 2), 4096, np.int64)
    gate: NDArray[np.int64] = np.array([0, 1], np.int64)
    make_calls(0, ranges[:1], NOTHING, gate, 0, 0, NO_NAMES)
    return min(float(make_calls(0, ranges, NOTHING, gate, 0, 0, NO_NAMES)[2]) for _ in range(5)) / calls
