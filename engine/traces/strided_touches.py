"""The entries that a touch of one byte every `stride` bytes reaches."""

from collections.abc import Iterator
from functools import lru_cache

from engine.traces.geometry import Geometry


def touched_entries(geometry: Geometry, start: int, stride: int, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """Yield (slot, entries as bits) for the bytes start, start + stride, ... inside [lo, hi)."""
    at = start + -(-(lo - start) // stride) * stride
    while at < hi:
        slot = at // geometry.slot
        stop = min(hi, (slot + 1) * geometry.slot)
        count = -(-(stop - at) // stride)
        yield slot, _strided_entries(geometry, at % geometry.slot, stride, count)
        at += count * stride


@lru_cache(1 << 16)
def _strided_entries(geometry: Geometry, offset: int, stride: int, count: int) -> int:
    """Return the entries, as bits, of `count` touches that start `offset` bytes into a slot."""
    page = geometry.page
    if stride <= page:
        return geometry.mask_of(offset // page * page, (offset + (count - 1) * stride) // page * page + page, 0)
    mask = 0
    for i in range(count):
        mask |= 1 << (offset + i * stride) // page
    return mask
