"""What malloc does with memory that a batch gave back: the next batch needs as much again."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_TRIM_BYTES, _MMAP_BYTES = 1 << 30, 32 << 20


def keep() -> None:
    """Keep it in this process: each page given back is faulted in and zeroed again, which for cheap points is dear.

    Elsewhere than on glibc nothing changes.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
