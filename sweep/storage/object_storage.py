"""Storage under a prefix of an object store.

An object store has no rename and needs none: an object appears when its put is complete. Only schemes of stores that
are known to guarantee this are accepted.

S3, Google and Azure come with pyarrow, which is needed anyway: no package has to be installed for them, and its retries
and connections are native code. fsspec opens the stores that pyarrow does not know, once their package is installed.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from sweep.common.errors import UserError, one_line
from sweep.storage.parallel import OBJECT_REQUESTS
from sweep.storage.storage import Entry, Storage, check_size

T = TypeVar("T")

ARROW = ("s3", "gs", "gcs", "abfs", "abfss")
FSSPEC = ("s3a", "az", "adl", "oci", "oss", "obs", "cos", "tos", "memory")
_OPTIONS = {"s3": ("region", "scheme", "endpoint_override"), "gs": ("endpoint_override", "scheme")}
PATIENCE_S = 60.0
"""A request that fails is repeated for so long. Each time, the SDK itself makes up to three attempts."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_PERMANENT_ERRORS = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "INVALID_ACCESS_KEY",
    "SIGNATURE",
    "InvalidAccessKey",
    "TOKEN",
    "HTTP 403",
)


@dataclass(frozen=True, slots=True)
class ObjectStorage(Storage):
    """The objects under `path`, which begins with the bucket. `filesystem`: a pyarrow.fs.FileSystem."""

    scheme: str
    filesystem: Any
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def child(self, name: str) -> "ObjectStorage":
        return ObjectStorage(self.scheme, self.filesystem, f"{self.path}/{name}")

    def entries(self) -> list[Entry]:
        from pyarrow.fs import FileSelector, FileType

        try:
            infos = self._retry(
                "", lambda: self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
            )
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

        return check_size(self._retry(name, get), max_bytes, f"{self}/{name}")

    def put(self, name: str, data: bytes) -> None:
        path = f"{self.path}/{name}"

        def write() -> None:
            if self.filesystem.type_name.startswith("py::"):  # fsspec's files may be seen while they grow
                self.filesystem.handler.fs.pipe_file(path, data)
                return
            with self.filesystem.open_output_stream(path, compression=None) as stream:
                stream.write(data)

        self._retry(name, write)

    def move(self, name: str, to: str) -> None:
        self.put(to, self.read(name))
        self.delete(name)

    def delete(self, *names: str) -> None:
        for name in names:
            try:
                self._retry(name, partial(self.filesystem.delete_file, f"{self.path}/{name}"))
            except FileNotFoundError:
                continue

    def delete_all(self) -> None:
        try:
            self._retry("", lambda: self.filesystem.delete_dir(self.path))
        except FileNotFoundError:
            return

    def _retry(self, name: str, act: Callable[[], T]) -> T:
        """Return `act()`, repeated for PATIENCE_S if it fails. Raises FileNotFoundError at once, else UserError."""
        end, pause_s = time.monotonic() + PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                return act()
            except FileNotFoundError:
                raise
            except Exception as error:  # fsspec's stores each raise errors of their own
                is_permanent = isinstance(error, PermissionError) or any(
                    word in str(error) for word in _PERMANENT_ERRORS
                )
                if is_permanent or time.monotonic() + pause_s > end:
                    raise UserError(f"{self}{'/' * bool(name)}{name}: {_first_line(error, is_permanent)}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def object_storage(scheme: str, wanted: str) -> ObjectStorage:
    uri = urlsplit(wanted)
    where = f"{scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}"
    if "@" in uri.netloc and (scheme[:4] != "abfs" or ":" in uri.netloc.rpartition("@")[0]):
        raise UserError(f"--results {where}: no user or password in a URI; credentials come from the environment")
    options = dict(parse_qsl(uri.query, keep_blank_values=True))
    known = _OPTIONS.get("gs" if scheme == "gcs" else scheme, ())
    for option in options:
        if option not in known:
            allowed = f"allowed: {', '.join(known)}" if known else "none is allowed"
            raise UserError(f"--results {where}: option {one_line(option)!r} in a URI: {allowed}")
    path = f"{uri.netloc}{uri.path}".rstrip("/")
    if not uri.netloc or "//" in path or uri.fragment or any(part in (".", "..") for part in path.split("/")):
        raise UserError(f"--results {where}: not a bucket and a prefix, such as {scheme}://bucket/results")
    try:
        if scheme.startswith("abfs"):
            from pyarrow.fs import FileSystem

            return ObjectStorage(scheme, *FileSystem.from_uri(f"{scheme}://{path}"))
        return ObjectStorage(scheme, _filesystem(scheme, options), path)
    except ImportError as error:
        raise UserError(f"--results {where}: needs the package that reads {scheme}:// ({error}); install it") from error
    except (OSError, ValueError) as error:
        raise UserError(f"--results {where}: {_first_line(error, is_permanent=True)}") from error


def _filesystem(scheme: str, options: dict[str, str]) -> Any:
    """The pyarrow filesystem of a scheme. Keys, endpoint and region come from the SDK's usual variables and files."""
    import pyarrow
    from pyarrow import fs

    pyarrow.set_io_thread_count(max(OBJECT_REQUESTS, pyarrow.io_thread_count()))  # 8 by default: others would wait
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        there, _, endpoint = endpoint.rpartition("://")
        given = {"endpoint_override": endpoint, "scheme": there or "https"} if endpoint else {}
        # allow_delayed_open: without it a put of a small file is three requests instead of one.
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


def _first_line(error: BaseException, is_permanent: bool) -> str:
    """The first line of an SDK's error, without the request's number, and a remedy."""
    text = one_line(str(error).partition(" (Request ID")[0] or type(error).__name__, 200)
    return f"{text}; " + (
        "look at the bucket's name and the credentials in the environment"
        if is_permanent
        else "launch again when the store answers: what was committed is kept"
    )
