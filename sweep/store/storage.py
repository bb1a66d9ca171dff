"""Where a store lies: a directory, or a prefix of an object store (pyarrow.fs, fsspec). A file is there whole or not.

A directory gets temporary name, fsync, rename. An object store has no rename and needs none: a put is seen when it is
whole. That is asked of every store, so only schemes are let in that are known to keep it.
Every error becomes a UserError of one line: where, what, what to do.
"""

import errno
import os
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from sweep.common import atomic_write
from sweep.common.errors import UserError, one_line, unknown_name

T = TypeVar("T")

ARROW = ("s3", "gs", "gcs", "abfs", "abfss")
FSSPEC = ("s3a", "az", "adl", "oci", "oss", "obs", "cos", "tos", "memory")
_OPTIONS = {"s3": ("region", "scheme", "endpoint_override"), "gs": ("endpoint_override", "scheme")}
PATIENCE_S = 60.0
"""So long a request to an object store is tried again; the SDK's own three attempts are one of these."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_HOPELESS = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "INVALID_ACCESS_KEY",
    "SIGNATURE",
    "InvalidAccessKey",
    "TOKEN",
    "HTTP 403",
)
_ELSEWHERE = "give another place with --results"
_REMEDY = {
    errno.ENOSPC: "free some space and launch again: what was committed is kept",
    errno.EDQUOT: "free some space and launch again: what was committed is kept",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: f"change its permissions, or {_ELSEWHERE}",
    errno.EPERM: f"change its permissions, or {_ELSEWHERE}",
    errno.EIO: "the disk fails; look at the kernel's log",
    errno.ENOTDIR: "give the directory of the runs",
    errno.ENAMETOOLONG: _ELSEWHERE,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a place. `modified_s` is the store's clock; None where it does not tell."""

    name: str
    is_place: bool
    size: int = 0
    modified_s: float | None = None


class Place(ABC):
    """A folder. Names in it are plain, or have one slash: `points/part-000001.parquet`."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def __str__(self) -> str:
        """As the user would write it."""

    @abstractmethod
    def child(self, name: str) -> "Place": ...

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Sorted by name; none where the place is not there."""

    @abstractmethod
    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Raises FileNotFoundError, as `open` does; UserError if it is larger than `max_bytes`."""

    @abstractmethod
    def open(self, name: str) -> Any:
        """What Parquet's reader takes. Raises FileNotFoundError, here or when it is read."""

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


@dataclass(frozen=True, slots=True)
class Directory(Place):
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> "Directory":
        return Directory(self.path / name)

    def entries(self) -> list[Entry]:
        with told(self.path):
            try:
                with os.scandir(self.path) as found:
                    return sorted(map(_entry, found), key=lambda entry: entry.name)
            except FileNotFoundError:
                return []

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        path = self.path / name
        # Non-blocking: a named pipe that nobody writes to would wait here for ever.
        with told(path), os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path}: not a regular file")
            return _bounded(file.read(-1 if max_bytes is None else max_bytes + 1), max_bytes, path)

    def open(self, name: str) -> Any:
        return self.path / name

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        with told(path):
            try:
                self._put(path, data)
            except FileNotFoundError:
                path.parent.mkdir(parents=True)
                self._put(path, data)

    def move(self, name: str, to: str) -> None:
        source, target = self.path / name, self.path / to
        with told(source):
            atomic_write.sync(source)
        with told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            atomic_write.sync(target.parent)

    def delete(self, *names: str) -> None:
        for name in names:
            with told(self.path / name):
                (self.path / name).unlink(missing_ok=True)

    def delete_all(self) -> None:
        with told(self.path), suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def _put(self, path: Path, data: bytes) -> None:
        with atomic_write.replacing(path) as temporary:
            temporary.write_bytes(data)


def _entry(found: "os.DirEntry[str]") -> Entry:
    try:
        status = found.stat()
    except OSError:  # gone, or a link to nothing
        return Entry(found.name, is_place=False)
    return Entry(found.name, found.is_dir(), status.st_size, status.st_mtime)


@dataclass(frozen=True, slots=True)
class Bucket(Place):
    """`filesystem` is a pyarrow.fs.FileSystem, `path` begins with the bucket's name."""

    scheme: str
    filesystem: Any
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def child(self, name: str) -> "Bucket":
        return Bucket(self.scheme, self.filesystem, f"{self.path}/{name}")

    def entries(self) -> list[Entry]:
        from pyarrow.fs import FileSelector, FileType

        try:
            infos = self._try("", lambda: self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True)))
        except FileNotFoundError:
            return []
        # An object store may hold an empty object in a folder's own name.
        found = [info for info in infos if info.base_name and info.path.rstrip("/") != self.path]
        return sorted(
            (
                Entry(i.base_name, i.type == FileType.Directory, i.size or 0, i.mtime_ns / 1e9 if i.mtime_ns else None)
                for i in found
            ),
            key=lambda entry: entry.name,
        )

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        def get() -> bytes:
            with self.filesystem.open_input_stream(f"{self.path}/{name}", compression=None) as stream:
                data: bytes = stream.read(None if max_bytes is None else max_bytes + 1)
                return data

        return _bounded(self._try(name, get), max_bytes, f"{self}/{name}")

    def open(self, name: str) -> Any:
        return self._try(name, lambda: self.filesystem.open_input_file(f"{self.path}/{name}"))

    def put(self, name: str, data: bytes) -> None:
        path = f"{self.path}/{name}"

        def whole() -> None:
            if self.filesystem.type_name.startswith("py::"):  # fsspec's files may be seen while they grow
                self.filesystem.handler.fs.pipe_file(path, data)
                return
            with self.filesystem.open_output_stream(path, compression=None) as stream:
                stream.write(data)

        self._try(name, whole)

    def move(self, name: str, to: str) -> None:
        self.put(to, self.read(name))
        self.delete(name)

    def delete(self, *names: str) -> None:
        for name in names:
            try:
                self._try(name, partial(self.filesystem.delete_file, f"{self.path}/{name}"))
            except FileNotFoundError:
                continue

    def delete_all(self) -> None:
        try:
            self._try("", lambda: self.filesystem.delete_dir(self.path))
        except FileNotFoundError:
            return

    def _try(self, name: str, act: Callable[[], T]) -> T:
        """Again and again for a minute, as a store may be overloaded, out of reach, or starting anew."""
        end, pause_s = time.monotonic() + PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                return act()
            except FileNotFoundError:
                raise
            except Exception as error:  # fsspec's stores each raise errors of their own
                hopeless = isinstance(error, PermissionError) or any(word in str(error) for word in _HOPELESS)
                if hopeless or time.monotonic() + pause_s > end:
                    raise UserError(f"{self}{'/' * bool(name)}{name}: {_short(error, hopeless)}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _bounded(data: bytes, max_bytes: int | None, path: object) -> bytes:
    if max_bytes is not None and len(data) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes >> 20} MiB")
    return data


class told:  # noqa: N801 - reads as a word of the `with` line
    """Turns an OSError into a UserError; a file that is not there is the caller's to judge."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            what = error.strerror or str(error)
            remedy = _REMEDY.get(error.errno or 0)
            raise UserError(f"{self._path}: {what}{'; ' if remedy else ''}{remedy or ''}") from error


def place_at(wanted: str) -> Place:
    """What a user wrote for --results. UserError for what is no place, or holds a secret."""
    if not wanted:
        raise UserError("--results: a directory or a URI is required")
    try:
        os.path.abspath(wanted).encode()  # noqa: PTH100 - a text is asked
    except UnicodeEncodeError:
        shown = wanted.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"--results {one_line(shown)}: its full path is not UTF-8; give a directory that is") from None
    if "://" not in wanted:
        return Directory(Path(wanted))
    scheme = wanted.partition("://")[0].lower()
    if scheme == "file":
        return Directory(Path(urlsplit(wanted).path))
    if scheme not in (*ARROW, *FSSPEC):
        why = unknown_name("scheme", scheme, ("file", *ARROW, *FSSPEC))
        raise UserError(
            f"--results: {why}; others show files before they are whole: mount them, and give the directory"
        )
    return _bucket(scheme, wanted)


def _bucket(scheme: str, wanted: str) -> Bucket:
    uri = urlsplit(wanted)
    where = f"{scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}"
    if "@" in uri.netloc and (scheme[:4] != "abfs" or ":" in uri.netloc.rpartition("@")[0]):
        raise UserError(f"--results {where}: no user or password in a URI; credentials come from the environment")
    options = dict(parse_qsl(uri.query, keep_blank_values=True))
    known = _OPTIONS.get("gs" if scheme == "gcs" else scheme, ())
    for option in options:
        if option not in known:
            told_of = f"allowed: {', '.join(known)}" if known else "none is allowed"
            raise UserError(f"--results {where}: option {one_line(option)!r} in a URI: {told_of}")
    path = f"{uri.netloc}{uri.path}".rstrip("/")
    if not uri.netloc or "//" in path or uri.fragment or any(part in (".", "..") for part in path.split("/")):
        raise UserError(f"--results {where}: not a bucket and a prefix, such as {scheme}://bucket/results")
    try:
        if scheme.startswith("abfs"):
            from pyarrow.fs import FileSystem

            return Bucket(scheme, *FileSystem.from_uri(f"{scheme}://{path}"))
        return Bucket(scheme, _filesystem(scheme, options), path)
    except ImportError as error:
        raise UserError(f"--results {where}: needs the package that reads {scheme}:// ({error}); install it") from error
    except (OSError, ValueError) as error:
        raise UserError(f"--results {where}: {_short(error, hopeless=True)}") from error


def _filesystem(scheme: str, options: dict[str, str]) -> Any:
    """A pyarrow filesystem; keys, endpoint and region from the usual variables and files of its SDK."""
    from pyarrow import fs

    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        there, _, endpoint = endpoint.rpartition("://")
        given = {"endpoint_override": endpoint, "scheme": there or "https"} if endpoint else {}
        # Delayed: without it each put asks first, and a small file is three requests instead of one.
        return fs.S3FileSystem(
            **{**given, **options},
            connect_timeout=5,
            request_timeout=20,
            allow_delayed_open=True,
            background_writes=False,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
    if scheme in ("gs", "gcs"):
        return fs.GcsFileSystem(**options)
    import fsspec

    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))


def _short(error: BaseException, hopeless: bool) -> str:
    """The first line of what an SDK says, without its request's number, and what to do."""
    text = one_line(str(error).partition(" (Request ID")[0] or type(error).__name__, 200)
    return f"{text}; " + (
        "look at the bucket's name and the credentials in the environment"
        if hopeless
        else "launch again when the store answers: what was committed is kept"
    )
