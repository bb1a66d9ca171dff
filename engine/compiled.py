"""Where compiled kernels are kept between runs.

Numba looks only at the file of the outermost function: a change in a file that it calls would go unseen and stale
code would run. So the cache's folder is named after all of engine's sources.
"""

import hashlib
import os
import sys
import tempfile
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
