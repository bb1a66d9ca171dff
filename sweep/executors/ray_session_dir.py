"""Directories of private Rays. A launch locks its own until it ends; the next command removes those of killed ones."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

PREFIX, SESSION = "sweep-ray-", "session"
KILL_S = 5.0
MAX_ROUNDS = 3
MAX_BASE_LENGTH = 40
"""Ray's sockets have paths some 60 characters longer than its directory; unix(7) allows 107."""


def create() -> tuple[Path, int]:
    """A new directory, and a descriptor with a lock on its file `held`: the kernel frees it when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))
    lock = os.open(directory / "new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (directory / "new").rename(directory / "held")  # renamed once it is locked: nobody takes it for abandoned before
    return directory, lock


def note_session(directory: Path, session: int) -> None:
    """Note the session (setsid(2)) of the Ray that is about to start in this directory."""
    (directory / SESSION).write_text(str(session))


def ray_directory(directory: Path) -> Path:
    """Ray's own part of a directory, which Ray opens to everybody."""
    return directory / "r"


def remove_abandoned() -> None:
    """Kill the Ray processes of launches that were killed, which live another minute, and remove their directories."""
    with contextlib.suppress(OSError):
        for directory in Path(_base()).glob(f"{PREFIX}*"):
            if _is_abandoned(directory):
                remove(directory)


def remove(directory: Path) -> None:
    """Kill all processes of the private Ray in this directory, and delete it."""
    import psutil  # only here: every command looks for abandoned directories, and few find one

    for _ in range(MAX_ROUNDS):  # a process that is being killed may start one more
        processes = _processes_of(directory)
        if not processes:
            break
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=KILL_S)
    shutil.rmtree(directory, ignore_errors=True)


def _processes_of(directory: Path) -> "list[psutil.Process]":
    """The processes of the private Ray in this directory."""
    import psutil

    try:
        session = int((directory / SESSION).read_text())
    except (OSError, ValueError):
        return []
    return [process for process in psutil.process_iter() if _is_in(process, session, f"{directory}{os.sep}")]


def _is_in(process: "psutil.Process", session: int, prefix: str) -> bool:
    """Whether a process is in the session and has the prefix in its command or in the path of an open file.

    Both: the session's number may have been used again. Some of Ray's processes rename themselves, which overwrites
    their command and environment.
    """
    import psutil

    try:
        return os.getsid(process.pid) == session and (
            prefix in " ".join(process.cmdline()) or any(file.path.startswith(prefix) for file in process.open_files())
        )
    except (psutil.Error, OSError):
        return False


def is_in_job_folder(path: Path) -> bool:
    """Whether it is inside a job's working directory, which Ray removes (ray._private.runtime_env.working_dir)."""
    return "/runtime_resources/working_dir_files/" in str(path.absolute())


def _base() -> str:
    base = tempfile.gettempdir()
    return base if len(base) <= MAX_BASE_LENGTH and re.fullmatch(r"[\w./+-]+", base) else "/tmp"


def _is_abandoned(directory: Path) -> bool:
    """Whether this user made it, it was finished, and no process holds its lock."""
    try:
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            return False
        lock = os.open(directory / "held", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
