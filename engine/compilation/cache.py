"""Where compiled code is kept between runs: in a folder named after all of engine's sources.

Numba looks only at the file of the outermost function: a change in a file that it calls would go unseen and stale
code would run.
"""

import contextlib
import fcntl
import grp
import hashlib
import os
import pwd
import re
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ENGINE = Path(__file__).parents[1]
HASH = 16
IMPORTS = re.compile(r"^from (engine[.\w]*) import (?:\(([^)]*)\)|(.+))", re.MULTILINE)

refused = ""
"""One line: the folder that choose_cache() did not use, why, and the one it uses instead. Empty if there is none."""


def choose_cache() -> None:
    """Set NUMBA_CACHE_DIR for this process and its children: the user's choice, beside the sources, or temporary.

    Code from this folder will run, so a folder in which another user could write is passed over.
    """
    global refused
    digest = hashlib.blake2b(digest_size=6)
    for source in sorted(ENGINE.rglob("*.py")):
        digest.update(source.read_bytes())
    tag = f"ptsweep-{digest.hexdigest()}"
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


def is_cold() -> bool:
    """No kernel compiled yet: the first batch will compile, once, for some seconds."""
    return not any(cache_folder().glob("walk*.o"))  # not the CDFs' code, which takes no time


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What `make` makes. One process of a machine makes it and keeps it in the file; the others wait and read that.

    The file begins with its hash: one that is damaged is made anew, as damaged code would end the process.
    """
    found = whole(path)
    if found is not None:
        return found
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # no folder, no cache: each makes its own
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(path.with_name(f"{path.name}.lock").open("w")), fcntl.LOCK_EX)
            found = whole(path)  # somebody made it meanwhile
        if found is None:
            found = make()
            _keep(path, found)
    return found


def whole(path: Path) -> bytes | None:
    """What was kept in a file; None if it is not there, or not what was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data[HASH:] if _hash(data[HASH:]) == data[:HASH] else None


def _keep(path: Path, data: bytes) -> None:
    """Whole, or not at all: on a full disk, or without a folder, each process makes its own."""
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_hash(data) + data)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink()


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH).digest()


def sources_of(module: str) -> list[Path]:
    """The files of a module of engine and of all modules of engine that it imports, sorted."""
    found, todo = set[Path](), {_file(module)}
    while todo:
        path = todo.pop()
        found.add(path)
        for package, several, one in IMPORTS.findall(path.read_text()):
            names = re.findall(r"(\w+)(?: as \w+)?", several or one)
            imported = [_file(package), *(_file(f"{package}.{name}") for name in names)]
            todo |= {file for file in imported if file.exists()} - found
    return sorted(found)


def _file(module: str) -> Path:
    """Where the source of `engine.a.b` is, if that is a module and not a package or a name in one."""
    return ENGINE.parent.joinpath(*module.split(".")).with_suffix(".py")
