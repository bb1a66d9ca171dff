"""Storage: a folder of files, in a directory (local_storage.py) or in an object store (object_storage.py).

A file is either not there or complete, whatever happens while it is written. Every error but FileNotFoundError is a
UserError of one line: where, what, what to do.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sweep.common.errors import DamagedError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder in a listing. `modified_s`: Unix time by the store's clock; None if it has none."""

    name: str
    is_folder: bool
    size: int = 0
    modified_s: float | None = None


class Storage(ABC):
    """A folder, which need not exist yet. File names may have one slash: `points/part-000001.parquet`."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def __str__(self) -> str:
        """The path or URI, as a user would write it."""

    @abstractmethod
    def child(self, name: str) -> "Storage":
        """The folder of this name in this folder."""

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Files and folders, sorted by name; none if the folder does not exist."""

    @abstractmethod
    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The whole file. Raises FileNotFoundError; DamagedError if only this file cannot be read, or is larger
        than `max_bytes`."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Create or replace a file. Readers see the old bytes or the new ones, never a part."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Rename a file."""

    @abstractmethod
    def delete(self, *names: str) -> None:
        """Delete files; one that does not exist is ignored."""

    @abstractmethod
    def delete_all(self) -> None:
        """Delete the folder with everything in it; if it does not exist that is ignored."""

    def has(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        head, slash, tail = name.rpartition("/")
        return any(entry.name == tail for entry in (self.child(head) if slash else self).entries())


def check_size(data: bytes, max_bytes: int | None, path: object) -> bytes:
    """`data`, read up to one byte beyond `max_bytes`. DamagedError if it is larger than that."""
    if max_bytes is not None and len(data) > max_bytes:
        raise DamagedError(f"{path}: larger than {max_bytes >> 20} MiB")
    return data
