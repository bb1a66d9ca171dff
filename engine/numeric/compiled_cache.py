"""The folder of Numba's cache of compiled code. Its name has a digest of the sources of all compiled functions.

Numba checks only the file of the called function, so it would run stale code after a change in another file that this
function calls. Docstrings and comments are not part of the digest: editing them recompiles nothing.
"""

import contextlib
import fcntl
import gc
import grp
import hashlib
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

ENGINE = Path(__file__).parents[1]
COMPILED_PACKAGES = ("numeric", "random", "reclaim", "passes", "huge_pages", "kernel")
NOTE = ".compiled"

refused = ""
"""Message if choose_cache() rejected a folder: which one, why, and the one used instead. Empty otherwise."""


def choose_cache() -> None:
    """Set NUMBA_CACHE_DIR, for this process and its children, to a folder that only this user can write.

    Takes the NUMBA_CACHE_DIR of the environment, else __pycache__ beside the sources if it is writable, else a
    temporary folder. Rejects a folder that another user could write, because code from it will run (see `refused`).
    """
    global refused
    tag = f"ptsweep-{digest_of_sources()}"
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        base = Path(given).absolute()
        base = base.parent if base.name.startswith("ptsweep-") else base
    elif os.access(ENGINE, os.W_OK):
        base = ENGINE / "__pycache__"
    else:
        base = _temporary_folder()
    if not is_private(base / tag):
        other = _temporary_folder()
        refused = f"{base}: another user could write there; compiled code is kept in {other} instead"
        base = other
    os.environ["NUMBA_CACHE_DIR"] = str(base / tag)
    if "numba" in sys.modules:  # it reads its environment only when it is imported
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


def digest_of_sources() -> str:
    """Return a digest, 12 hexadecimal digits, of the byte code (without docstrings) of COMPILED_PACKAGES."""
    digest = hashlib.blake2b(digest_size=6)
    for package in COMPILED_PACKAGES:
        for source in sorted((ENGINE / package).glob("*.py")):
            add_code(digest, compile(source.read_bytes(), source.name, "exec", optimize=2, dont_inherit=True))
    return digest.hexdigest()


def add_code(digest: hashlib.blake2b, code: CodeType) -> None:
    """Update `digest` with the byte code, names and constants, but not with file names and line numbers."""
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            add_code(digest, constant)
        else:
            ordered = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            digest.update(repr(ordered).encode())


def is_private(folder: Path) -> bool:
    """Whether only this user and root can create files in `folder` or replace the folder.

    Checks owner and write permissions of the folder and all its parents, as far as they exist. A parent may be
    writable by all if it has the sticky bit (/tmp). Write permission for the group is accepted if the group is the
    user's own (see _is_own_group).
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        try:
            held = place.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        writable = held.st_mode & stat.S_IWOTH or (held.st_mode & stat.S_IWGRP and not _is_own_group(held.st_gid))
        if held.st_uid not in (0, os.getuid()) or (writable and (place == folder or not held.st_mode & stat.S_ISVTX)):
            return False
    return True


def _is_own_group(group: int) -> bool:
    """Whether this is the user's primary group, has the user's name, and has no other member."""
    with contextlib.suppress(KeyError):
        user, found = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
        return group == user.pw_gid and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}
    return False


def _temporary_folder() -> Path:
    """Return this user's folder for compiled code in the system's temporary folder.

    Creates a new one with a random name if that one is not private to the user.
    """
    folder = Path(tempfile.gettempdir()) / f"ptsweep-numba-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and is_private(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="ptsweep-numba-"))


def cache_folder() -> Path:
    """Return the folder that choose_cache() chose."""
    return Path(os.environ["NUMBA_CACHE_DIR"])


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Lock a kernel while it is compiled or loaded, so that only one process per machine compiles it.

    Afterwards writes the file that is_compiled() looks for. If the folder is not writable there is no lock, and each
    process compiles for itself.
    """
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            file = lock.enter_context((cache_folder() / f"{name}.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        with no_garbage_collection():
            yield
        with contextlib.suppress(OSError):
            (cache_folder() / f"{name}{NOTE}").touch()


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Switch off Python's cyclic garbage collector.

    Numba makes millions of objects that stay alive until a function is compiled. Traversing them takes a tenth of the
    time, and frees next to nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_compiled(name: str) -> bool:
    """Whether the cache folder has the kernel's compiled code."""
    return (cache_folder() / f"{name}{NOTE}").exists()


def is_cold() -> bool:
    """Whether no pass is compiled yet, so that the first batch has to compile for some seconds."""
    return not any(cache_folder().glob(f"walk*{NOTE}"))
