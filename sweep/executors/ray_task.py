"""The function that a Ray task runs. It is sent by value (`pack`): a worker may lack ptsweep or have another version.

So its arguments are bytes and text, and it imports nothing of ours before it has compared versions.
"""

import hashlib
import pickle
import platform
import sys
import time
from pathlib import Path
from typing import Any

WRONG_VERSION = "another ptsweep on Ray's workers"


def pack(ray: Any) -> Any:
    """`run` as a Ray remote function."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray.remote(max_retries=0, num_cpus=1)(run)


def fingerprint() -> str:
    """A hash of all source files of engine and sweep as this process imports them."""
    import engine
    import sweep

    digest = hashlib.blake2b(digest_size=16)
    for package in (engine, sweep):
        for source in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def run(driver_fingerprint: str, note_prefix: bytes, number: int, runner: str, pickled: bytes, shared: bytes) -> bytes:
    """Run a pickled batch and return its pickled Done; given a pickled tuple of pass numbers, only load the engine.

    Anything else that was pickled is called with a function to call when its work begins, the name of this node, and
    `shared`, the data that all tasks of a launch have in common. What it returns is pickled.

    While this runs, a note under note_prefix + number holds "NODE START", where START is the time in seconds since the
    epoch, or 0 before the batch's time has started. Raises RuntimeError if this worker imports another version.
    """
    from ray import get_runtime_context
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    node = f"{platform.node()}/{get_runtime_context().get_node_id()[:8]}"
    key = note_prefix + str(number).encode()

    def write_note(start: float) -> None:
        _internal_kv_put(key, f"{node} {start}".encode(), overwrite=True)

    write_note(0)
    _check_version(driver_fingerprint)
    from sweep.executors.base import Batch
    from sweep.executors.worker import load_engine, run_batch

    given = pickle.loads(pickled)
    if isinstance(given, tuple):
        load_engine(runner, given)
        done = None
    elif isinstance(given, Batch):
        done = run_batch(given, lambda: write_note(time.time()), node)
    else:
        done = given(lambda: write_note(time.time()), node, shared)
    _internal_kv_del(key)
    return pickle.dumps(done)


def _check_version(driver_fingerprint: str) -> None:
    """Raise RuntimeError if this worker imports another version than the driver. Once per worker."""
    import engine

    if vars(engine).get("checked_fingerprint") == driver_fingerprint:
        return
    if fingerprint() != driver_fingerprint:
        place = f"{platform.node()} loads {engine.__path__[0]}"
        raise RuntimeError(f"{WRONG_VERSION}: {place}, which is not this version's; remove it, or install this version")
    vars(engine)["checked_fingerprint"] = driver_fingerprint
