"""The yardstick of the engine: STREAM's triad, a[i] = b[i] + s x c[i], over 64 bytes for each page table.

Bytes are counted as in STREAM, 24 per element. By STREAM's rule each array is four times as large as the last-level
cache; it is processed repeatedly until the number of bytes is reached.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

BYTES_A_TABLE = 64
BYTES_AN_ELEMENT = 24
LEAST_CACHE_BYTES = 32 << 20
MOST_ARRAY_BYTES = 640 << 20
"""Enough for 55 TiB in one pass."""


@njit(cache=True, nogil=True)
def triad(a: Any, b: Any, c: Any, s: float) -> None:
    for i in range(len(a)):
        a[i] = b[i] + s * c[i]


class Triad:
    """Triad on `cores` cores, each with a thread and three arrays; calling it runs it once."""

    def __init__(self, tables: int, cores: int = 1, quick: bool = False) -> None:
        self.elements = tables * BYTES_A_TABLE // BYTES_AN_ELEMENT // cores
        wanted = (1 << 20 if quick else min(4 * last_cache_bytes(), MOST_ARRAY_BYTES)) // 8
        length = min(self.elements, wanted // cores)
        self._arrays = [tuple(np.full(length, float(i)) for i in range(3)) for _ in range(cores)]
        self._pool = ThreadPoolExecutor(cores)
        self()

    def __call__(self) -> None:
        list(self._pool.map(self._stream, self._arrays))

    def _stream(self, arrays: tuple[Any, Any, Any]) -> None:
        left, length = self.elements, len(arrays[0])
        while left > 0:
            a, b, c = (array[: min(left, length)] for array in arrays)
            triad(a, b, c, 3.0)
            left -= length

    @property
    def bytes(self) -> int:
        """Bytes counted per call, on all cores."""
        return self.elements * BYTES_AN_ELEMENT * len(self._arrays)


def last_cache_bytes() -> int:
    """Return the size of the largest cache of CPU 0 from sysfs."""
    sizes = [LEAST_CACHE_BYTES]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) << 10)
    return max(sizes)
