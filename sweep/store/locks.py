"""Who may write a run: one process at a time.

A directory has flock(2) on its file `.lock`, which the kernel releases with its process. Only users who may write to
the run's directory can open that file, since a lock needs no more than to open it. (The package filelock does the same
flock, but cannot tell whether a lock is held without taking it, nor by whom, and a forked child would keep it.)

An object store has leases: each launch puts an object of its own under `lock/`, puts it again every BEAT_S, and writes
only while no other lease is alive. A lease is dead if its process has ended on this machine, or if it was not put again
for LEASE_S by the store's own clock. Each launch puts its lease before it lists the others, so of two concurrent
launches at least one sees the other, and the lease whose name sorts first wins: no conditional put is needed. A writer
that has lost its lease gets an error before it commits.
"""

import errno
import fcntl
import json
import os
import platform
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from sweep.common.errors import DamagedError, UserError, one_line
from sweep.store.local_storage import LocalStorage, os_errors_as_user_errors
from sweep.store.object_storage import ObjectStorage
from sweep.store.storage import Storage

LOCK = ".lock"
LEASES = "lock"
LEASE_S, BEAT_S, LOOK_S = 30.0, 5.0, 0.5
_PATIENCE_S = 0.5
_MAX_LEASE_BYTES = 1 << 16


class RunLock(Protocol):
    def check(self) -> None:
        """Raise UserError if this process no longer holds the lock."""

    def release(self) -> None:
        """Let others write the run. A second call does nothing."""


def acquire(run: Storage) -> RunLock:
    """Lock the run until `release` or the end of the process. UserError names the holder if another has it."""
    if isinstance(run, LocalStorage):
        return DirectoryLock(run.path)
    assert isinstance(run, ObjectStorage)
    return Lease(run)


def holder(run: Storage) -> str | None:
    """The process that writes the run, such as `process 123 on HOST`; None if there is none.

    In an object store a lease of another machine counts for LEASE_S after its last renewal.
    """
    if isinstance(run, LocalStorage):
        return _holder(run.path)
    for entry in run.child(LEASES).entries():
        recent = entry.modified_s is not None and abs(time.time() - entry.modified_s) < LEASE_S
        claim = _read_lease(run, entry.name)
        if claim and not _is_dead(entry.name, claim) and (recent or claim.get("place") == _machine_id()):
            return _lease_holder(claim)
    return None


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
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _open_to_writers_only(self._descriptor, run)
            deadline = time.monotonic() + _PATIENCE_S  # a reader holds it for microseconds, to see if it is held
            while not _flock(self._descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise _busy(run.name, _holder_name(path))
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


class Lease:
    """A lease: an object under `lock/` that a thread puts again every BEAT_S."""

    def __init__(self, run: ObjectStorage) -> None:
        self._run, self._token = run, uuid4().hex
        self._file = f"{LEASES}/{self._token}"
        self._renewals, self._owner, self._released, self._over = 0, False, False, threading.Event()
        _HELD_LEASES.add(self._token)
        self._put()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        try:
            self._wait_until_alone()
        except BaseException:
            self.release()
            raise
        self._owner = True
        self._put()

    def check(self) -> None:
        names = [entry.name for entry in self._run.child(LEASES).entries()]
        others = [claim for name in names if name != self._token and (claim := _read_lease(self._run, name))]
        if self._token not in names or any(claim["owner"] for claim in others):
            self._over.set()
            raise UserError(
                f"{self._run}: another launch took this run over while the store was out of reach for this one; "
                "what was committed is kept, the rest is for the other"
            )

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        _HELD_LEASES.discard(self._token)
        self._over.set()
        self._thread.join(BEAT_S)
        with suppress(UserError):  # the store cannot be reached: the lease expires
            self._run.delete(self._file)

    def _wait_until_alone(self) -> None:
        """Wait until no other live lease is there. UserError if another launch owns the run or has the better claim."""
        watched: dict[str, tuple[float | None, float]] = {}
        while True:
            now, found = time.monotonic(), {entry.name: entry for entry in self._run.child(LEASES).entries()}
            ours = found.pop(self._token, None)
            ours_s = ours.modified_s if ours else None
            for name, entry in list(found.items()):
                claim = _read_lease(self._run, name)
                stamp, since = watched.get(name, (entry.modified_s, now))
                moved = stamp != entry.modified_s
                watched[name] = (entry.modified_s, now if moved else since)
                if claim is None or _is_dead(name, claim) or self._stale(ours_s, entry.modified_s, now - since):
                    self._run.delete(f"{LEASES}/{name}")
                    del found[name]
                elif moved or claim.get("place") == _machine_id() if claim["owner"] else name < self._token:
                    raise _busy(self._run.name, _lease_holder(claim))
            if not found:
                return
            time.sleep(LOOK_S)

    @staticmethod
    def _stale(ours_s: float | None, theirs_s: float | None, watched_s: float) -> bool:
        """Whether a lease has expired: by the store's clock, if it has one, else by the time we have seen no change.

        ours_s: when our lease was put, at most BEAT_S ago. theirs_s: when the other was. watched_s: since it changed.
        """
        if ours_s is not None and theirs_s is not None and ours_s - theirs_s > LEASE_S:
            return True
        return watched_s > LEASE_S

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                if self._owner and not self._run.has(self._file):
                    return  # another launch has taken over: putting it again would revive it
                self._put()
            except UserError:
                continue  # the store cannot be reached; `check` finds out whether the lease was lost

    def _put(self) -> None:
        self._renewals += 1
        claim = {
            "host": platform.node(),
            "pid": os.getpid(),
            "place": _machine_id(),
            "began": _start_time(os.getpid()),
            "owner": self._owner,
            "beat": self._renewals,
        }
        self._run.put(self._file, json.dumps(claim).encode())


def _read_lease(run: Storage, name: str) -> dict[str, object] | None:
    """The content of a lease; None if it is gone, or is not a lease."""
    try:
        claim = json.loads(run.read(f"{LEASES}/{name}", _MAX_LEASE_BYTES))
    except (FileNotFoundError, DamagedError, ValueError, RecursionError):
        return None
    return claim if isinstance(claim, dict) and isinstance(claim.get("owner"), bool) else None


_HELD_LEASES: set[str] = set()
"""The leases that this process holds."""


def _is_dead(name: str, claim: dict[str, object]) -> bool:
    """Whether the lease's process has ended on this machine, or is this one and has released it."""
    pid = claim.get("pid")
    if not isinstance(pid, int) or claim.get("place") != _machine_id() or not _machine_id():
        return False
    began = _start_time(pid)
    return claim.get("began") != began or (pid == os.getpid() and name not in _HELD_LEASES)


def _lease_holder(claim: dict[str, object]) -> str:
    return one_line(f"process {claim.get('pid', '?')} on {claim.get('host') or '?'}", 100)


def _machine_id() -> str:
    """Identity of this boot of this machine and of this pid namespace; empty if it is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a path
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """Start time of a process in ticks since boot (proc(5)), which tells a reused pid; None if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _busy(name: str, who: str) -> UserError:
    return UserError(f"{name} is being written by {who}; wait for it, or launch with --fresh")


def _holder(run: Path) -> str | None:
    path = run / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:  # somebody who may read the run, but not write it
        pid = _locking_pid(path)
        return f"process {pid}" if pid else None
    except OSError:
        return None
    try:
        return None if _flock(descriptor, fcntl.LOCK_SH) else _holder_name(path)
    finally:
        os.close(descriptor)


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
