"""Locks of runs in directories."""

import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.common.errors import UserError
from sweep.storage import directory_lock, locks
from sweep.storage.local_storage import LocalStorage
from sweep.store.store import Store
from tests.support.small_stores import has_ok, opened

HOLD = """
import sys, time
from pathlib import Path
from tests.support.small_stores import commit, opened
writer = opened(Path(sys.argv[1]))
commit(writer, 0, 3)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Callable[[], "subprocess.Popen[str]"]:
    """A function that starts a process which writes a run and then waits."""

    def start() -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    return start


def test_one_writer_a_run(
    tmp_path: Path, other: Callable[[], "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second writer gets one line with the pid, readers go on, and the run of a killed writer can be resumed."""
    process = other()
    try:
        store = Store(tmp_path)
        assert (store.find("last").status, store.find("last").ok) == ("running", 3)
        with pytest.raises(UserError, match=rf"is being written by process {process.pid}"):
            opened(tmp_path)
        with pytest.raises(UserError, match=rf"is being written by process {process.pid}; stop it first"):
            store.remove("first")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.find("last").status == "interrupted"
    with monkeypatch.context() as patch:  # somebody who may not open the lock file, here and on another machine
        patch.setattr(os, "access", lambda *_: False)
        for host, status in ((store.find("last").host, "interrupted"), ("elsewhere", "unknown")):
            patch.setattr(platform, "node", lambda host=host: host)
            assert store.find("last").status == status
    with opened(tmp_path) as writer:
        assert has_ok(writer, range(4)) == [True, True, True, False]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A forked child that outlives its parent does not keep the run locked."""
    writer = opened(tmp_path)
    ours, childs = socket.socketpair()
    child = os.fork()
    if not child:
        childs.send(b"forked")
        childs.recv(1)
        os._exit(0)
    try:
        assert ours.recv(6) == b"forked"
        assert locks.holder(LocalStorage(tmp_path / writer.run_id)) == f"process {os.getpid()}"
        writer.close()
        assert locks.holder(LocalStorage(tmp_path / writer.run_id)) is None
        opened(tmp_path).close()
    finally:
        ours.send(b".")
        os.waitpid(child, 0)
        ours.close()
        childs.close()


@pytest.mark.parametrize(("directory", "lock"), [(0o755, 0o600), (0o775, 0o660), (0o777, 0o666), (0o700, 0o600)])
def test_only_who_may_write_may_lock(tmp_path: Path, directory: int, lock: int) -> None:
    """The lock file can be opened only by users who may write to the run's directory."""
    run = tmp_path / "first-0123abcd"
    run.mkdir()
    run.chmod(directory)
    (run / directory_lock.LOCK).touch(0o644)
    opened(tmp_path).close()
    assert (run / directory_lock.LOCK).stat().st_mode & 0o777 == lock


def test_who_may_only_read_sees_that_a_run_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """holder() finds the writer without permission to open the lock file."""
    real = os.open

    def forbidden(path: str | Path, *how: int) -> int:
        if Path(path).name == directory_lock.LOCK:
            raise PermissionError(13, "Permission denied")
        return real(path, *how)

    with opened(tmp_path) as writer:
        run = LocalStorage(tmp_path / writer.run_id)
        monkeypatch.setattr(os, "open", forbidden)
        assert locks.holder(run) == f"process {os.getpid()}"
        monkeypatch.undo()
    monkeypatch.setattr(os, "open", forbidden)
    assert locks.holder(run) is None


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("99999999 elsewhere", "process 99999999 on elsewhere;"),
        ("99999999", "another process;"),
        ("", "another process;"),
    ],
)
def test_a_process_is_named_only_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, told: str
) -> None:
    """If the kernel does not show the holder, a process is named only if its host is in the file."""
    monkeypatch.setattr(directory_lock, "_locking_pid", lambda path: None)
    with opened(tmp_path) as writer:
        (tmp_path / writer.run_id / directory_lock.LOCK).write_text(written)
        with pytest.raises(UserError, match=f"is being written by {told}"):
            opened(tmp_path)


def test_a_lock_file_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """Else anybody who may write to a shared store could have another's launch overwrite any file of theirs."""
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    mode = precious.stat().st_mode
    run = tmp_path / "results" / "first-0123abcd"
    run.mkdir(parents=True)
    (run / directory_lock.LOCK).symlink_to(precious)
    with pytest.raises(UserError, match="a symbolic link, which no lock file is; delete it"):
        opened(tmp_path / "results")
    assert directory_lock.holder(run) is None
    assert (precious.read_text(), precious.stat().st_mode) == ("years of work", mode)
