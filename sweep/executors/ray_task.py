"""What a Ray task runs. Sent whole, by value (`pack`): a worker may have no ptsweep of its own, or another one.

So its arguments are bytes and text, and nothing of ours is imported before it is known to be the driver's version.
"""

import hashlib
import pickle
import platform
import sys
import time
from pathlib import Path
from typing import Any

WRONG = "another ptsweep on Ray's workers"


def pack(ray: Any) -> Any:
    """The task, for `remote`."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray.remote(max_retries=0, num_cpus=1)(run)


def fingerprint() -> str:
    """Of our sources that this process loads: what makes the rows."""
    import engine
    import sweep

    digest = hashlib.blake2b(digest_size=16)
    for package in (engine, sweep):
        for source in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def run(code: str, notes: bytes, runner: str, packed: bytes) -> Any:
    """A pickled batch, as Done; for the numbers of kernels: load the engine, and those of them that are compiled.

    A note says where a batch runs, and since when: 0 while it waits for the compiler.
    """
    import engine

    if vars(engine).get("checked") != code:
        if fingerprint() != code:
            place = f"{platform.node()} loads {engine.__path__[0]}"
            raise RuntimeError(f"{WRONG}: {place}, which is not this version's; remove it, or install this version")
        vars(engine)["checked"] = code
    from ray import get_runtime_context
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    from sweep.executors.base import run_batch, warm

    batch = pickle.loads(packed)
    if isinstance(batch, tuple):
        return warm(runner, batch)
    node = f"{platform.node()}/{get_runtime_context().get_node_id()[:8]}"
    note = notes + str(batch.number).encode()

    def noted(began: float) -> None:
        _internal_kv_put(note, f"{node} {began}".encode(), overwrite=True)

    noted(0)
    done = run_batch(batch, lambda: noted(time.time()), node)
    _internal_kv_del(note)
    return done
