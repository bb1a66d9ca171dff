"""Ray's directories. A private one is locked while its launch lives; the next launch clears away a killed one's."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = "sweep-ray-"
LONGEST_BASE = 40
"""Ray's sockets lie some 60 characters below its directory, and a socket's path has at most 107 (unix(7))."""


def make() -> tuple[Path, int]:
    """The directory, and the descriptor that holds it until this process ends, however it does."""
    home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))
    held = os.open(home / "new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    (home / "new").rename(home / "held")
    return home, held


def remove_strays() -> None:
    """What launches left that were killed: their Ray's directories, and processes, which would live another minute."""
    strays = [str(home) for home in Path(_base()).glob(f"{PREFIX}*") if _is_stray(home)]
    for process in psutil.process_iter(["cmdline"]) if strays else ():
        words = " ".join(process.info["cmdline"] or ())
        if any(f"{stray}/" in words for stray in strays):
            with contextlib.suppress(psutil.Error):
                process.kill()
    for stray in strays:
        shutil.rmtree(stray, ignore_errors=True)


def is_of_a_job(path: Path) -> bool:
    """Whether it lies where Ray unpacks a job's working directory (ray._private.runtime_env.working_dir)."""
    return "/runtime_resources/working_dir_files/" in str(path.absolute())


def _base() -> str:
    base = tempfile.gettempdir()
    return base if len(base) <= LONGEST_BASE else "/tmp"


def _is_stray(home: Path) -> bool:
    """Ours, made whole, and held by nobody."""
    try:
        if home.is_symlink() or home.stat().st_uid != os.getuid():
            return False
        held = os.open(home / "held", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(held)
    return True
