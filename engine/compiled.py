"""Where compiled code is kept between runs: in a folder named after all of engine's sources.

Numba looks only at the file of the outermost function: a change in a file that it calls would go unseen and stale
code would run.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
IMPORTS = re.compile(r"^(?:from engine import (.+)|from engine\.(\w+) import|import engine\.(\w+))", re.MULTILINE)


def choose_cache() -> None:
    """Set NUMBA_CACHE_DIR for this process and its children."""
    digest = hashlib.blake2b(digest_size=6)
    for source in sorted(HERE.glob("*.py")):
        digest.update(source.read_bytes())
    tag = f"ptsweep-{digest.hexdigest()}"
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        base = Path(given).parent if Path(given).name.startswith("ptsweep-") else Path(given)
    elif os.access(HERE, os.W_OK):
        base = HERE / "__pycache__"
    else:
        base = Path(tempfile.gettempdir()) / f"ptsweep-numba-{os.getuid()}"
    os.environ["NUMBA_CACHE_DIR"] = str(base / tag)
    if "numba" in sys.modules:  # it has read its environment already
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


def cache_folder() -> Path:
    return Path(os.environ["NUMBA_CACHE_DIR"])


def is_cold() -> bool:
    """No kernel compiled yet: the first batch will compile, once, for some seconds."""
    return not any(cache_folder().glob("*.o"))


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What `make` makes. One process of a machine makes it and keeps it in the file; the others wait and read that."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # no folder, no cache: each makes its own
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                fcntl.flock(held.enter_context(path.with_name(f"{path.name}.lock").open("w")), fcntl.LOCK_EX)
            return path.read_bytes()
        made = make()
        with contextlib.suppress(OSError):
            whole = path.with_name(f"{path.name}.{os.getpid()}")
            whole.write_bytes(made)
            whole.replace(path)
        return made


def sources_of(module: str) -> list[Path]:
    """The files of a module of engine and of all of engine that it imports, in order."""
    found, todo = set[str](), {module.removeprefix("engine.")}
    while todo:
        name = todo.pop()
        found.add(name)
        for several, *one in IMPORTS.findall((HERE / f"{name}.py").read_text()):
            names = re.findall(r"(\w+)(?: as \w+)?", several) if several else filter(None, one)
            todo |= set(names) - found
    return [HERE / f"{name}.py" for name in sorted(found)]
