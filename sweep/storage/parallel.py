"""Several requests to a storage at the same time: in an object store each may take a third of a second."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sweep.storage.local_storage import LocalStorage
from sweep.storage.storage import Storage

T = TypeVar("T")
R = TypeVar("R")

OBJECT_REQUESTS = 24
"""Concurrent requests to an object store; Arrow's S3 client has 25 connections. Local files: as many as CPUs."""
FEW_FILES = 8
"""Fewer local files are not worth the threads."""


def in_parallel(storage: Storage, request: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`request` of each item, in order; those of one storage at the same time. Raises the first error."""
    is_local = isinstance(storage, LocalStorage)
    if len(items) < (FEW_FILES if is_local else 2):
        return list(map(request, items))
    requests = (os.cpu_count() or 1) if is_local else OBJECT_REQUESTS
    with ThreadPoolExecutor(min(requests, len(items))) as pool:
        return list(pool.map(request, items))
