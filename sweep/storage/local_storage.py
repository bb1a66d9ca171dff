"""Storage in a directory. A file is written under a temporary name, synced, and renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sweep.common import atomic_write
from sweep.common.errors import DamagedError, UserError
from sweep.common.text_lines import open_regular_file
from sweep.storage.storage import Entry, Storage, check_size

_ELSEWHERE = "give another place with --results"
_REMEDY = {
    errno.ENOSPC: "free some space and launch again: what was committed is kept",
    errno.EDQUOT: "free some space and launch again: what was committed is kept",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: f"change its permissions, or {_ELSEWHERE}",
    errno.EPERM: f"change its permissions, or {_ELSEWHERE}",
    errno.EIO: "the disk fails; look at the kernel's log",
    errno.ENOTDIR: "the store needs a directory there: move what stands in its place away",
    errno.EEXIST: "the store needs a directory there: move what stands in its place away",
    errno.ENAMETOOLONG: _ELSEWHERE,
}

_DAMAGED = (errno.EIO, errno.EINVAL, errno.EISDIR)
"""Errors of reading a file that concern only this file: a bad sector, a pipe or directory in its place."""


@dataclass(frozen=True, slots=True)
class LocalStorage(Storage):
    """The directory `path`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> "LocalStorage":
        return LocalStorage(self.path / name)

    def entries(self) -> list[Entry]:
        with os_errors_as_user_errors(self.path):
            try:
                with os.scandir(self.path) as found:
                    entries = [entry for file in found if (entry := _entry(file))]
                return sorted(entries, key=lambda entry: entry.name)
            except FileNotFoundError:
                return []

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        path = self.path / name
        with os_errors_as_user_errors(path):
            try:
                with open_regular_file(str(path)) as file:
                    return check_size(file.read(-1 if max_bytes is None else max_bytes + 1), max_bytes, path)
            except OSError as error:
                if error.errno in _DAMAGED:
                    raise DamagedError(f"{path}: {error.strerror}") from error
                raise

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        with os_errors_as_user_errors(path):
            try:
                self._put(path, data)
            except FileNotFoundError:
                make_folder(path.parent)
                self._put(path, data)

    def move(self, name: str, to: str) -> None:
        source, target = self.path / name, self.path / to
        with os_errors_as_user_errors(source):
            atomic_write.sync(source)
        make_folder(target.parent)
        with os_errors_as_user_errors(target):
            source.rename(target)
            atomic_write.sync(target.parent)

    def delete(self, *names: str) -> None:
        for name in names:
            with os_errors_as_user_errors(self.path / name):
                (self.path / name).unlink(missing_ok=True)

    def delete_all(self) -> None:
        """A link is deleted, and not what it names."""
        with os_errors_as_user_errors(self.path), suppress(FileNotFoundError):
            if self.path.is_symlink() or not self.path.is_dir():
                self.path.unlink()
            else:
                shutil.rmtree(self.path)

    def _put(self, path: Path, data: bytes) -> None:
        with atomic_write.replacing(path) as temporary:
            temporary.write_bytes(data)


def make_folder(path: Path) -> None:
    """Make a directory and those above it, if need be. UserError names the first that is something else."""
    with os_errors_as_user_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            wrong = next((p for p in (*reversed(path.parents), path) if os.path.lexists(p) and not p.is_dir()), path)
            raise UserError(f"{wrong}: {os.strerror(errno.ENOTDIR)}; {_REMEDY[errno.ENOTDIR]}") from error


def _entry(found: "os.DirEntry[str]") -> Entry | None:
    """None for what is gone by now, and for a link to nothing."""
    try:
        status = found.stat()
    except OSError:
        return None
    return Entry(found.name, found.is_dir(), status.st_size, status.st_mtime)


@contextmanager
def os_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as a UserError: path, reason, remedy. FileNotFoundError is left to the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0)
        what = error.strerror or str(error)
        raise UserError(f"{path}: {what}{'; ' if remedy else ''}{remedy or ''}") from error
