"""Reads the memory of a traced thread: the structures that its system calls point to."""

import struct
from pathlib import Path

from sweep.record.call_numbers import I386
from sweep.record.tracer import TracedCall

_MOST_RANGES = 1024  # UIO_MAXIOV
_MOST_NODES_BYTES = 128
_CLONE_ARGS_FLAGS = struct.Struct("=Q")  # the first member of struct clone_args


def clone_flags(thread: int, call: TracedCall) -> int:
    """The CLONE_ bits of a call that starts a thread or process. Raises OSError."""
    if call.name == "fork":
        return 0
    if call.name == "vfork":
        return 0x4100  # CLONE_VFORK | CLONE_VM
    if call.name == "clone3":
        return int(_CLONE_ARGS_FLAGS.unpack(_read(thread, call.arguments[0], _CLONE_ARGS_FLAGS.size))[0])
    return call.arguments[0]


def advised_ranges(thread: int, call: TracedCall) -> list[tuple[int, int]]:
    """(start, length) of the vector of process_madvise. Raises OSError."""
    _, vector, count, *_ = call.arguments
    entry = struct.Struct("=II" if call.architecture == I386 else "=QQ")
    data = _read(thread, vector, entry.size * min(count, _MOST_RANGES))
    return list(entry.iter_unpack(data))


def memory_policy(thread: int, call: TracedCall) -> list[str]:
    """The mode of mbind and, if there are any, its nodes, in one word, as they distinguish policies. Raises OSError."""
    _, _, mode, nodes, most, *_ = call.arguments
    size = min(-(-most // 64) * 8, _MOST_NODES_BYTES) if nodes else 0
    mask = int.from_bytes(_read(thread, nodes, size), "little") if size else 0
    return [hex(mode) if not mask else f"{mode:#x}:{mask:#x}"]


def _read(thread: int, address: int, size: int) -> bytes:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        data = memory.read(size)
    if len(data) != size:
        raise OSError
    return data
