"""Where compiled kernels are kept between runs.

Numba looks only at the file of the outermost function: a change in a file that it calls would go unseen and stale
code would run. So the cache's folder is named after all of engine's sources.
"""

import contextlib
import fcntl
import gc
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


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


def is_cold() -> bool:
    """Nothing compiled yet: the first batch will compile, once, for some seconds."""
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    return not any(folder.rglob("*.walk*.nbc"))


def is_compiled(name: str) -> bool:
    """Whether some process of this machine has compiled a kernel and kept it."""
    mark = _mark(name)
    return mark.exists() and mark.stat().st_size > 0


def _mark(name: str) -> Path:
    return Path(os.environ["NUMBA_CACHE_DIR"], f"{name}.once")


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Around a kernel's first call: one process of a machine compiles it, the others wait and find it.

    What compiling makes stays, so nothing looks for garbage meanwhile.
    """
    looks = gc.isenabled()
    with _alone(_mark(name)):
        gc.disable()
        try:
            yield
        finally:
            if looks:
                gc.enable()


@contextlib.contextmanager
def _alone(done: Path) -> Iterator[None]:
    """Nobody else is within, until somebody has been: from then on the file has something in it."""
    with contextlib.ExitStack() as held:
        mark = None
        with contextlib.suppress(OSError):  # no folder, no cache: each makes its own
            done.parent.mkdir(parents=True, exist_ok=True)
            mark = held.enter_context(done.open("a"))
            if not os.fstat(mark.fileno()).st_size:
                fcntl.flock(mark, fcntl.LOCK_EX)
            if os.fstat(mark.fileno()).st_size:  # somebody has been meanwhile
                fcntl.flock(mark, fcntl.LOCK_UN)
        yield
        with contextlib.suppress(OSError):
            if mark is not None and not os.fstat(mark.fileno()).st_size:
                mark.write("compiled\n")
                mark.flush()
