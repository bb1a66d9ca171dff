"""Messages between the runner, its server and the children: JSON with its length before it, and plain arrays."""

import json
import mmap
import socket
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Wire:
    """One end of a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def tell(self, **facts: Any) -> None:
        text = json.dumps(facts).encode()
        self.sock.sendall(struct.pack("<I", len(text)) + text)

    def hear(self) -> dict[str, Any]:
        """Raises EOFError where the other end is gone."""
        (length,) = struct.unpack("<I", self.take(4))
        facts: dict[str, Any] = json.loads(self.take(length))
        return facts

    def take(self, length: int) -> bytes:
        data = bytearray(length)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> None:
        while len(view):
            got = self.sock.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]

    def ranges(self, rows: int) -> NDArray[np.int64]:
        """int64[rows, 2], in pages of its own that are all there before anything is measured."""
        if not rows:
            return np.zeros((0, 2), np.int64)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        room = mmap.mmap(-1, rows * 16, flags=flags)
        self.fill(memoryview(room))
        return np.frombuffer(room, np.int64).reshape(rows, 2)
