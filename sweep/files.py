"""Files that are either not there or whole: written to a dot name beside the target, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
