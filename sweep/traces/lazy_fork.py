"""A fork whose copy is made when parent or child changes first: most children only execute another program."""

from typing import Any


class LazyFork:
    """One of several address spaces of a class, each of which may still have to be copied from its parent."""

    def __init__(self) -> None:
        self._source: Any = None  # the parent that this is to be copied from before either changes
        self._copies: list[Any] = []  # children whose `_source` this is

    def _copy_from(self, source: Any) -> None:
        """Take over the state of the parent, which is settled."""
        raise NotImplementedError

    def _copy_later(self, child: "LazyFork") -> None:
        child._source = self
        self._copies.append(child)

    def _settle(self) -> None:
        """Make the copies that are still due: this one's own, and those of its children."""
        if self._source is not None:
            source, self._source = self._source, None
            source._copies.remove(self)
            if source._source is not None:
                source._settle()
            self._copy_from(source)
        for child in list(self._copies):
            child._settle()

    def _leave(self) -> None:
        """End a child that was never copied from its parent: it executed or ended before either changed.

        Children that were to copy from it copy from its parent.
        """
        assert self._source is not None
        self._source._copies.remove(self)
        for child in self._copies:
            child._source = self._source
            self._source._copies.append(child)
        self._copies.clear()
