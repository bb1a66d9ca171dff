"""Is the cluster there, who is in it, which batch runs where: asked so that an answer that never comes blocks nobody.

Ray ends the process of a driver whose head has not answered for a minute, with an exit code of its own.
"""

import contextlib
import threading
import time
from collections.abc import Callable

WATCH_S, ASK_S = 2.0, 2.0
GONE_S, GONE_TICKS = 20.0, 40


class Watch:
    """Asks in a thread who is in the cluster, as the answer may never come: nodes, CPUs, and whether we are in it."""

    def __init__(self, notes: bytes) -> None:
        import ray

        self.cpus, self.names = 0, dict[str, str]()
        self._heard, self._ticks = time.monotonic(), 0
        self._notes, self._end = notes, threading.Event()
        self._own: str = ray.get_runtime_context().get_node_id()
        self._ask()
        threading.Thread(target=self._live, daemon=True).start()

    def is_gone(self) -> bool:
        """No answer for long, though asked often: a driver that was stopped for a while has not asked."""
        self._ticks += 1
        return self._ticks > GONE_TICKS and time.monotonic() - self._heard > GONE_S

    def noted(self, number: int) -> str:
        """What a batch noted when it began, if Ray still knows."""
        from ray.experimental.internal_kv import _internal_kv_get

        found: list[bytes | None] = []
        _within(ASK_S, lambda: found.append(_internal_kv_get(self._notes + str(number).encode())))
        return (found[0] or b"").decode() if found else ""

    def stop(self) -> None:
        """Ends the thread, and removes what lost batches noted."""
        from ray.experimental.internal_kv import _internal_kv_del

        self._end.set()
        _within(ASK_S, lambda: _internal_kv_del(self._notes, del_by_prefix=True))

    def _live(self) -> None:
        while not self._end.wait(WATCH_S):
            with contextlib.suppress(Exception):
                self._ask()

    def _ask(self) -> None:
        import ray

        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self.names |= {name: f"{node['NodeManagerHostname']}/{name[:8]}" for name, node in alive.items()}
        self.cpus = int(sum(node["Resources"].get("CPU", 0) for node in alive.values()))
        if self._own in alive:
            self._heard, self._ticks = time.monotonic(), 0


def _within(seconds: float, ask: Callable[[], object]) -> None:
    """Ask what may never be answered, and stop waiting then: Ray blocks for a minute on a head that is gone."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            ask()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)
