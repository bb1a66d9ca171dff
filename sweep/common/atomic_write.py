"""Files that are either not there or whole: written to a dot name beside the target, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the temporary path to write; on a clean exit it becomes `path`, and both file and name are on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        yield temporary
        sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """`path` holds the old text or the new, never a part of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def leave(folder: Path, data: bytes) -> str:
    """The name of a new temporary file in the folder that holds this; whoever gives it another name syncs it."""
    path = folder / f".{uuid4().hex}{_SUFFIX}"
    try:
        path.write_bytes(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path.name


def is_temporary(name: str) -> bool:
    """What a killed writer leaves behind."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def sync(path: Path) -> None:
    """fsync a file, or a directory (which holds the names)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
