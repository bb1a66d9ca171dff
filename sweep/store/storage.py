"""Storage: a folder of files, in a directory (local_storage.py) or in an object store (object_storage.py).

A file is either not there or complete, whatever happens while it is written. Every error but FileNotFoundError is a
UserError of one line: where, what, what to do.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sweep.common.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a place. `modified_s` is the store's clock; None where it does not tell."""

    name: str
    is_folder: bool
    size: int = 0
    modified_s: float | None = None


class Storage(ABC):
    """A folder. Names in it are plain, or have one slash: `points/part-000001.parquet`."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def __str__(self) -> str:
        """As the user would write it."""

    @abstractmethod
    def child(self, name: str) -> "Storage": ...

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Sorted by name; none where the place is not there."""

    @abstractmethod
    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The whole file. Raises FileNotFoundError; UserError if it is larger than `max_bytes`."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """The file holds this, or what it held before; never a part of it."""

    @abstractmethod
    def move(self, name: str, to: str) -> None: ...

    @abstractmethod
    def delete(self, *names: str) -> None:
        """What is not there is fine."""

    @abstractmethod
    def delete_all(self) -> None: ...

    def has(self, name: str) -> bool:
        head, slash, tail = name.rpartition("/")
        return any(entry.name == tail for entry in (self.child(head) if slash else self).entries())


def check_size(data: bytes, max_bytes: int | None, path: object) -> bytes:
    """`data`, read up to one byte beyond `max_bytes`. UserError if it is larger than that."""
    if max_bytes is not None and len(data) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes >> 20} MiB")
    return data
