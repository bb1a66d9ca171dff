"""DirectoryLock: flock(2) on the file `.lock` of a run's directory, which the kernel releases with its process.

Only users who may write to the run's directory can open that file, since a lock needs no more than to open it. (The
package filelock does the same flock, but cannot tell whether a lock is held without taking it, nor by whom, and a
forked child would keep it.)
"""

import errno
import fcntl
import os
import platform
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path

from sweep.common.errors import UserError, one_line
from sweep.storage.local_storage import os_errors_as_user_errors
from sweep.storage.run_lock import busy_error

LOCK = ".lock"
_PATIENCE_S = 0.5


class DirectoryLock:
    """flock(2) on the file `.lock` of a run's directory, which is made if need be."""

    def __init__(self, run: Path) -> None:
        self._path = path = run / LOCK
        with os_errors_as_user_errors(path):
            try:
                run.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError:  # as in /proc, where nothing can be made
                raise UserError(
                    f"{run.parent}: no directory can be made there; choose another with --results"
                ) from None
            if kind := _odd_kind(path):
                raise UserError(f"{path}: {kind}, which no lock file is; delete it")
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _open_to_writers_only(self._descriptor, run)
            deadline = time.monotonic() + _PATIENCE_S  # a reader holds it for microseconds, to see if it is held
            while not _flock(self._descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise busy_error(run.name, _holder_name(path))
                time.sleep(0.01)
            self.check()
        except BaseException:
            os.close(self._descriptor)
            raise
        _HELD_LOCKS.add(self)
        with os_errors_as_user_errors(path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()} {platform.node()}\n".encode(errors="replace"), 0)

    def check(self) -> None:
        try:
            same = self._path.stat().st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(f"{self._path.parent}: was removed just now; launch again")

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_HELD_LOCKS: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _release_locks() -> None:
    """Release the parent's locks in a forked child, which would otherwise hold them after the parent has ended."""
    for held in list(_HELD_LOCKS):
        held.release()


os.register_at_fork(after_in_child=_release_locks)


def holder(run: Path) -> str | None:
    """The process that holds the lock of a run's directory; None if there is none."""
    path = run / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:  # somebody who may read the run, but not write it
        pid = _locking_pid(path)
        return f"process {pid}" if pid else None
    except OSError:
        return None
    try:
        return None if _flock(descriptor, fcntl.LOCK_SH) else _holder_name(path)
    finally:
        os.close(descriptor)


def shows_all_holders(run: Path, host: str) -> bool:
    """Whether `holder` finds a process of another host too. For that the lock file must be readable."""
    path = run / LOCK
    return host == platform.node() or not path.exists() or os.access(path, os.R_OK)


def _odd_kind(path: Path) -> str:
    """What stands in the lock file's place, such as a link to another file, which would be overwritten; or empty."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    return "a file with another name" if status.st_nlink > 1 else ""


def _open_to_writers_only(descriptor: int, run: Path) -> None:
    """Give the lock file rw for owner, group and others where the run's directory has w for them, and nothing else."""
    writers = run.stat().st_mode & 0o222
    mode = 0o600 | writers | writers << 1
    if os.fstat(descriptor).st_mode & 0o777 != mode:
        with suppress(PermissionError):  # another user's, who shares the directory
            os.fchmod(descriptor, mode)


def _holder_name(path: Path) -> str:
    """`process 123`, `process 123 on HOST`: who holds the lock, as far as that is known."""
    if pid := _locking_pid(path):
        return f"process {pid}"
    try:
        written, _, host = path.read_text(encoding="utf-8", errors="replace").strip().partition(" ")
    except OSError:
        written, host = "", ""
    if host and host != platform.node() and written.isdigit():
        return f"process {one_line(written)} on {one_line(host)}"
    return "another process"


def _locking_pid(path: Path) -> int | None:
    """The process of this machine that holds the flock (proc_locks(5)); None if there is none, or it is not known."""
    try:
        file = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    number = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in lines:
        words = line.split()
        if words[1] == "FLOCK" and number in words and int(words[4]) > 0:
            return int(words[4])
    return None


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise UserError(f"the file system of the results cannot lock files ({error.strerror})") from error
    return True
