"""Lease: the lock of a run in an object store.

Each launch puts an object of its own under `lock/`, puts it again every BEAT_S, and writes only while no other lease is
alive. A lease is dead if its process has ended on this machine, or if it was not put again for LEASE_S by the store's
own clock. Each launch puts its lease before it lists the others, so of two concurrent launches at least one sees the
other, and the lease whose name sorts first wins: no conditional put is needed. A writer that has lost its lease gets an
error before it commits.
"""

import json
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from sweep.common.errors import DamagedError, UserError, one_line
from sweep.storage.object_storage import ObjectStorage
from sweep.storage.run_lock import busy_error
from sweep.storage.storage import Storage

LEASES = "lock"
LEASE_S, BEAT_S, LOOK_S = 30.0, 5.0, 0.5
_MAX_LEASE_BYTES = 1 << 16


def holder(run: Storage) -> str | None:
    """The process that holds a lease of the run; None if there is none.

    A lease of another machine counts for LEASE_S after its last renewal.
    """
    for entry in run.child(LEASES).entries():
        recent = entry.modified_s is not None and abs(time.time() - entry.modified_s) < LEASE_S
        claim = _read_lease(run, entry.name)
        if claim and not _is_dead(entry.name, claim) and (recent or claim.get("place") == _machine_id()):
            return _lease_holder(claim)
    return None


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
                "what was committed is kept, and the other launch runs the rest"
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
                    raise busy_error(self._run.name, _lease_holder(claim))
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
