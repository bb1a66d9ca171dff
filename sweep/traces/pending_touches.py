"""`--touch all`: the pages of the last call count as written before the next one changes anything."""

from collections.abc import Iterable

from engine.traces.replay import Replay
from engine.traces.vmas import Piece

_MAPS = ("mmap", "mremap", "mprotect")
"""Calls after which a program may touch what they mapped. After a zap it may too, but the end is right after it."""


class PendingTouches:
    """What of an address space may not have been written yet. Every other mapped page has been.

    A zap is applied together with the touches that follow it: mostly they only change what is counted.
    """

    def __init__(self, state: Replay, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """`ranges`: those of the last call, in bytes."""
        self._state = state
        self._ranges = list(ranges)
        self._zap: tuple[str, list[Piece]] | None = None
        self._last_op = ""

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def add(self, op: str, start: int, end: int) -> None:
        """The call `op` mapped [start, end), or gave a right to it."""
        self._last_op = op
        self._ranges.append((start, end))

    def add_zap(self, op: str, start: int, end: int, pieces: list[Piece]) -> None:
        """Apply a zap of the pieces, the mapped parts of [start, end), later. Nothing else may be pending."""
        self._last_op, self._zap = op, (op, pieces)
        self._ranges.append((start, end))

    def note(self, op: str) -> None:
        """A call was applied after which there is nothing to touch."""
        self._last_op = op

    def apply_zap(self) -> None:
        """Apply the zap that is pending. Its range stays untouched."""
        if self._zap is not None:
            op, pieces = self._zap
            self._zap = None
            self._state.zap(op, pieces)
            self._state.end_operation()

    def touch(self) -> None:
        """Write all pages of the last call."""
        if self._zap is not None:
            op, pieces = self._zap
            self._zap = None
            self._state.zap_and_touch(op, pieces)
        else:
            for start, end in self._ranges:
                self._state.touch_all(start, end)
        self._ranges.clear()

    def finish(self) -> bool:
        """Apply what is due at the end of a process that touches all pages.

        The end is after it touched what its last call mapped, and right after a last call that zapped. Returns whether
        pages of that call are left to `touch`: they count for the maximum only.
        """
        self.apply_zap()
        if self._last_op in _MAPS:
            self.touch()
        return bool(self._ranges)
