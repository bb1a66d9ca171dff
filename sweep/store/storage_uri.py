"""`--results`: a directory, or the URI of a prefix of an object store."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from sweep.common.errors import UserError, one_line, unknown_name
from sweep.store.local_storage import LocalStorage
from sweep.store.object_storage import ARROW, FSSPEC, object_storage
from sweep.store.storage import Storage


def open_storage(wanted: str) -> Storage:
    """What a user wrote for --results. UserError for what is no place, or holds a secret."""
    if not wanted:
        raise UserError("--results: a directory or a URI is required")
    try:
        os.path.abspath(wanted).encode()  # noqa: PTH100 - a text is asked
    except UnicodeEncodeError:
        shown = wanted.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"--results {one_line(shown)}: its full path is not UTF-8; give a directory that is") from None
    if "://" not in wanted:
        return LocalStorage(Path(wanted))
    scheme = wanted.partition("://")[0].lower()
    if scheme == "file":
        return LocalStorage(Path(urlsplit(wanted).path))
    if scheme not in (*ARROW, *FSSPEC):
        why = unknown_name("scheme", scheme, ("file", *ARROW, *FSSPEC))
        raise UserError(
            f"--results: {why}; others show files before they are whole: mount them, and give the directory"
        )
    return object_storage(scheme, wanted)
