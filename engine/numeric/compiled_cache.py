"""Where Numba keeps compiled code between runs: in a folder named after the sources of all compiled functions.

Numba itself looks only at the file of the outermost function: after a change in a file that it calls, stale code would
run. Docstrings and comments do not count, so that editing them compiles nothing.
"""

import contextlib
import fcntl
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
COMPILED_PACKAGES = ("numeric", "random", "reclaim", "kernel")
NOTE = ".compiled"

refused = ""
"""One line: the folder that choose_cache() did not use, why, and the one it uses instead. Empty if there is none."""


def choose_cache() -> None:
    """Set NUMBA_CACHE_DIR for this process and its children: the user's choice, beside the sources, or temporary.

    Code from this folder will run, so a folder in which another user could write is passed over.
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
    if "numba" in sys.modules:  # it has read its environment already
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


def digest_of_sources() -> str:
    """12 hexadecimal digits of the byte code of the packages that hold compiled code, which has no docstrings."""
    digest = hashlib.blake2b(digest_size=6)
    for package in COMPILED_PACKAGES:
        for source in sorted((ENGINE / package).glob("*.py")):
            add_code(digest, compile(source.read_bytes(), source.name, "exec", optimize=2, dont_inherit=True))
    return digest.hexdigest()


def add_code(digest: hashlib.blake2b, code: CodeType) -> None:
    """Add what code does, without where it is written."""
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            add_code(digest, constant)
        else:
            ordered = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            digest.update(repr(ordered).encode())


def is_private(folder: Path) -> bool:
    """Whether only this user and root can put files into `folder`, or put another folder in its place.

    Checks the folder and all above it, as far as they exist: owners, and write permission for group and others. A
    folder for all with the sticky bit (/tmp) may be above it. The user's own group (same name, no other member) counts
    as the user.
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
    with contextlib.suppress(KeyError):
        user, found = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
        return group == user.pw_gid and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}
    return False


def _temporary_folder() -> Path:
    """A folder of this user below the one for temporary files; a new one if another user made or can write that."""
    folder = Path(tempfile.gettempdir()) / f"ptsweep-numba-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and is_private(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="ptsweep-numba-"))


def cache_folder() -> Path:
    return Path(os.environ["NUMBA_CACHE_DIR"])


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Hold the lock under which one process of this machine compiles a kernel; the others wait, then load its code.

    Leaves a note that the kernel is compiled. Without a writable folder each process compiles by itself.
    """
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            file = lock.enter_context((cache_folder() / f"{name}.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            (cache_folder() / f"{name}{NOTE}").touch()


def is_compiled(name: str) -> bool:
    """Whether some process of this machine has compiled the kernel."""
    return (cache_folder() / f"{name}{NOTE}").exists()


def is_cold() -> bool:
    """Whether no pass is compiled yet: the first batch will compile for some seconds, once."""
    return not any(cache_folder().glob(f"walk*{NOTE}"))
