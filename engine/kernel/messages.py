"""Messages between a Runner, its server process and the children: JSON after its length, and arrays as raw bytes."""

import json
import mmap
import socket
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MessageSocket:
    """One end of a stream socket. Reading raises EOFError when the other end is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, **facts: Any) -> None:
        text = json.dumps(facts).encode()
        self.sock.sendall(struct.pack("<I", len(text)) + text)

    def receive(self) -> dict[str, Any]:
        """The next message that send() sent."""
        (length,) = struct.unpack("<I", self.read(4))
        facts: dict[str, Any] = json.loads(self.read(length))
        return facts

    def read(self, length: int) -> bytes:
        """Receive and return exactly `length` bytes. Raises EOFError if the peer closes first."""
        data = bytearray(length)
        self.read_into(memoryview(data))
        return bytes(data)

    def read_into(self, view: memoryview) -> None:
        """Receive bytes from the socket until `view` is full. Raises EOFError if the peer closes first."""
        while len(view):
            count = self.sock.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]

    def read_ranges(self, rows: int) -> NDArray[np.int64]:
        """int64[rows, 2], in a mapping of its own that is populated at once: RES must not grow during measurements."""
        if not rows:
            return np.zeros((0, 2), np.int64)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        memory = mmap.mmap(-1, rows * 16, flags=flags)
        self.read_into(memoryview(memory))
        return np.frombuffer(memory, np.int64).reshape(rows, 2)
