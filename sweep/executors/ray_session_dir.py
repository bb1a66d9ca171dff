"""Directories of private Rays. A launch locks its own until it ends; the next launch removes those of killed ones."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = "sweep-ray-"
MAX_BASE_LENGTH = 40
"""Ray's sockets have paths some 60 characters longer than its directory; unix(7) allows 107."""


def create() -> tuple[Path, int]:
    """A new directory, and a descriptor with a lock on its file `held`: the kernel frees it when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))
    lock = os.open(directory / "new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (directory / "new").rename(directory / "held")  # renamed once it is locked: nobody takes it for abandoned before
    return directory, lock


def remove_abandoned() -> None:
    """Kill the Ray processes of launches that were killed, which live another minute, and remove their directories."""
    abandoned = [str(directory) for directory in Path(_base()).glob(f"{PREFIX}*") if _is_abandoned(directory)]
    for process in psutil.process_iter(["cmdline"]) if abandoned else ():
        command = " ".join(process.info["cmdline"] or ())
        if any(f"{directory}/" in command for directory in abandoned):
            with contextlib.suppress(psutil.Error):
                process.kill()
    for directory in abandoned:
        shutil.rmtree(directory, ignore_errors=True)


def is_in_job_folder(path: Path) -> bool:
    """Whether it is inside a job's working directory, which Ray removes (ray._private.runtime_env.working_dir)."""
    return "/runtime_resources/working_dir_files/" in str(path.absolute())


def _base() -> str:
    base = tempfile.gettempdir()
    return base if len(base) <= MAX_BASE_LENGTH else "/tmp"


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
