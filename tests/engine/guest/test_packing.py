"""What the agent reads: ranges as variable-length numbers, and the archive that it is in."""

import stat
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.guest.initramfs import make_initramfs
from engine.guest.runner import pack_ranges


def unpacked(data: bytes) -> list[tuple[int, int]]:
    """The ranges of a packed array, read as agent.c does."""
    rows, size = struct.unpack_from("<2Q", data)
    numbers: Iterator[int] = iter_numbers(data[16:])
    assert len(data) == 16 + size
    ranges, end = [], 0
    for _ in range(rows):
        distance = next(numbers)
        start = end + (distance >> 1 ^ -(distance & 1))
        end = start + next(numbers)
        ranges.append((start, end))
    return ranges


def iter_numbers(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            yield value
            value = shift = 0


@given(st.lists(st.tuples(st.integers(0, 1 << 36), st.integers(1, 1 << 36)), max_size=40))
def test_packed_ranges_are_the_ranges(pairs: list[tuple[int, int]]) -> None:
    """The agent reads the ranges that were packed, in any order and of any size."""
    ranges = [(start, start + length) for start, length in pairs]
    assert unpacked(pack_ranges(np.array(ranges, np.int64).reshape(-1, 2))) == ranges


def test_adjacent_calls_take_few_bytes() -> None:
    """Calls of 2 MiB one after the other take three bytes each: no distance, and 512 pages."""
    starts = np.arange(1000) * 512
    assert len(pack_ranges(np.stack([starts, starts + 512], axis=1))) == 16 + 1000 * 3


@pytest.mark.parametrize("modules", [(), (b"first", b"second module")])
def test_initramfs_is_a_newc_archive(modules: tuple[bytes, ...]) -> None:
    """Every entry has the magic number, is padded to four bytes, and holds its file; the trailer ends the archive."""
    archive, files, at = make_initramfs(b"program", modules), {}, 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data_at = at + 110 + name_size + -(110 + name_size) % 4
        files[name] = (mode, archive[data_at : data_at + size], tuple(numbers[9:11]))
        at = data_at + size + -size % 4
    assert list(files)[-1] == "TRAILER!!!"
    assert files["init"] == (stat.S_IFREG | 0o755, b"program", (0, 0))
    assert files["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert [files[f"modules/{i}.ko"][1] for i in range(len(modules))] == list(modules)
