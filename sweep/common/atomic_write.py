"""Atomic writes: a file is written under a temporary name beside its target, synced, and renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` if the block ends without an error, else deleted.

    File and directory are synced, so that both survive a power failure. Nobody can foresee the temporary
    name, to put a symbolic link there.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}{_SUFFIX}")
    try:
        yield temporary
        sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """`replacing` for a file that a user names: a pipe or a device is written to, and a link keeps its target."""
    if path.exists() and not path.is_file():
        yield path
        return
    with replacing(path.resolve()) as temporary:
        yield temporary


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8. Readers see the old text or the new one, never a part."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def leave(folder: Path, data: bytes) -> str:
    """Write `data` to a new temporary file in the folder. Returns its name. It is not synced: a rename must do that."""
    path = folder / f".{uuid4().hex}{_SUFFIX}"
    try:
        path.write_bytes(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path.name


def is_temporary(name: str) -> bool:
    """Whether this is the name of a temporary file, such as a killed process leaves."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def sync(path: Path) -> None:
    """fsync a file, or a directory, which has the names of its files. What cannot be synced, such as a pipe, is not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in the file's place must not block
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
