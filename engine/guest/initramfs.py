"""An initramfs with one program: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace)."""

import stat
from collections.abc import Sequence

_TRAILER = "TRAILER!!!"
_CONSOLE = (5, 1)
"""Major and minor number of /dev/console, which the kernel opens for init's standard streams."""


def make_initramfs(init: bytes, modules: Sequence[bytes] = ()) -> bytes:
    """The archive of a root file system whose /init is the given program, with modules as /modules/0.ko and so on.

    It is not compressed, as a kernel may lack the options for that.
    """
    files = [
        ("dev", stat.S_IFDIR | 0o755, b"", (0, 0)),
        ("dev/console", stat.S_IFCHR | 0o600, b"", _CONSOLE),
        ("init", stat.S_IFREG | 0o755, init, (0, 0)),
        ("modules", stat.S_IFDIR | 0o755, b"", (0, 0)),
        *((f"modules/{i}.ko", stat.S_IFREG | 0o644, module, (0, 0)) for i, module in enumerate(modules)),
        (_TRAILER, 0, b"", (0, 0)),
    ]
    return b"".join(_entry(number, *file) for number, file in enumerate(files, 1))


def _entry(number: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    """One file: a header of 13 hexadecimal numbers, its name and its data, each padded to four bytes."""
    path = name.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % value for value in numbers)
    return _padded(header + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
