"""`--results`: a directory, or the URI of a prefix of an object store."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from sweep.common.errors import UserError, one_line, unknown_name
from sweep.storage.local_storage import LocalStorage
from sweep.storage.object_storage import ARROW, FSSPEC, object_storage
from sweep.storage.storage import Storage


def open_storage(uri: str) -> Storage:
    """The storage at a directory or URI. UserError if it is neither, or contains a secret."""
    if not uri:
        raise UserError("--results: a directory or a URI is required")
    try:
        os.path.abspath(uri).encode()  # noqa: PTH100 - a text is asked
    except UnicodeEncodeError:
        shown = uri.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"--results {one_line(shown)}: its full path is not UTF-8; give a directory that is") from None
    if "://" not in uri:
        return LocalStorage(Path(uri))
    scheme = uri.partition("://")[0].lower()
    if scheme == "file":
        return LocalStorage(Path(urlsplit(uri).path))
    if scheme not in (*ARROW, *FSSPEC):
        why = unknown_name("scheme", scheme, ("file", *ARROW, *FSSPEC))
        raise UserError(
            f"--results: {why}; others show files before they are whole: mount them, and give the directory"
        )
    return object_storage(scheme, uri)
