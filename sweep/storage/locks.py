"""Locks of runs: one process at a time writes a run, whether in a directory or in an object store."""

from sweep.storage import directory_lock, lease
from sweep.storage.local_storage import LocalStorage
from sweep.storage.object_storage import ObjectStorage
from sweep.storage.run_lock import RunLock
from sweep.storage.storage import Storage


def acquire(run: Storage) -> RunLock:
    """Lock the run until `release` or the end of the process. UserError names the holder if another has it."""
    if isinstance(run, LocalStorage):
        return directory_lock.DirectoryLock(run.path)
    assert isinstance(run, ObjectStorage)
    return lease.Lease(run)


def shows_all_holders(run: Storage, host: str) -> bool:
    """Whether `holder` finds every process that may write the run; `host`: that of its last launch."""
    return not isinstance(run, LocalStorage) or directory_lock.shows_all_holders(run.path, host)


def holder(run: Storage) -> str | None:
    """The process that writes the run, such as `process 123 on HOST`; None if there is none."""
    return directory_lock.holder(run.path) if isinstance(run, LocalStorage) else lease.holder(run)
